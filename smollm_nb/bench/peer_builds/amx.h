/* Included before everything else when llama.cpp is compiled.
 *
 * GCC 12 takes `_tile_loadconfig(&config)` for an instruction that reads eight bytes of the configuration: the stores
 * to the other 56, the tiles' rows and columns, are optimized away, and the first use of a tile is an illegal
 * instruction. Behind the barrier the compiler must assume that all of it is read.
 *
 * With SMOLLM_NO_AMX the sources see a processor without AMX; -march=native would bring it back whatever is asked for.
 */
#if defined(SMOLLM_NO_AMX)
#undef __AMX_TILE__
#undef __AMX_INT8__
#undef __AMX_BF16__
#elif defined(__AMX_TILE__)
#include <immintrin.h>
static inline void smollm_tile_loadconfig(const void *config) {
    __asm__ volatile("" : : "r"(config) : "memory");
    _tile_loadconfig(config);
}
#define _tile_loadconfig smollm_tile_loadconfig
#endif
