// AMX: one instruction multiplies a tile of 16 vectors × 64 activations of eight bits by a tile of 64 weights × 16
// rows, and adds to 16 × 16 sums. A group's planes are two such products, as exact as any other way. All else, and few
// vectors, is AVX-512 VNNI, which every processor with AMX has.
//
// tiles.h has the instructions. With SMOLLM_EMULATE_TILES they are plain C, with SMOLLM_EMULATE those of AVX-512 VNNI.
#define SM_VARIANT "amx"
#define SM_TILES   1
#define SM_TOKENS  16
// A group of a block, in cycles: some 80 to unpack and, by VNNI, 36 a vector; by tiles 12 a vector, and some 65 to lay
// weights aside, load them as tiles and wait for the first product
#define SM_FEW 3
#include "dot_avx512.h"
