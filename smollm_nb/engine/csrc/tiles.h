// The tile instructions of AMX: eight tiles of at most 16 rows × 64 bytes, whose shapes a thread loads before it uses
// them. While it has any, the system saves 8 kB whenever the thread makes way for another, so they are released soon.
#ifndef SM_TILES_H
#define SM_TILES_H

#include "vec.h"

typedef struct { // as the processor reads it
    uint8_t palette, start, zero[14];
    uint16_t bytes[16]; // of a row, for each tile
    uint8_t rows[16];
} sm_tile_shapes;
_Static_assert(sizeof(sm_tile_shapes) == 64, "the processor reads 64 bytes");

// Numbers of tiles are constants.
//   sm_tile_shape(shapes), sm_tile_shape_now(shapes), sm_tile_release()
//   sm_tile_zero(tile), sm_tile_load(tile, from, stride), sm_tile_store(tile, to, stride)  stride: bytes between rows
//   sm_tile_dot(sum, a, w)  sum[t][r] += Σ a[t][4i+k]·w[i][4r+k]; a signed and w unsigned bytes, sum 32 bits
#ifdef SMOLLM_EMULATE_TILES
#include "tiles_emulated.h"
#else
#include <immintrin.h>
// What is in memory must be there: compilers have been known to keep the shapes in registers
#define sm_tile_shape(shapes)            __asm__ volatile("ldtilecfg %0" : : "m"(*(shapes)) : "memory")
#define sm_tile_shape_now(shapes)        __asm__ volatile("sttilecfg %0" : "=m"(*(shapes)) : : "memory")
#define sm_tile_release()                _tile_release()
#define sm_tile_zero(tile)               _tile_zero(tile)
#define sm_tile_load(tile, from, stride) _tile_loadd(tile, from, stride)
#define sm_tile_store(tile, to, stride)  _tile_stored(tile, to, stride)
#define sm_tile_dot(sum, a, w)           _tile_dpbsud(sum, a, w)
#endif

#endif
