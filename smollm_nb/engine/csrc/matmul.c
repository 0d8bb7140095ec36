// Rows of weights times vectors of activations. Each lane owns a row, so that sums never cross lanes: a group's integers are
// exact, and float sums run over the groups in rising order, sum = sum + dot·(weight scale · activation scale).
#include "model.h"
#include "dot.h"
#ifdef __wasm__
#include "loops_wasm.h"
#endif

enum { AHEAD = 4096 }; // bytes that are asked for before they are needed: a page, since many processors stop at its end by themselves

static const float POWER12[16] = { // 2^(-j/12), the float32 nearest
    0x1p+0f, 0x1.e3437ep-1f, 0x1.c823e0p-1f, 0x1.ae89fap-1f, 0x1.965feap-1f, 0x1.7f910ep-1f,
    0x1.6a09e6p-1f, 0x1.55b810p-1f, 0x1.428a30p-1f, 0x1.306fe0p-1f, 0x1.1f59acp-1f, 0x1.0f38fap-1f};

// Sixteen scales from their bytes: a sign, and a power of 2^(-1/12)
SM_INLINE f32x16 scales_of(const sm_piece *p, i32x16 b) {
    const i32x16 k = b & 127, halvings = (k*43) >> 9; // k/12
    const f32x16 power = (f32x16)((127 - halvings) << 23 | (b & 128) << 24); // ±2^-halvings
    return sm_lookup_float(p->scale12, k - halvings*12)*power;
}

SM_INLINE f32x16 scales16(const sm_piece *p, const uint8_t *code) { // code (16)
#ifdef __wasm__
    return sm_gather(p->scale, code);
#else
    return scales_of(p, __builtin_convertvector(*(const u8x16 *)code, i32x16));
#endif
}

void sm_piece_init(sm_piece *p, const uint8_t *data, int32_t cols) { // data: the packed part, as formats.py lays it out
    const size_t blocks = (size_t)sm_blocks(p->end - p->begin), size = blocks*16*(size_t)cols;
    if (p->format == SM_INT8_ROW) {
        p->codes = data, p->scales = data + size;
        return;
    }
    float base;
    __builtin_memcpy(&base, data, 4);
    for (int j = 0; j < 16; j++) p->scale12[j] = base*POWER12[j];
    for (int i = 0; i < 64; i++) p->book[i] = (uint8_t)(data[16 + i % 16] + SM_BIAS);
#ifdef __wasm__
    for (int i = 0; i < 256; i += 16) sm_store(p->scale + i, scales_of(p, i + (i32x16){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}));
#endif
    p->codes = data + 64, p->scales = data + 64 + size/2;
}

SM_INLINE f32x16 row_scales(const sm_piece *p, int32_t block) { return sm_load((const float *)(const void *)p->scales + (size_t)block*16); }

// ---- one vector: weights go straight from memory into the sums ---------------------------------------------------------
SM_INLINE void dot_int4(sm_acc *acc, const sm_piece *p, const uint8_t *codes, const int32_t *word) { // 16 rows × 8 weights
    const u8x64 b = *(const u8x64 *)codes;
    sm_dot4(acc, sm_lookup(p->book, b & SM_LOW_BITS), word);
    sm_dot4(acc, sm_lookup(p->book, (u8x64)((u16x32)b >> 4) & SM_LOW_BITS), word + 2);
}

SM_INLINE u8x64 raised(const uint8_t *codes) { return *(const u8x64 *)codes ^ SM_BIAS; } // int8 as dot.h takes it: ±128 in two's complement

SM_INLINE void dot_int8(sm_acc *acc, const uint8_t *codes, const int32_t *word) { // 16 rows × 8 weights
    sm_dot4(acc, raised(codes), word);
    sm_dot4(acc, raised(codes + 64), word + 2);
}

// Steps in turn go to different sums where an instruction's result takes long to come; integers add up the same in any order
SM_INLINE i32x16 dot_group(const sm_piece *p, const uint8_t *codes, int32_t steps, const int int4, const int32_t *word, int32_t bias) {
    const size_t step = int4 ? 64 : 128;
#ifdef __wasm__
    if (int4) {
        const sm_acc all = int4_by_one(p->book, codes, steps, word);
        return sm_total(&all, bias);
    }
#endif
    sm_acc acc[SM_CHAINS] = {0};
    for (int32_t s = 0; s < steps; s += SM_CHAINS)
        for (int c = 0; c < SM_CHAINS; c++, codes += step, word += 4) {
            if (SM_ASK) __builtin_prefetch(codes + AHEAD);
            if (int4) dot_int4(&acc[c], p, codes, word);
            else dot_int8(&acc[c], codes, word);
        }
    for (int c = 1; c < SM_CHAINS; c++) sm_join(&acc[0], &acc[c]);
    return sm_total(&acc[0], bias);
}

SM_INLINE f32x16 block_by_vector(const sm_piece *p, int32_t cols, int32_t block, const int int4, const sm_act *act) {
    const size_t groups = (size_t)sm_groups(cols), step = int4 ? 64 : 128;
    const uint8_t *codes = p->codes + (size_t)block*(size_t)cols*(int4 ? 8 : 16);
    f32x16 sum = sm_all(0), weight = int4 ? sm_all(0) : row_scales(p, block);
    for (size_t g = 0; g < groups; g++) {
        const int32_t steps = sm_least(cols - (int32_t)g*SM_GROUP, SM_GROUP)/8;
        const size_t at = g*(size_t)act->room;
        const i32x16 dot = dot_group(p, codes, steps, int4, act->word + at*64, act->bias[at]);
        if (int4) weight = scales16(p, p->scales + ((size_t)block*groups + g)*16);
        sum += sm_float(dot)*(weight*act->scale[at]);
        codes += step*(size_t)steps;
    }
    return sum;
}

// ---- several vectors: weights are unpacked once and used for all ---------------------------------------------------------
SM_INLINE void unpack8(const sm_piece *p, const uint8_t *codes, const int int4, u8x64 w[2]) { // 16 rows × 8 weights as bytes
    if (int4) {
        const u8x64 b = *(const u8x64 *)codes;
        w[0] = sm_lookup(p->book, b & SM_LOW_BITS), w[1] = sm_lookup(p->book, (u8x64)((u16x32)b >> 4) & SM_LOW_BITS);
    } else w[0] = raised(codes), w[1] = raised(codes + 64);
}

// sums + a group's integers times their scales; sum (count, 16)
SM_INLINE void add_group(const sm_acc *acc, const int count, const float *scale, const int32_t *bias, f32x16 weight, float *sum) {
    for (int t = 0; t < count; t++, sum += 16) sm_store(sum, sm_load(sum) + sm_float(sm_total(&acc[t], bias[t]))*(weight*scale[t]));
}

// A few vectors: what is unpacked is used at once, from registers
SM_INLINE void group_by_few(const sm_piece *p, const uint8_t *codes, int32_t steps, const int int4, const int count, const int32_t *word, sm_acc *acc) {
    for (int32_t s = 0; s < steps; s++, codes += int4 ? 64 : 128, word += 4) {
        u8x64 w[2];
        __builtin_prefetch(codes + AHEAD);
        unpack8(p, codes, int4, w);
        for (int t = 0; t < count; t++) sm_dot4(&acc[t], w[0], word + t*64), sm_dot4(&acc[t], w[1], word + t*64 + 2);
    }
}

SM_INLINE void unpack_group(const sm_piece *p, const uint8_t *codes, int32_t steps, const int int4, uint8_t *panel) {
    for (int32_t s = 0; s < steps; s++, codes += int4 ? 64 : 128, panel += 2*SM_PANEL) {
        u8x64 w[2];
        __builtin_prefetch(codes + AHEAD);
        unpack8(p, codes, int4, w);
        sm_panel_put(panel, w[0]), sm_panel_put(panel + SM_PANEL, w[1]);
    }
}

// `count` vectors side by side
SM_INLINE void panel_by_vectors(const uint8_t *panel, int32_t steps, const int count, const int32_t *word, sm_acc *acc) {
#ifdef __wasm__
    if (count == 2) {
        panels_by_two(panel, steps, word, acc);
        return;
    }
#endif
    for (int32_t s = 0; s < 2*steps; s++)
        for (int t = 0; t < count; t++) sm_panel_dot(&acc[t], panel + s*SM_PANEL, word + t*64 + s*2);
}

SM_INLINE void some(const sm_piece *p, const uint8_t *codes, int32_t steps, const int int4, const int count, const int few, const sm_act *act, size_t at,
                    f32x16 weight, float *sum, const uint8_t *panel) {
    sm_acc acc[count];
    for (int t = 0; t < count; t++) acc[t] = (sm_acc){0};
    if (few) group_by_few(p, codes, steps, int4, count, act->word + at*64, acc);
    else panel_by_vectors(panel, steps, count, act->word + at*64, acc);
    add_group(acc, count, act->scale + at, act->bias + at, weight, sum);
}

SM_INLINE void block_by_vectors(const sm_piece *p, int32_t cols, int32_t block, const int int4, const sm_act *act, int32_t n, sm_scratch *own) {
    const size_t groups = (size_t)sm_groups(cols), step = int4 ? 64 : 128;
    const uint8_t *codes = p->codes + (size_t)block*(size_t)cols*(int4 ? 8 : 16);
    const int few = n <= SM_FEW;
    for (int32_t t = 0; t < n; t++) sm_store(own->sums + t*16, sm_all(0));
    f32x16 weight = int4 ? sm_all(0) : row_scales(p, block);
    for (size_t g = 0; g < groups; g++) {
        const int32_t steps = sm_least(cols - (int32_t)g*SM_GROUP, SM_GROUP)/8;
        if (!few) unpack_group(p, codes, steps, int4, own->panel);
        if (int4) weight = scales16(p, p->scales + ((size_t)block*groups + g)*16);
        for (int32_t t = 0, left = n, count; left; t += count, left -= count) {
            const int32_t most = few ? SM_FEW : SM_TOKENS, turns = (left + most - 1)/most;
            count = (left + turns - 1)/turns; // as even as can be: eight are four and four, not six and two
#define SM_SOME(k, few) some(p, codes, steps, int4, k, few, act, g*(size_t)act->room + (size_t)t, weight, own->sums + t*16, own->panel)
#define SM_CASE(k) case k: if (k <= SM_FEW && few) SM_SOME(k, 1); else if (k <= SM_TOKENS) SM_SOME(k, 0); break;
            switch (count) { SM_CASE(1) SM_CASE(2) SM_CASE(3) SM_CASE(4) SM_CASE(5) SM_CASE(6) SM_CASE(7) SM_CASE(8) }
#undef SM_CASE
#undef SM_SOME
        }
        codes += step*(size_t)steps;
    }
}

// ---- both ---------------------------------------------------------------------------------------------------------------
SM_INLINE void put(float *out, f32x16 sum, int32_t rows, const int32_t add) { // the last block of a matrix may lack rows
    if (rows >= SM_ROWS) sm_store(out, add ? sm_load(out) + sum : sum);
    else for (int32_t r = 0; r < rows; r++) out[r] = add ? out[r] + sum[r] : sum[r];
}

// Browsers optimize a function at a time, and one that is short and often called much sooner than one that goes on for long
#if defined(__wasm__)
#define SM_OWN static __attribute__((noinline))
#else
#define SM_OWN SM_INLINE
#endif
SM_OWN void int4_by_vector(const sm_piece *p, int32_t cols, int32_t block, const sm_act *act, f32x16 *sum) { *sum = block_by_vector(p, cols, block, 1, act); }
SM_OWN void int8_by_vector(const sm_piece *p, int32_t cols, int32_t block, const sm_act *act, f32x16 *sum) { *sum = block_by_vector(p, cols, block, 0, act); }
SM_OWN void int4_by_vectors(const sm_piece *p, int32_t cols, int32_t block, const sm_act *act, int32_t n, sm_scratch *own) { block_by_vectors(p, cols, block, 1, act, n, own); }
SM_OWN void int8_by_vectors(const sm_piece *p, int32_t cols, int32_t block, const sm_act *act, int32_t n, sm_scratch *own) { block_by_vectors(p, cols, block, 0, act, n, own); }

SM_INLINE void piece_by_vectors(const sm_piece *p, int32_t cols, int32_t b0, int32_t b1, const int int4, const sm_act *act, int32_t n,
                                float *out, size_t stride, int32_t add, sm_scratch *own) {
    const int32_t rows = p->end - p->begin;
    if (n > 1)
        for (int32_t b = b0; b < b1; b++) {
            if (int4) int4_by_vectors(p, cols, b, act, n, own);
            else int8_by_vectors(p, cols, b, act, n, own);
            for (int32_t t = 0; t < n; t++) put(out + (size_t)t*stride + p->begin + b*16, sm_load(own->sums + t*16), rows - b*16, add);
        }
    else
        for (int32_t b = b0; b < b1; b++) {
            f32x16 sum;
            if (int4) int4_by_vector(p, cols, b, act, &sum);
            else int8_by_vector(p, cols, b, act, &sum);
            put(out + p->begin + b*16, sum, rows - b*16, add);
        }
}

void sm_matmul(const sm_matrix *w, int32_t b0, int32_t b1, const sm_act *act, int32_t n, float *out, size_t stride, int32_t add, sm_scratch *own) {
    for (int32_t i = 0; i < w->pieces; i++) {
        const sm_piece *p = &w->piece[i];
        const int32_t first = p->begin/SM_ROWS, from = b0 > first ? b0 - first : 0, to = sm_least(b1 - first, sm_blocks(p->end - p->begin));
        if (from >= to) continue;
        if (p->format == SM_INT8_ROW) piece_by_vectors(p, w->cols, from, to, 0, act, n, out, stride, add, own);
        else piece_by_vectors(p, w->cols, from, to, 1, act, n, out, stride, add, own);
    }
}

// `n` numbers of one lane, from weight `c` of a block on: n at most a group
static void row_codes(const sm_piece *p, const uint8_t *codes, int32_t lane, int32_t c, int32_t n, float scale, float *out) {
    for (int32_t i = 0; i < n; i++, c++)
        if (p->format == SM_INT8_ROW) out[i] = (float)(int8_t)codes[(c/4)*64 + lane*4 + c % 4]*scale;
        else {
            const uint8_t both = codes[(c/8)*64 + lane*4 + c % 4];
            out[i] = (float)(int8_t)(uint8_t)(p->book[c % 8 < 4 ? both & 15 : both >> 4] - SM_BIAS)*scale;
        }
}

void sm_row(const sm_matrix *w, int32_t row, float *out) {
    const sm_piece *p = w->piece;
    while (row >= p->end) p++;
    const int int4 = p->format == SM_INT4_BOOK_G128;
    const int32_t block = (row - p->begin)/SM_ROWS, lane = (row - p->begin) % SM_ROWS, groups = sm_groups(w->cols);
    const uint8_t *codes = p->codes + (size_t)block*(size_t)w->cols*(int4 ? 8 : 16);
    for (int32_t g = 0; g < groups; g++) {
        const f32x16 scale = int4 ? scales16(p, p->scales + ((size_t)block*(size_t)groups + (size_t)g)*16) : row_scales(p, block);
        const int32_t c = g*SM_GROUP;
        row_codes(p, codes, lane, c, sm_least(w->cols - c, SM_GROUP), scale[lane], out + c);
    }
}
