// exp, log, sine and cosine from additions and multiplications in a fixed order. Every target's own library rounds its
// last bit in its own way; these do not.
#ifndef SM_FIXEDMATH_H
#define SM_FIXEDMATH_H

#include "vec.h"

// e^x by lane, within 1.5 units of the last place; exactly 1 at 0, exactly 0 below -87, at most e^88
SM_INLINE f32x16 sm_exp(f32x16 x) {
    const i32x16 zero = x < -87.0f;
    x = sm_select(x > 88.0f, sm_set1(88.0f), sm_select(zero, sm_set1(-87.0f), x));
    const i32x16 n = sm_round(x * 1.44269504f);
    const f32x16 f = sm_float(n), r = (x - f * 0x1.62ep-1f) - f * 0x1.0bfbe8p-15f; // x - n·ln 2, ln 2 in two pieces
    f32x16 p = sm_set1(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (f32x16)(~zero & (i32x16)(p * (f32x16)((n + 127) << 23)));
}

SM_INLINE double sm_from_bits(uint64_t bits) {
    union {
        uint64_t u;
        double d;
    } x = {.u = bits};
    return x.d;
}
SM_INLINE uint64_t sm_to_bits(double d) {
    union {
        double d;
        uint64_t u;
    } x = {.d = d};
    return x.u;
}

#define SM_LN2_HI 0x1.62e42feep-1 // ln 2 in two pieces, the first of 32 bits
#define SM_LN2_LO 0x1.a39ef35793c76p-33
#define SM_SHIFT  6755399441055744.0 // 1.5·2^52: adding and taking it away rounds to an integer

// e^x within a unit of the last place; 0 below -700, at most e^700
SM_INLINE double sm_exp_double(double x) {
    if (!(x > -700)) return 0; // NaN too
    if (x > 700) x = 700;
    const double n = (x * 0x1.71547652b82fep+0 + SM_SHIFT) - SM_SHIFT, r = (x - n * SM_LN2_HI) - n * SM_LN2_LO;
    double p = 1.0 / 6227020800; // 1/13!
    static const double c[] = {479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2};
    for (int i = 0; i < 11; i++) p = p * r + 1 / c[i];
    return (1 + (r + r * r * p)) * sm_from_bits((uint64_t)(1023 + (int64_t)n) << 52);
}

// The same by lane, to the bit
SM_INLINE f64x8 sm_exp8(f64x8 x) {
    const i64x8 in_range = x > -700.0;
    x = (f64x8)(in_range & (i64x8)x);
    x = sm_select8(x > 700.0, (f64x8){0} + 700.0, x);
    const f64x8 shifted = x * 0x1.71547652b82fep+0 + SM_SHIFT, n = shifted - SM_SHIFT,
                r = (x - n * SM_LN2_HI) - n * SM_LN2_LO;
    f64x8 p = (f64x8){0} + 1.0 / 6227020800;
    static const double c[] = {479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2};
    for (int i = 0; i < 11; i++) p = p * r + 1 / c[i];
    const f64x8 scale = (f64x8)(((u64x8)shifted + 1023) << 52); // n stands in the low bits of what was shifted
    return (f64x8)(in_range & (i64x8)((1 + (r + r * r * p)) * scale));
}

// Natural logarithm of a normal positive number: m·2^e, log m = 2·atanh((m - 1)/(m + 1))
SM_INLINE double sm_log_double(double x) {
    const uint64_t bits = sm_to_bits(x);
    int64_t e = (int64_t)(bits >> 52) - 1023;
    double m = sm_from_bits((bits & 0xfffffffffffff) | 0x3ff0000000000000);
    if (m > 1.41421356237309515) m *= 0.5, e++;
    const double s = (m - 1) / (m + 1), z = s * s;
    double p = 0;
    for (int k = 25; k >= 1; k -= 2) p = p * z + 2.0 / k;
    return (double)e * SM_LN2_HI + ((double)e * SM_LN2_LO + s * p);
}

// Sine and cosine of an angle in 0..2^20, within a unit of the last place of a double near ±1
SM_INLINE void sm_sincos(double x, double *sine, double *cosine) {
    const double n = (x * 0x1.45f306dc9c883p-1 + SM_SHIFT) - SM_SHIFT; // quarter turns
    const double r = ((x - n * 0x1.921fb544p+0) - n * 0x1.0b4611a6p-34) - n * 0x1.3198a2e037073p-69,
                 z = r * r; // π/2 in three pieces
    static const double odd[] = {-1.0 / 1307674368000, 1.0 / 6227020800, -1.0 / 39916800, 1.0 / 362880,
                                 -1.0 / 5040,          1.0 / 120,        -1.0 / 6};
    static const double even[] = {1.0 / 20922789888000, -1.0 / 87178291200, 1.0 / 479001600, -1.0 / 3628800,
                                  1.0 / 40320,          -1.0 / 720,         1.0 / 24};
    double s = 0, c = 0;
    for (int i = 0; i < 7; i++) s = s * z + odd[i], c = c * z + even[i];
    s = r + r * (z * s);
    c = 1 + z * (z * c - 0.5);
    const int64_t quadrant = (int64_t)n & 3;
    *sine = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
    *cosine = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
}

#endif
