// WASM simd128: i32x4.dot_i16x8_s multiplies pairs, i8x16.swizzle is the code book. Of the relaxed instructions, in which engines
// differ, only the swizzle is used: with an index below 16 it has one result, and it is one instruction where the other is three.
#include <wasm_simd128.h>
#if defined(__wasm_relaxed_simd__)
#define SM_LOOKUP wasm_i8x16_relaxed_swizzle // indices below 16
#define SM_SIMD "relaxed"
#else
#define SM_LOOKUP wasm_i8x16_swizzle
#define SM_SIMD "simd128"
#endif
#if defined(__wasm_atomics__)
#define SM_VARIANT SM_SIMD "-threads"
#else
#define SM_VARIANT SM_SIMD
#endif
#define SM_QUADS 0
#define SM_BIAS 128
#define SM_TOKENS 2

#define SM_QUARTER(x, k) __builtin_shufflevector((i32x16)(x), (i32x16)(x), 4*k, 4*k + 1, 4*k + 2, 4*k + 3)
#define SM_JOIN2(a, b) __builtin_shufflevector((i32x8)(a), (i32x8)(b), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define SM_JOIN4(a, b, c, d) SM_JOIN2(__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7), __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7))
typedef int32_t sm_i32x4 __attribute__((vector_size(16)));

// Engines make a constant anew wherever it stands; one that the compiler cannot see through stays in a register: 7 % more tokens a second
SM_INLINE sm_i32x4 sm_kept(v128_t x) { __asm__("" : "+r"(x)); return (sm_i32x4)x; }
SM_INLINE u8x64 sm_low_bits(void) { const sm_i32x4 x = sm_kept(wasm_i8x16_splat(15)); return (u8x64)SM_JOIN4(x, x, x, x); }
SM_INLINE u16x32 sm_low_byte(void) { const sm_i32x4 x = sm_kept(wasm_i16x8_splat(255)); return (u16x32)SM_JOIN4(x, x, x, x); }
#define SM_LOW_BITS sm_low_bits()
#define SM_LOW_BYTE sm_low_byte()

SM_INLINE u8x64 sm_lookup(u8x64 table, u8x64 index) {
    const v128_t t = (v128_t)SM_QUARTER(table, 0);
#define SM_BYTES(k) (sm_i32x4)SM_LOOKUP(t, (v128_t)SM_QUARTER(index, k))
    return (u8x64)SM_JOIN4(SM_BYTES(0), SM_BYTES(1), SM_BYTES(2), SM_BYTES(3));
#undef SM_BYTES
}

SM_INLINE f32x16 sm_lookup_float(const float *table, i32x16 j) { // by the bytes of the floats: four entries at a time
    const i32x16 at = j*0x04040404 + 0x03020100;
    u8x64 out = {0};
    for (int k = 0; k < 4; k++) { // swizzle gives 0 where an index is past the sixteen bytes it looks into
        const v128_t t = wasm_v128_load(table + 4*k);
        const u8x64 from = (u8x64)at - (uint8_t)(16*k);
#define SM_BYTES(q) (sm_i32x4)wasm_i8x16_swizzle(t, (v128_t)SM_QUARTER(from, q))
        out |= (u8x64)SM_JOIN4(SM_BYTES(0), SM_BYTES(1), SM_BYTES(2), SM_BYTES(3));
#undef SM_BYTES
    }
    return (f32x16)out;
}

SM_INLINE i32x16 sm_pairs(i32x16 acc, i16x32 w, i32x16 pair) {
#define SM_MADD(k) (sm_i32x4)wasm_i32x4_dot_i16x8((v128_t)SM_QUARTER(w, k), (v128_t)SM_QUARTER(pair, k))
    return sm_addi(acc, SM_JOIN4(SM_MADD(0), SM_MADD(1), SM_MADD(2), SM_MADD(3)));
#undef SM_MADD
}

// table[at[i]]; at (16). A table of all 256 scales makes 10 % more tokens a second than a lookup and arithmetic
SM_INLINE f32x16 sm_gather(const float *table, const uint8_t *at) {
#define SM_FOUR(k) (sm_i32x4)wasm_v128_load32_lane(table + at[4*k + 3], wasm_v128_load32_lane(table + at[4*k + 2], \
    wasm_v128_load32_lane(table + at[4*k + 1], wasm_v128_load32_zero(table + at[4*k]), 1), 2), 3)
    return (f32x16)SM_JOIN4(SM_FOUR(0), SM_FOUR(1), SM_FOUR(2), SM_FOUR(3));
#undef SM_FOUR
}
