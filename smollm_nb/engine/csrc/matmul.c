// Rows of weights times vectors of activations. Each lane owns a row, so that sums never cross lanes: a group's
// integers are exact, and float sums run over the groups in rising order, sum = sum + dot·(weight scale · activation
// scale).
#include "model.h"
#include "dot.h"
#ifdef __wasm__
#include "loops_wasm.h"
#endif
#if SM_TILES
#include "tiles.h"
#endif

enum { PREFETCH_BYTES = 4096 }; // prefetch distance: one page, since many hardware prefetchers stop at a page's end

static const float POWER12[16] = {// 2^(-j/12), the float32 nearest
                                  0x1p+0f,        0x1.e3437ep-1f, 0x1.c823e0p-1f, 0x1.ae89fap-1f,
                                  0x1.965feap-1f, 0x1.7f910ep-1f, 0x1.6a09e6p-1f, 0x1.55b810p-1f,
                                  0x1.428a30p-1f, 0x1.306fe0p-1f, 0x1.1f59acp-1f, 0x1.0f38fap-1f};

// Sixteen scales from their bytes: a sign, and a power of 2^(-1/12)
SM_INLINE f32x16 decode_scales(const sm_piece *p, i32x16 b) {
    const i32x16 k = b & 127, halvings = (k * 43) >> 9;                      // k/12
    const f32x16 power = (f32x16)((127 - halvings) << 23 | (b & 128) << 24); // ±2^-halvings
    return sm_lookup_float(p->scale12, k - halvings * 12) * power;
}

SM_INLINE f32x16 decode_scale_codes(const sm_piece *p, const uint8_t *code) { // code (16)
#ifdef __wasm__
    return sm_gather(p->scale, code);
#else
    return decode_scales(p, __builtin_convertvector(*(const u8x16 *)code, i32x16));
#endif
}

// data: the packed part, laid out by engine/formats.py
void sm_piece_init(sm_piece *p, const uint8_t *data, int32_t cols) {
    const size_t blocks = (size_t)sm_blocks(p->end - p->begin), size = blocks * 16 * (size_t)cols;
    if (p->format == SM_INT8_ROW) {
        p->codes = data, p->scales = data + size;
        return;
    }
    float base;
    __builtin_memcpy(&base, data, 4);
    for (int j = 0; j < 16; j++) p->scale12[j] = base * POWER12[j];
    for (int i = 0; i < 64; i++) p->book[i] = (uint8_t)(data[16 + i % 16] + SM_BIAS);
#ifdef __wasm__
    for (int i = 0; i < 256; i += 16)
        sm_store(p->scale + i, decode_scales(p, i + (i32x16){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}));
#endif
    p->codes = data + 64, p->scales = data + 64 + size / 2;
}

SM_INLINE f32x16 row_scales(const sm_piece *p, int32_t block) {
    return sm_load((const float *)(const void *)p->scales + (size_t)block * 16);
}

// ---- one vector: weights go straight from memory into the sums ----
// 16 rows × 8 weights times 8 activations
SM_INLINE void dot_int4(sm_acc *acc, const sm_piece *p, const uint8_t *codes, const int32_t *word) {
    const u8x64 b = *(const u8x64 *)codes;
    sm_dot4(acc, sm_lookup(p->book, b & SM_NIBBLE_MASK), word);
    sm_dot4(acc, sm_lookup(p->book, (u8x64)((u16x32)b >> 4) & SM_NIBBLE_MASK), word + SM_FOUR);
}

// int8 as dot.h takes it: adding 128 flips the sign bit in two's complement
SM_INLINE u8x64 biased(const uint8_t *codes) {
    return *(const u8x64 *)codes ^ SM_BIAS;
}

SM_INLINE void dot_int8(sm_acc *acc, const uint8_t *codes, const int32_t *word) { // 16 rows × 8 weights
    sm_dot4(acc, biased(codes), word);
    sm_dot4(acc, biased(codes + 64), word + SM_FOUR);
}

// Consecutive steps go to different accumulators where the instruction's latency is long; integer sums are exact in any
// order
SM_INLINE i32x16 dot_group(const sm_piece *p, const uint8_t *codes, int32_t steps, const int int4, const int32_t *word,
                           int32_t bias) {
    const size_t step = int4 ? 64 : 128;
#ifdef __wasm__
    if (int4) {
        const sm_acc all = int4_by_one(p->book, codes, steps, word);
        return sm_total(&all, bias);
    }
#endif
    sm_acc acc[SM_CHAINS] = {0};
    for (int32_t s = 0; s < steps; s += SM_CHAINS)
        for (int c = 0; c < SM_CHAINS; c++, codes += step, word += 2 * SM_FOUR) {
            if (SM_PREFETCH) __builtin_prefetch(codes + PREFETCH_BYTES);
            if (int4)
                dot_int4(&acc[c], p, codes, word);
            else
                dot_int8(&acc[c], codes, word);
        }
    for (int c = 1; c < SM_CHAINS; c++) sm_join(&acc[0], &acc[c]);
    return sm_total(&acc[0], bias);
}

SM_INLINE f32x16 block_by_vector(const sm_piece *p, int32_t cols, int32_t block, const int int4, const sm_act *act) {
    const size_t groups = (size_t)sm_groups(cols), step = int4 ? 64 : 128;
    const uint8_t *codes = p->codes + (size_t)block * (size_t)cols * (int4 ? 8 : 16);
    f32x16 sum = sm_set1(0), weight = int4 ? sm_set1(0) : row_scales(p, block);
    for (size_t g = 0; g < groups; g++) {
        const int32_t steps = sm_min(cols - (int32_t)g * SM_GROUP, SM_GROUP) / 8;
        const size_t at = g * (size_t)act->capacity;
        const i32x16 dot = dot_group(p, codes, steps, int4, act->word + at * 64, act->bias[at]);
        if (int4) weight = decode_scale_codes(p, p->scales + ((size_t)block * groups + g) * 16);
        sum += sm_float(dot) * (weight * act->scale[at]);
        codes += step * (size_t)steps;
    }
    return sum;
}

// ---- several vectors: weights are unpacked once and used for all ----
// 16 rows × 8 weights as bytes
SM_INLINE void unpack8(const sm_piece *p, const uint8_t *codes, const int int4, u8x64 w[2]) {
    if (int4) {
        const u8x64 b = *(const u8x64 *)codes;
        w[0] = sm_lookup(p->book, b & SM_NIBBLE_MASK),
        w[1] = sm_lookup(p->book, (u8x64)((u16x32)b >> 4) & SM_NIBBLE_MASK);
    } else
        w[0] = biased(codes), w[1] = biased(codes + 64);
}

// sums + a group's integers times their scales; sum (count, 16)
SM_INLINE void add_group(const sm_acc *acc, const int count, const float *scale, const int32_t *bias, f32x16 weight,
                         float *sum) {
    for (int t = 0; t < count; t++, sum += 16)
        sm_store(sum, sm_load(sum) + sm_float(sm_total(&acc[t], bias[t])) * (weight * scale[t]));
}

// Few vectors: unpacked weights are used at once, from registers
SM_INLINE void group_by_few(const sm_piece *p, const uint8_t *codes, int32_t steps, const int int4, const int count,
                            const int32_t *word, sm_acc *acc) {
    for (int32_t s = 0; s < steps; s++, codes += int4 ? 64 : 128, word += 2 * SM_FOUR) {
        u8x64 w[2];
        __builtin_prefetch(codes + PREFETCH_BYTES);
        unpack8(p, codes, int4, w);
        for (int t = 0; t < count; t++)
            sm_dot4(&acc[t], w[0], word + t * 64), sm_dot4(&acc[t], w[1], word + t * 64 + SM_FOUR);
    }
}

SM_INLINE void unpack_group(const sm_piece *p, const uint8_t *codes, int32_t steps, const int int4, uint8_t *panel) {
    for (int32_t s = 0; s < steps; s++, codes += int4 ? 64 : 128, panel += 2 * SM_PANEL) {
        u8x64 w[2];
        __builtin_prefetch(codes + PREFETCH_BYTES);
        unpack8(p, codes, int4, w);
        sm_panel_put(panel, w[0]), sm_panel_put(panel + SM_PANEL, w[1]);
    }
}

// `count` vectors side by side
SM_INLINE void panel_by_vectors(const uint8_t *panel, int32_t steps, const int count, const int32_t *word,
                                sm_acc *acc) {
#ifdef __wasm__
    if (count == 2) {
        panels_by_two(panel, steps, word, acc);
        return;
    }
#endif
    for (int32_t s = 0; s < 2 * steps; s++)
        for (int t = 0; t < count; t++) sm_panel_dot(&acc[t], panel + s * SM_PANEL, word + t * 64 + s * SM_FOUR);
}

typedef struct { // one group of one block of weights, and the vectors that it is multiplied by
    const sm_piece *p;
    const uint8_t *codes, *panel; // packed weights; the same unpacked, where there are many vectors
    int32_t steps;
    f32x16 weight; // scales of the rows
    const sm_act *act;
    size_t at;   // index of the group's first vector in act
    float *sums; // (vectors, 16)
} sm_group;

// `count` vectors from t on, `count` and `int4` constants. Not more than SM_FEW: weights straight from registers
SM_INLINE void few_vectors(const sm_group *g, int32_t t, const int int4, const int count) {
    if (count > SM_FEW) return;
    sm_acc acc[count];
    const size_t at = g->at + (size_t)t;
    for (int i = 0; i < count; i++) acc[i] = (sm_acc){0};
    group_by_few(g->p, g->codes, g->steps, int4, count, g->act->word + at * 64, acc);
    add_group(acc, count, g->act->scale + at, g->act->bias + at, g->weight, g->sums + t * 16);
}

// The same from unpacked weights, not more than SM_TOKENS
SM_INLINE void many_vectors(const sm_group *g, int32_t t, const int count) {
    if (count > SM_TOKENS) return;
    sm_acc acc[count];
    const size_t at = g->at + (size_t)t;
    for (int i = 0; i < count; i++) acc[i] = (sm_acc){0};
    panel_by_vectors(g->panel, g->steps, count, g->act->word + at * 64, acc);
    add_group(acc, count, g->act->scale + at, g->act->bias + at, g->weight, g->sums + t * 16);
}

// Number of vectors as a constant, so that their accumulators stay in registers
SM_INLINE void few_by_count(const sm_group *g, int32_t t, const int int4, int32_t count) {
    switch (count) {
    case 1:
        few_vectors(g, t, int4, 1);
        break;
    case 2:
        few_vectors(g, t, int4, 2);
        break;
    case 3:
        few_vectors(g, t, int4, 3);
        break;
    case 4:
        few_vectors(g, t, int4, 4);
        break;
    case 5:
        few_vectors(g, t, int4, 5);
        break;
    case 6:
        few_vectors(g, t, int4, 6);
        break;
    case 7:
        few_vectors(g, t, int4, 7);
        break;
    case 8:
        few_vectors(g, t, int4, 8);
        break;
    }
}

SM_INLINE void many_by_count(const sm_group *g, int32_t t, int32_t count) {
    switch (count) {
    case 1:
        many_vectors(g, t, 1);
        break;
    case 2:
        many_vectors(g, t, 2);
        break;
    case 3:
        many_vectors(g, t, 3);
        break;
    case 4:
        many_vectors(g, t, 4);
        break;
    case 5:
        many_vectors(g, t, 5);
        break;
    case 6:
        many_vectors(g, t, 6);
        break;
    case 7:
        many_vectors(g, t, 7);
        break;
    case 8:
        many_vectors(g, t, 8);
        break;
    }
}

SM_INLINE void block_by_vectors(const sm_piece *p, int32_t cols, int32_t block, const int int4, const sm_act *act,
                                int32_t n, sm_scratch *own) {
    const size_t groups = (size_t)sm_groups(cols), step = int4 ? 64 : 128;
    const int32_t few = n <= SM_FEW, most = few ? SM_FEW : SM_TOKENS;
    sm_group g = {.p = p, .panel = own->panel, .act = act, .sums = own->sums};
    g.codes = p->codes + (size_t)block * (size_t)cols * (int4 ? 8 : 16);
    g.weight = int4 ? sm_set1(0) : row_scales(p, block);
    for (int32_t t = 0; t < n; t++) sm_store(own->sums + t * 16, sm_set1(0));
    for (size_t i = 0; i < groups; i++) {
        g.steps = sm_min(cols - (int32_t)i * SM_GROUP, SM_GROUP) / 8;
        g.at = i * (size_t)act->capacity;
        if (!few) unpack_group(p, g.codes, g.steps, int4, own->panel);
        if (int4) g.weight = decode_scale_codes(p, p->scales + ((size_t)block * groups + i) * 16);
        for (int32_t t = 0, left = n, count; left; t += count, left -= count) {
            const int32_t batches = (left + most - 1) / most;
            count = (left + batches - 1) / batches; // even batches: eight vectors are four and four, not six and two
            if (few)
                few_by_count(&g, t, int4, count);
            else
                many_by_count(&g, t, count);
        }
        g.codes += step * (size_t)g.steps;
    }
}

// ---- many vectors, where there are tiles: two blocks at once, so that each tile of activations is used twice ----
#if SM_TILES
enum { UNPACKED = 32 * SM_PANEL }; // bytes of an unpacked group of a block

// Vectors of a tile: as few tiles as can be, of one size, since another size would want other shapes
SM_INLINE int32_t tile_vectors(int32_t n) {
    const int32_t tiles = (n + SM_TOKENS - 1) / SM_TOKENS;
    return (n + tiles - 1) / tiles;
}

static void begin_tiles(int32_t vectors) {
    sm_tile_shapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.rows[i] = (uint8_t)(i < 6 ? vectors : 16), shapes.bytes[i] = 64;
    sm_tile_shape(&shapes);
}

// One group of one or two blocks times a tile of vectors. Tiles 0 to 3: sums, a plane and a block each; 4 and 5: planes
// of activations; 6 and 7: blocks of weights. panel (blocks, UNPACKED), acc (blocks, SM_TOKENS)
SM_INLINE void group_by_tiles(const uint8_t *panel, int32_t blocks, int32_t steps, const int32_t *word, sm_acc *acc) {
    sm_acc *next = acc + SM_TOKENS;
    sm_tile_zero(0), sm_tile_zero(1), sm_tile_zero(2), sm_tile_zero(3);
    for (int32_t s = 0; s < steps; s += 8, word += 16, panel += 16 * SM_PANEL) { // 64 columns
        sm_tile_load(6, panel, SM_PANEL);
        sm_tile_load(4, word, 64 * sizeof *word);
        sm_tile_dot(0, 4, 6);
        sm_tile_load(5, word + SM_OTHER, 64 * sizeof *word);
        sm_tile_dot(1, 5, 6);
        if (blocks == 1) continue;
        sm_tile_load(7, panel + UNPACKED, SM_PANEL);
        sm_tile_dot(2, 4, 7);
        sm_tile_dot(3, 5, 7);
    }
    sm_tile_store(0, &acc->sum[0], sizeof *acc);
    sm_tile_store(1, &acc->sum[1], sizeof *acc);
    if (blocks == 1) return;
    sm_tile_store(2, &next->sum[0], sizeof *acc);
    sm_tile_store(3, &next->sum[1], sizeof *acc);
}

// Results go to own->sums (blocks, n, 16)
SM_INLINE void blocks_by_tiles(const sm_piece *p, int32_t cols, int32_t block, int32_t blocks, const int int4,
                               const sm_act *act, int32_t n, sm_scratch *own) {
    const size_t groups = (size_t)sm_groups(cols), bytes = (size_t)cols * (int4 ? 8 : 16);
    const int32_t size = tile_vectors(n);
    const uint8_t *codes = p->codes + (size_t)block * bytes;
    sm_acc acc[2][SM_TOGETHER][SM_TOKENS]; // a tile's, and those of the tile before, which meanwhile become floats
    for (int32_t t = 0; t < blocks * n; t++) sm_store(own->sums + t * 16, sm_set1(0));
    for (size_t g = 0; g < groups; g++) {
        const int32_t steps = sm_min(cols - (int32_t)g * SM_GROUP, SM_GROUP) / 8;
        const size_t at = g * (size_t)act->capacity;
        f32x16 weight[SM_TOGETHER];
        for (int32_t b = 0; b < blocks; b++) {
            const size_t row = (size_t)(block + b);
            unpack_group(p, codes + (size_t)b * bytes, steps, int4, own->panel + b * UNPACKED);
            weight[b] = int4 ? decode_scale_codes(p, p->scales + (row * groups + g) * 16) : row_scales(p, block + b);
        }
        for (int32_t t = 0, turn = 0; t < n + size; t += size, turn ^= 1) {
            // the last tile reaches back to vectors that the one before has had, whose sums are left alone
            if (t < n)
                group_by_tiles(own->panel, blocks, steps, act->word + (at + (size_t)sm_min(t, n - size)) * 64,
                               acc[turn][0]);
            const int32_t before = t - size, skip = before - sm_min(before, n - size);
            const size_t i = at + (size_t)before;
            for (int32_t b = 0; before >= 0 && b < blocks; b++)
                add_group(acc[turn ^ 1][b] + skip, size - skip, act->scale + i, act->bias + i, weight[b],
                          own->sums + (b * n + before) * 16);
        }
        codes += (size_t)steps * (int4 ? 64 : 128);
    }
}
#endif

int32_t sm_tiles_left(void) {
#if SM_TILES
    sm_tile_shapes shapes;
    sm_tile_shape_now(&shapes);
    return shapes.palette != 0;
#else
    return 0;
#endif
}

// ---- both ----
// The last block of a matrix may lack rows
SM_INLINE void store_rows(float *out, f32x16 sum, int32_t rows, const int32_t add) {
    if (rows >= SM_ROWS)
        sm_store(out, add ? sm_load(out) + sum : sum);
    else
        for (int32_t r = 0; r < rows; r++) out[r] = add ? out[r] + sum[r] : sum[r];
}

// Browsers optimize one function at a time: a short function that is called often much sooner than a long-running one
#if defined(__wasm__)
#define SM_ENTRY static __attribute__((noinline))
#else
#define SM_ENTRY SM_INLINE
#endif
SM_ENTRY void int4_by_vector(const sm_piece *p, int32_t cols, int32_t block, const sm_act *act, f32x16 *sum) {
    *sum = block_by_vector(p, cols, block, 1, act);
}
SM_ENTRY void int8_by_vector(const sm_piece *p, int32_t cols, int32_t block, const sm_act *act, f32x16 *sum) {
    *sum = block_by_vector(p, cols, block, 0, act);
}
SM_ENTRY void int4_by_vectors(const sm_piece *p, int32_t cols, int32_t block, const sm_act *act, int32_t n,
                              sm_scratch *own) {
    block_by_vectors(p, cols, block, 1, act, n, own);
}
SM_ENTRY void int8_by_vectors(const sm_piece *p, int32_t cols, int32_t block, const sm_act *act, int32_t n,
                              sm_scratch *own) {
    block_by_vectors(p, cols, block, 0, act, n, own);
}

SM_INLINE void piece_by_vectors(const sm_piece *p, int32_t cols, int32_t b0, int32_t b1, const int int4,
                                const sm_act *act, int32_t n, float *out, size_t stride, int32_t add, sm_scratch *own) {
    const int32_t rows = p->end - p->begin;
#if SM_TILES
    if (n > SM_FEW) {
        for (int32_t b = b0; b < b1; b += SM_TOGETHER) {
            const int32_t blocks = sm_min(SM_TOGETHER, b1 - b);
            blocks_by_tiles(p, cols, b, blocks, int4, act, n, own);
            for (int32_t i = 0; i < blocks; i++)
                for (int32_t t = 0; t < n; t++)
                    store_rows(out + (size_t)t * stride + p->begin + (b + i) * 16,
                               sm_load(own->sums + (i * n + t) * 16), rows - (b + i) * 16, add);
        }
        return;
    }
#endif
    if (n > 1)
        for (int32_t b = b0; b < b1; b++) {
            if (int4)
                int4_by_vectors(p, cols, b, act, n, own);
            else
                int8_by_vectors(p, cols, b, act, n, own);
            for (int32_t t = 0; t < n; t++)
                store_rows(out + (size_t)t * stride + p->begin + b * 16, sm_load(own->sums + t * 16), rows - b * 16,
                           add);
        }
    else
        for (int32_t b = b0; b < b1; b++) {
            f32x16 sum;
            if (int4)
                int4_by_vector(p, cols, b, act, &sum);
            else
                int8_by_vector(p, cols, b, act, &sum);
            store_rows(out + p->begin + b * 16, sum, rows - b * 16, add);
        }
}

void sm_matmul(const sm_matrix *w, int32_t b0, int32_t b1, const sm_act *act, int32_t n, float *out, size_t stride,
               int32_t add, sm_scratch *own) {
#if SM_TILES
    if (n > SM_FEW) begin_tiles(tile_vectors(n));
#endif
    for (int32_t i = 0; i < w->pieces; i++) {
        const sm_piece *p = &w->piece[i];
        const int32_t first = p->begin / SM_ROWS, from = b0 > first ? b0 - first : 0,
                      to = sm_min(b1 - first, sm_blocks(p->end - p->begin));
        if (from >= to) continue;
        if (p->format == SM_INT8_ROW)
            piece_by_vectors(p, w->cols, from, to, 0, act, n, out, stride, add, own);
        else
            piece_by_vectors(p, w->cols, from, to, 1, act, n, out, stride, add, own);
    }
#if SM_TILES
    if (n > SM_FEW) sm_tile_release();
#endif
}

// `n` numbers of one lane, from weight `c` of a block on: n at most a group
static void row_codes(const sm_piece *p, const uint8_t *codes, int32_t lane, int32_t c, int32_t n, float scale,
                      float *out) {
    for (int32_t i = 0; i < n; i++, c++)
        if (p->format == SM_INT8_ROW)
            out[i] = (float)(int8_t)codes[(c / 4) * 64 + lane * 4 + c % 4] * scale;
        else {
            const uint8_t both = codes[(c / 8) * 64 + lane * 4 + c % 4];
            out[i] = (float)(int8_t)(uint8_t)(p->book[c % 8 < 4 ? both & 15 : both >> 4] - SM_BIAS) * scale;
        }
}

void sm_row(const sm_matrix *w, int32_t row, float *out) {
    const sm_piece *p = w->piece;
    while (row >= p->end) p++;
    const int int4 = p->format == SM_INT4_BOOK_G128;
    const int32_t block = (row - p->begin) / SM_ROWS, lane = (row - p->begin) % SM_ROWS, groups = sm_groups(w->cols);
    const uint8_t *codes = p->codes + (size_t)block * (size_t)w->cols * (int4 ? 8 : 16);
    for (int32_t g = 0; g < groups; g++) {
        const f32x16 scale = int4 ? decode_scale_codes(p, p->scales + ((size_t)block * (size_t)groups + (size_t)g) * 16)
                                  : row_scales(p, block);
        const int32_t c = g * SM_GROUP;
        row_codes(p, codes, lane, c, sm_min(w->cols - c, SM_GROUP), scale[lane], out + c);
    }
}
