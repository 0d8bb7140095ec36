// Integer dot products of 16 rows of weights with one vector of activations: the only part of the kernel that knows an
// instruction set. Everything is exact, so every variant gives the same integers.
//
// Activations are 16-bit integers, |a| ≤ SM_AMAX. Instruction sets offer two ways to multiply them by 8-bit weights:
//   pairs: weights are widened to 16 bits, and each lane adds two products of 16 × 16 bits (SSE2, AVX2, NEON, WASM)
//   quads: activations are two planes of 8 bits, a = 256·hi + lo, and each lane adds four products of 8 × 8 bits
//          into one sum a plane (AVX-512 VNNI, AMX, NEON dotprod)
// Four activations take two 32-bit words either way: pairs side by side, quads in two planes of a group each. Where
// weights must be unsigned (pairs take their even bytes by a mask, VNNI multiplies u8 by s8), SM_BIAS is added to them,
// and SM_BIAS·Σa is subtracted again, which is computed once a vector.
#ifndef SM_DOT_H
#define SM_DOT_H

#include "vec.h"

enum { SM_AMAX = 32639 }; // 127·256 + 127: both planes stay within ±127

// Each header defines
//   SM_VARIANT, SM_QUADS, SM_BIAS
//   SM_TOKENS      vectors that are multiplied at once by a panel of unpacked weights, at most 8; by tiles 16
//   SM_FEW         optional, at most 8: up to so many vectors take weights from registers, without a panel
//   SM_PREFETCH 0  optional: for one vector, the processor's own prefetcher is better than ours
//   SM_TILES 1     optional: more than SM_FEW vectors are multiplied by the instructions of tiles.h
//
// and these functions:
//
//   u8x64 sm_lookup(u8x64 table, u8x64 index)
//       table[index]; the table's 16 entries are repeated in every 16 bytes
//
//   f32x16 sm_lookup_float(const float *table, i32x16 j)
//       table[j]; table (16)
//
//   i32x16 sm_pairs(i32x16 acc, i16x32 w, i32x16 pair)
//       acc[i] + w[2i]·lo + w[2i+1]·hi, lo and hi the halves of pair[i]
//
//   i32x16 sm_quads(i32x16 acc, u8x64 w, int32_t quad)
//       acc[i] + Σ w[4i+k]·(signed byte k of quad); only where SM_QUADS
#if defined(__AMX_INT8__) || defined(SMOLLM_EMULATE_TILES)
#include "dot_amx.h"
#elif defined(__AVX512VNNI__) || defined(SMOLLM_EMULATE)
#include "dot_avx512.h"
#elif defined(__SSE2__)
#include "dot_x86.h"
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include "dot_neon.h"
#elif defined(__wasm_simd128__)
#include "dot_wasm.h"
#else
#include "dot_plain.h"
#endif
#ifndef SM_FEW
#define SM_FEW 1
#endif
#ifndef SM_PREFETCH
#define SM_PREFETCH 1
#endif
#ifndef SM_TILES
#define SM_TILES 0
#endif
#ifndef SM_NIBBLE_MASK
#define SM_NIBBLE_MASK 15   // of every byte
#define SM_BYTE_MASK   0xff // of every 16 bits
#endif

typedef struct { // one lane a row: pairs {Σ}, quads {Σ hi plane, Σ lo plane}
    i32x16 sum[1 + SM_QUADS];
} sm_acc;

// Sums side by side: a quad's result takes four or five cycles, a pair's addition one
enum { SM_CHAINS = SM_QUADS ? 4 : 1 };
enum { SM_PANEL = SM_QUADS ? 64 : 128 }; // bytes of 16 rows × 4 unpacked weights, as the dot product takes them
enum { SM_TOGETHER = 1 + SM_TILES };     // blocks of rows that are multiplied at once
enum {                                   // words of activations
    SM_FOUR = SM_QUADS ? 1 : 2,          // from four of them to the next four
    SM_OTHER = SM_QUADS ? 32 : 1         // from the first word of four to the second
};

// 16 rows × 4 weights as bytes → as the dot product takes them
SM_INLINE void sm_panel_put(uint8_t *panel, u8x64 w) { // (SM_PANEL) bytes, aligned to 64
#if SM_QUADS
    *(u8x64 *)panel = w;
#else
    *(u16x32 *)panel = (u16x32)w & SM_BYTE_MASK; // weights 0 and 2 of each row
    *(u16x32 *)(panel + 64) = (u16x32)w >> 8;    // weights 1 and 3
#endif
}

// acc + 16 rows × 4 weights times 4 activations
SM_INLINE void sm_panel_dot(sm_acc *acc, const uint8_t *panel, const int32_t *word) {
#if SM_QUADS
    acc->sum[0] = sm_quads(acc->sum[0], *(const u8x64 *)panel, word[0]);
    acc->sum[1] = sm_quads(acc->sum[1], *(const u8x64 *)panel, word[SM_OTHER]);
#else
    acc->sum[0] = sm_pairs(acc->sum[0], *(const i16x32 *)panel, sm_set1i(word[0]));
    acc->sum[0] = sm_pairs(acc->sum[0], *(const i16x32 *)(panel + 64), sm_set1i(word[1]));
#endif
}

SM_INLINE void sm_dot4(sm_acc *acc, u8x64 w, const int32_t *word) { // the same from bytes, for one vector
#if SM_QUADS
    acc->sum[0] = sm_quads(acc->sum[0], w, word[0]);
    acc->sum[1] = sm_quads(acc->sum[1], w, word[SM_OTHER]);
#else
    acc->sum[0] = sm_pairs(acc->sum[0], (i16x32)((u16x32)w & SM_BYTE_MASK), sm_set1i(word[0]));
    acc->sum[0] = sm_pairs(acc->sum[0], (i16x32)((u16x32)w >> 8), sm_set1i(word[1]));
#endif
}

SM_INLINE void sm_join(sm_acc *acc, const sm_acc *other) {
    for (int i = 0; i <= SM_QUADS; i++) acc->sum[i] = sm_addi(acc->sum[i], other->sum[i]);
}

SM_INLINE i32x16 sm_total(const sm_acc *acc, int32_t bias) { // bias: -SM_BIAS·Σa
#if SM_QUADS
    return sm_addi((i32x16)((u32x16)acc->sum[0] << 8), sm_addi(acc->sum[1], sm_set1i(bias)));
#else
    return sm_addi(acc->sum[0], sm_set1i(bias));
#endif
}

// Sixteen activations of a group, from the i-th on, go where its words (64) have them
SM_INLINE void sm_pack_activations(int32_t *word, int32_t i, i32x16 a) {
#if SM_QUADS
    const i32x16 hi = (a + 128) >> 8, lo = a - (hi << 8);
    *(i8x16 *)(word + i / 4) = __builtin_convertvector(hi, i8x16);
    *(i8x16 *)(word + i / 4 + SM_OTHER) = __builtin_convertvector(lo, i8x16);
#else
#define SM_EACH4(x, k) __builtin_shufflevector(x, x, k, k, k + 4, k + 4, k + 8, k + 8, k + 12, k + 12)
    const i32x16 low = a & 0xffff;
    const i32x8 even = SM_EACH4(low, 0) | SM_EACH4(a, 2) << 16, odd = SM_EACH4(low, 1) | SM_EACH4(a, 3) << 16;
    *(i32x8 *)(word + i / 2) = __builtin_shufflevector(even, odd, 0, 9, 2, 11, 4, 13, 6, 15);
#undef SM_EACH4
#endif
}

// 32 neighbours → 16 pairs of 16 bits
SM_INLINE i32x16 sm_pair_up(i32x16 a, i32x16 b) { // a: numbers 0..15, b: numbers 16..31
    const i32x16 even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const i32x16 odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return (even & 0xffff) | (i32x16)((u32x16)odd << 16);
}

#endif
