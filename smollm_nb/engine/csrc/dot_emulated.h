// The operations of dot.h in plain C: the plain variant, and the AVX-512 variant where it is emulated.
#ifndef SM_DOT_EMULATED_H
#define SM_DOT_EMULATED_H

SM_INLINE u8x64 sm_lookup(u8x64 table, u8x64 index) {
    u8x64 out;
    for (int i = 0; i < 64; i++) out[i] = table[index[i] & 15];
    return out;
}

SM_INLINE f32x16 sm_lookup_float(const float *table, i32x16 j) {
    f32x16 out;
    for (int i = 0; i < 16; i++) out[i] = table[j[i]];
    return out;
}

SM_INLINE i32x16 sm_pairs(i32x16 acc, i16x32 w, i32x16 pair) {
    for (int i = 0; i < 16; i++) {
        const int32_t low = (int16_t)(pair[i] & 0xffff), high = pair[i] >> 16;
        acc[i] = (int32_t)((uint32_t)acc[i] + (uint32_t)(w[2 * i] * low) + (uint32_t)(w[2 * i + 1] * high));
    }
    return acc;
}

#endif
