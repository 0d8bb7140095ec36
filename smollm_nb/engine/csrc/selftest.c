// A small matrix product and a small attention, worked out by the vector code and again by loops over single numbers
// that share nothing with it but the rule. A library that was built for another processor, or miscompiled, shows here.
#include "model.h"
#include "dot.h"
#include "fixedmath.h"

enum {
    COLS = 192,
    ROWS = 40,
    BLOCKS = 3,
    GROUPS = 2,
    VECTORS = SM_TOKENS + 1,
    HEADS = 3,
    POSITIONS = 2 * SM_CHUNK,
    HELD = SM_CHUNK + 37
};

static _Alignas(64) struct {
    _Alignas(64) uint8_t data[64 + BLOCKS * 16 * COLS / 2 + BLOCKS * GROUPS * 16 + 32];
    _Alignas(64) uint8_t data8[BLOCKS * 16 * COLS + BLOCKS * 16 * 4];
    _Alignas(64) float x[VECTORS * COLS], out[VECTORS * ROWS], rope[SM_DIM], q[HEADS * SM_DIM], kv[2 * SM_DIM],
        mix[HEADS * SM_DIM];
    _Alignas(64) int32_t word[GROUPS * VECTORS * 64], bias[GROUPS * VECTORS];
    float scale[GROUPS * VECTORS];
    _Alignas(64) float sums[SM_TOGETHER * VECTORS * 16], weight[HEADS * SM_CHUNK], part[HEADS * 2 * SM_DIM],
        top[HEADS * 16], sum[HEADS * 16], qscale[16];
    _Alignas(64) uint8_t panel[SM_TOGETHER * 32 * SM_PANEL];
    _Alignas(64) int32_t query[HEADS * 32];
    _Alignas(64) int32_t weight_pairs[HEADS * SM_CHUNK / 2];
    _Alignas(64) int16_t k[POSITIONS * SM_DIM];
    _Alignas(64) int16_t v[POSITIONS * SM_DIM];
    float kscale[POSITIONS], vscale[POSITIONS];
    sm_matrix matrix;
    sm_model model;
} T;

static uint32_t noise(uint32_t *state) {
    return (*state = *state * 1664525u + 1013904223u) >> 16;
}

static void fill(float *x, int32_t n, uint32_t seed) { // numbers in ±2, a few of them large
    for (int32_t i = 0; i < n; i++) x[i] = ((float)(int32_t)noise(&seed) - 32768.0f) / (i % 37 ? 16384.0f : 512.0f);
}

static float least_scale(const uint8_t *code, const float *scale12) { // a scale from its byte, one halving at a time
    float s = scale12[(*code & 127) % 12];
    for (int k = (*code & 127) / 12; k; k--) s *= 0.5f;
    return *code & 128 ? -s : s;
}

static float one_product(const sm_piece *p, int32_t row, const float *x) { // x (COLS)
    const int int4 = p->format == SM_INT4_BOOK_G128;
    const int32_t block = row / 16, lane = row % 16;
    float sum = 0;
    for (int32_t g = 0; g < GROUPS; g++) {
        const int32_t from = g * SM_GROUP, to = sm_min(COLS, from + SM_GROUP);
        float top = 0;
        for (int32_t c = from; c < to; c++) top = __builtin_fabsf(x[c]) > top ? __builtin_fabsf(x[c]) : top;
        const float inverse = SM_AMAX / top;
        int64_t dot = 0;
        for (int32_t c = from; c < to; c++) {
            const uint8_t both = int4 ? p->codes[(block * (COLS / 8) + c / 8) * 64 + lane * 4 + c % 4]
                                      : p->codes[(block * (COLS / 4) + c / 4) * 64 + lane * 4 + c % 4];
            const int8_t w = int4 ? (int8_t)T.data[16 + (c % 8 < 4 ? both & 15 : both >> 4)] : (int8_t)both;
            const float nearest = (x[c] * inverse + 12582912.0f) - 12582912.0f;
            dot += (int64_t)w * (int64_t)nearest;
        }
        const float scale = int4 ? least_scale(p->scales + (block * GROUPS + g) * 16 + lane, p->scale12)
                                 : ((const float *)(const void *)p->scales)[row];
        sum = sum + (float)(int32_t)dot * (scale * (top / SM_AMAX));
    }
    return sum;
}

static int32_t products_differ(int32_t format, const uint8_t *data) {
    sm_scratch own = {.sums = T.sums, .panel = T.panel};
    sm_act act = {T.word, T.scale, T.bias, VECTORS};
    T.matrix.pieces = 1, T.matrix.rows = ROWS, T.matrix.cols = COLS;
    sm_piece *p = &T.matrix.piece[0];
    p->begin = 0, p->end = ROWS, p->format = format;
    sm_piece_init(p, data, COLS);
    for (int32_t t = 0; t < VECTORS; t++) sm_quantize(T.x + t * COLS, COLS, &act, t);
    for (int32_t n = 1; n <= VECTORS; n += VECTORS - 1) {
        sm_matmul(&T.matrix, 0, BLOCKS, &act, n, T.out, ROWS, 0, &own);
        for (int32_t i = 0; i < n * ROWS; i++)
            if (T.out[i] != one_product(p, i % ROWS, T.x + i / ROWS * COLS)) return 1;
    }
    return 0;
}

static float one_score(int32_t head, int32_t pos) {
    int64_t dot = 0;
    for (int32_t d = 0; d < SM_DIM; d++) {
        const int32_t pair = T.query[head * 32 + d / 2];
        dot += (int64_t)T.k[(pos / 16 * 32 + d / 2) * 32 + pos % 16 * 2 + d % 2] *
               (d % 2 ? pair >> 16 : (int16_t)(pair & 0xffff));
    }
    return (float)(int32_t)dot * (T.kscale[pos] * T.qscale[head]);
}

static double one_mix(int32_t head, int32_t channel) { // in double precision, without chunks
    double most = -1e30, all = 0, sum = 0;
    for (int32_t p = 0; p < HELD; p++) most = one_score(head, p) > most ? one_score(head, p) : most;
    for (int32_t p = 0; p < HELD; p++) {
        const double e = sm_exp_double(one_score(head, p) - most);
        all += e, sum += e * T.vscale[p] * T.v[(p / 2 * SM_DIM + channel) * 2 + p % 2];
    }
    return sum / all;
}

static int32_t attention_differs(void) {
    sm_scratch own = {.weight = T.weight, .weight_pairs = T.weight_pairs};
    const sm_cache c = {T.k, T.v, T.kscale, T.vscale};
    T.model.capacity = POSITIONS, T.model.chunks = 2;
    for (int32_t p = 0; p < HELD; p++) {
        fill(T.kv, 2 * SM_DIM, (uint32_t)p + 7);
        sm_rope(sm_log_double(10000), p, T.rope);
        sm_store_kv(&T.model, &c, 0, p, T.kv, T.kv + SM_DIM, T.rope);
    }
    fill(T.q, HEADS * SM_DIM, 3);
    sm_query(T.q, HEADS, T.rope, T.query, T.qscale);
    for (int32_t chunk = 0; chunk < 2; chunk++)
        sm_chunk(&T.model, &c, 0, chunk, HELD, T.query, T.qscale, HEADS, T.k, T.part, T.top, T.sum, &own);
    for (int32_t h = 0; h < HEADS; h++) {
        sm_combine(2, T.part + h * 2 * SM_DIM, T.top + h * 16, T.sum + h * 16, T.top + h * 16, T.mix + h * SM_DIM);
        for (int32_t i = 0; i < SM_DIM; i += 7) {
            const double gap = T.mix[h * SM_DIM + i] - one_mix(h, i);
            if (!(gap < 2e-3 && gap > -2e-3)) return 1;
        }
    }
    return 0;
}

int32_t sm_self_test(void) {
#if SM_TILES && !defined(SMOLLM_EMULATE_TILES)
    if (!(sm_cpu() & SM_CPU_AMX)) return SM_E_SELF_TEST; // without the permission, tiles would end the process
#endif
    uint32_t seed = 1;
    const float base = 0.01f;
    const sm_fpu before = sm_fpu_enter();
    for (size_t i = 64; i < sizeof T.data; i++) T.data[i] = (uint8_t)noise(&seed);
    __builtin_memcpy(T.data, &base, 4);
    for (int i = 0; i < 16; i++) T.data[16 + i] = (uint8_t)(int8_t)(i * 17 - 127);
    for (size_t i = 0; i < BLOCKS * 16 * COLS; i++) T.data8[i] = (uint8_t)(int8_t)((int32_t)(noise(&seed) % 255) - 127);
    fill((float *)(void *)(T.data8 + BLOCKS * 16 * COLS), BLOCKS * 16, 5);
    fill(T.x, VECTORS * COLS, 9);
    const int32_t bad = products_differ(SM_INT4_BOOK_G128, T.data) || products_differ(SM_INT8_ROW, T.data8) ||
                        attention_differs() || sm_tiles_left();
    sm_fpu_leave(before);
    return bad ? SM_E_SELF_TEST : SM_OK;
}
