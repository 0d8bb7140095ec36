// Sixteen lanes at a time, in clang's vector extensions: the same text becomes one zmm, two ymm, four xmm, four q or
// four v128 registers, and since every operation here works lane by lane, the same numbers on all of them.
#ifndef SM_VEC_H
#define SM_VEC_H

#include <stdint.h>

#define SM_INLINE static inline __attribute__((always_inline, unused))
#define SM_SMALL  __attribute__((minsize, noinline)) // code that runs seldom, and is fetched by every browser

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef int16_t i16x32 __attribute__((vector_size(64)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef double f64x8 __attribute__((vector_size(64)));
typedef int64_t i64x8 __attribute__((vector_size(64)));
typedef uint64_t u64x8 __attribute__((vector_size(64)));
typedef f64x8 f64x8_any __attribute__((aligned(8)));   // at any double's address
typedef f32x16 f32x16_any __attribute__((aligned(4))); // at any float's address

SM_INLINE f32x16 sm_load(const float *p) {
    return *(const f32x16_any *)p;
}
SM_INLINE void sm_store(float *p, f32x16 x) {
    *(f32x16_any *)p = x;
}
SM_INLINE f64x8 sm_load8(const double *p) {
    return *(const f64x8_any *)p;
}
SM_INLINE void sm_store8(double *p, f64x8 x) {
    *(f64x8_any *)p = x;
}
SM_INLINE f32x16 sm_set1(float x) {
    return (f32x16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}
SM_INLINE i32x16 sm_set1i(int32_t x) {
    return (i32x16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}
SM_INLINE f32x16 sm_float(i32x16 x) {
    return __builtin_convertvector(x, f32x16);
}
// Wraps where it overflows
SM_INLINE i32x16 sm_addi(i32x16 a, i32x16 b) {
    return (i32x16)((u32x16)a + (u32x16)b);
}

// a where the mask's lane is all ones, b where it is zero
SM_INLINE f32x16 sm_select(i32x16 mask, f32x16 a, f32x16 b) {
    return (f32x16)((mask & (i32x16)a) | (~mask & (i32x16)b));
}
SM_INLINE f64x8 sm_select8(i64x8 mask, f64x8 a, f64x8 b) {
    return (f64x8)((mask & (i64x8)a) | (~mask & (i64x8)b));
}
SM_INLINE f32x16 sm_max(f32x16 a, f32x16 b) {
    return sm_select(a > b, a, b);
}
SM_INLINE f32x16 sm_abs(f32x16 x) {
    return (f32x16)((i32x16)x & 0x7fffffff);
}

// Sixteen lanes to one, always as the same tree: halves onto each other
SM_INLINE float sm_sum16(f32x16 x) {
    float v[16];
    sm_store(v, x);
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) v[i] += v[i + n];
    return v[0];
}

SM_INLINE float sm_max16(f32x16 x) {
    float v[16];
    sm_store(v, x);
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) v[i] = v[i] > v[i + n] ? v[i] : v[i + n];
    return v[0];
}

// The nearest integers, ties to even, for |x| below 2^22: what is added pushes the fraction out of the mantissa
SM_INLINE i32x16 sm_round(f32x16 x) {
    return (i32x16)(x + 12582912.0f) - 0x4b400000;
}

// Positions of a row of 16 as a mask: the lanes below n
SM_INLINE i32x16 sm_below(int32_t n) {
    const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return lane < n;
}

#endif
