// SSE2, SSSE3 and AVX2: pmaddwd multiplies pairs; pshufb, from SSSE3 on, is the code book.
#include <immintrin.h>
#define SM_QUADS 0
#define SM_BIAS 128

#define SM_QUARTER(x, k) __builtin_shufflevector((i32x16)(x), (i32x16)(x), 4*k, 4*k + 1, 4*k + 2, 4*k + 3)
#define SM_HALF(x, k) __builtin_shufflevector((i32x16)(x), (i32x16)(x), 8*k, 8*k + 1, 8*k + 2, 8*k + 3, 8*k + 4, 8*k + 5, 8*k + 6, 8*k + 7)
#define SM_JOIN2(a, b) __builtin_shufflevector((i32x8)(a), (i32x8)(b), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)

#ifdef __AVX2__
#define SM_VARIANT "avx2"
#define SM_TOKENS 5 // ten registers of sums, four of weights, one of activations
#define SM_FEW 8    // even eight, whose sums do not all fit: laying the weights aside costs more

SM_INLINE u8x64 sm_lookup(u8x64 table, u8x64 index) {
    const __m256i t = (__m256i)SM_HALF(table, 0);
    return (u8x64)SM_JOIN2(_mm256_shuffle_epi8(t, (__m256i)SM_HALF(index, 0)), _mm256_shuffle_epi8(t, (__m256i)SM_HALF(index, 1)));
}

SM_INLINE __m256 sm_lookup8(__m256 low, __m256 high, __m256i j) { // entries 0..7 and 8..15
    const __m256 upper = (__m256)_mm256_slli_epi32(j, 28); // bit 3 to the sign, which chooses
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, j), _mm256_permutevar8x32_ps(high, j), upper);
}

SM_INLINE f32x16 sm_lookup_float(const float *table, i32x16 j) {
    const __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
    return (f32x16)SM_JOIN2(sm_lookup8(low, high, (__m256i)SM_HALF(j, 0)), sm_lookup8(low, high, (__m256i)SM_HALF(j, 1)));
}

SM_INLINE i32x16 sm_pairs(i32x16 acc, i16x32 w, i32x16 pair) {
    const __m256i low = _mm256_madd_epi16((__m256i)SM_HALF(w, 0), (__m256i)SM_HALF(pair, 0));
    const __m256i high = _mm256_madd_epi16((__m256i)SM_HALF(w, 1), (__m256i)SM_HALF(pair, 1));
    return sm_addi(acc, SM_JOIN2(low, high));
}

#else // 128 bits
#define SM_TOKENS 2
#define SM_JOIN4(a, b, c, d) SM_JOIN2(__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7), __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7))
typedef int32_t sm_i32x4 __attribute__((vector_size(16)));

SM_INLINE f32x16 sm_lookup_float(const float *table, i32x16 j) {
    f32x16 out;
    for (int i = 0; i < 16; i++) out[i] = table[j[i]];
    return out;
}

SM_INLINE i32x16 sm_pairs(i32x16 acc, i16x32 w, i32x16 pair) {
#define SM_MADD(k) (sm_i32x4)_mm_madd_epi16((__m128i)SM_QUARTER(w, k), (__m128i)SM_QUARTER(pair, k))
    return sm_addi(acc, SM_JOIN4(SM_MADD(0), SM_MADD(1), SM_MADD(2), SM_MADD(3)));
#undef SM_MADD
}

#ifdef __SSSE3__
#define SM_VARIANT "ssse3"
SM_INLINE u8x64 sm_lookup(u8x64 table, u8x64 index) {
    const __m128i t = (__m128i)SM_QUARTER(table, 0);
#define SM_BYTES(k) (sm_i32x4)_mm_shuffle_epi8(t, (__m128i)SM_QUARTER(index, k))
    return (u8x64)SM_JOIN4(SM_BYTES(0), SM_BYTES(1), SM_BYTES(2), SM_BYTES(3));
#undef SM_BYTES
}
#else
#define SM_VARIANT "sse2"
SM_INLINE u8x64 sm_lookup(u8x64 table, u8x64 index) {
    u8x64 out;
    for (int i = 0; i < 64; i++) out[i] = table[index[i]];
    return out;
}
#endif
#endif
