// AVX-512 VNNI: vpdpbusd adds four products of u8 × s8 in one instruction, vpdpwssd two of 16 × 16 bits. With
// SMOLLM_EMULATE the instructions are plain C, so that this path is tested on machines without them.
#ifndef SM_VARIANT // AMX is this as well
#define SM_VARIANT "avx512vnni"
#define SM_TOKENS  8
#define SM_FEW     8
#endif
#define SM_QUADS    1
#define SM_BIAS     128
#define SM_PREFETCH 0

#ifdef SMOLLM_EMULATE
#include "dot_emulated.h"

SM_INLINE i32x16 sm_quads(i32x16 acc, u8x64 w, int32_t quad) {
    for (int i = 0; i < 64; i++)
        acc[i / 4] = (int32_t)((uint32_t)acc[i / 4] + (uint32_t)(w[i] * (int8_t)((uint32_t)quad >> 8 * (i % 4))));
    return acc;
}
#else
#include <immintrin.h>

SM_INLINE u8x64 sm_lookup(u8x64 table, u8x64 index) {
    return (u8x64)_mm512_shuffle_epi8((__m512i)table, (__m512i)index);
}

SM_INLINE f32x16 sm_lookup_float(const float *table, i32x16 j) {
    return (f32x16)_mm512_permutexvar_ps((__m512i)j, _mm512_loadu_ps(table));
}

SM_INLINE i32x16 sm_quads(i32x16 acc, u8x64 w, int32_t quad) {
    return (i32x16)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(quad));
}

SM_INLINE i32x16 sm_pairs(i32x16 acc, i16x32 w, i32x16 pair) {
    return (i32x16)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)w, (__m512i)pair);
}
#endif
