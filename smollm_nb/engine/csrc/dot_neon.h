// NEON: sdot, where the processor has it, adds four products of s8 × s8 (so weights stay signed); smull and a pairwise sum else.
#include <arm_neon.h>
#define SM_TOKENS 4

#define SM_QUARTER(x, k) __builtin_shufflevector((i32x16)(x), (i32x16)(x), 4*k, 4*k + 1, 4*k + 2, 4*k + 3)
#define SM_JOIN2(a, b) __builtin_shufflevector((i32x8)(a), (i32x8)(b), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define SM_JOIN4(a, b, c, d) SM_JOIN2(__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7), __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7))
typedef int32_t sm_i32x4 __attribute__((vector_size(16)));

SM_INLINE u8x64 sm_lookup(u8x64 table, u8x64 index) {
    const uint8x16_t t = (uint8x16_t)SM_QUARTER(table, 0);
#define SM_BYTES(k) (sm_i32x4)vqtbl1q_u8(t, (uint8x16_t)SM_QUARTER(index, k))
    return (u8x64)SM_JOIN4(SM_BYTES(0), SM_BYTES(1), SM_BYTES(2), SM_BYTES(3));
#undef SM_BYTES
}

SM_INLINE f32x16 sm_lookup_float(const float *table, i32x16 j) { // by the bytes of the floats: entry 4j + byte
    const uint8x16x4_t t = vld1q_u8_x4((const uint8_t *)table);
    const i32x16 at = j*0x04040404 + 0x03020100;
#define SM_BYTES(k) (sm_i32x4)vqtbl4q_u8(t, (uint8x16_t)SM_QUARTER(at, k))
    return (f32x16)SM_JOIN4(SM_BYTES(0), SM_BYTES(1), SM_BYTES(2), SM_BYTES(3));
#undef SM_BYTES
}

SM_INLINE int32x4_t sm_madd(int16x8_t a, int16x8_t b) {
    return vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
}

SM_INLINE i32x16 sm_pairs(i32x16 acc, i16x32 w, i32x16 pair) {
#define SM_MADD(k) (sm_i32x4)sm_madd((int16x8_t)SM_QUARTER(w, k), (int16x8_t)SM_QUARTER(pair, k))
    return sm_addi(acc, SM_JOIN4(SM_MADD(0), SM_MADD(1), SM_MADD(2), SM_MADD(3)));
#undef SM_MADD
}

#ifdef __ARM_FEATURE_DOTPROD
#define SM_VARIANT "dotprod"
#define SM_QUADS 1
#define SM_BIAS 0
SM_INLINE i32x16 sm_quads(i32x16 acc, u8x64 w, int32_t quad) {
    const int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(quad));
#define SM_DOT(k) (sm_i32x4)vdotq_s32((int32x4_t)SM_QUARTER(acc, k), (int8x16_t)SM_QUARTER(w, k), a)
    return SM_JOIN4(SM_DOT(0), SM_DOT(1), SM_DOT(2), SM_DOT(3));
#undef SM_DOT
}
#else
#define SM_VARIANT "neon"
#define SM_QUADS 0
#define SM_BIAS 128
#endif
