// Attention over a KV cache of integers. A position's key and value are held as 16-bit integers with one float scale
// each: as many bytes as fp16, more exact, and ready for integer dot products.
//
// |key| ≤ 4095 and |query| ≤ 8191, so that 64 products stay below 2^31; |value| ≤ 4095 and weights ≤ 16383, so that 32
// do. Positions are taken in chunks whose results are combined in rising order, so the result does not depend on the
// threads.
#include "model.h"
#include "dot.h"
#include "fixedmath.h"

enum { KEY_MAX = 4095, QUERY_MAX = 8191, VALUE_MAX = 4095, WEIGHT_MAX = 16383, QUERY_PAIRS = SM_DIM / 2 };
enum { L2 = 1 }; // locality of a prefetch: into L2, which takes more outstanding prefetches than L1

// Rounded to float32 where PyTorch rounds: position/theta^(i/32)
void sm_rope(double log_theta, int32_t pos, float *rope) {
    for (int i = 0; i < SM_DIM / 2; i++) {
        double s, c;
        sm_sincos((float)pos / (float)sm_exp_double(log_theta * ((float)(2 * i) / SM_DIM)), &s, &c);
        rope[i] = (float)c, rope[SM_DIM / 2 + i] = (float)s;
    }
}

// Rotary position embedding of one head: channels i and i + 32 are a pair
SM_INLINE void apply_rope(const float *x, const float *rope, f32x16 y[4]) { // x (64)
    for (int i = 0; i < 2; i++) {
        const f32x16 a = sm_load(x + 16 * i), b = sm_load(x + 32 + 16 * i), c = sm_load(rope + 16 * i),
                     s = sm_load(rope + 32 + 16 * i);
        y[i] = a * c - b * s, y[i + 2] = b * c + a * s;
    }
}

// 64 floats as integers, the largest of them `limit`; returns the scale
SM_INLINE float to_integers(const f32x16 x[4], float limit, i32x16 a[4]) {
    const f32x16 m = sm_max(sm_max(sm_abs(x[0]), sm_abs(x[1])), sm_max(sm_abs(x[2]), sm_abs(x[3])));
    const float top = sm_max16(m);
    const int32_t nonzero = top > 1e-30f;
    const f32x16 inverse = sm_set1(nonzero ? limit / top : 0);
    for (int i = 0; i < 4; i++) a[i] = sm_round(x[i] * inverse);
    return nonzero ? top / limit : 0;
}

void sm_store_kv(sm_model *m, const sm_cache *c, int32_t kv, int32_t pos, const float *k, const float *v,
                 const float *rope) {
    const size_t capacity = (size_t)m->capacity, at = (size_t)kv * capacity, p = (size_t)pos;
    int16_t *key = c->k + at * SM_DIM + p / SM_BLOCK * SM_BLOCK * SM_DIM + p % SM_BLOCK * 2;
    int16_t *value = c->v + at * SM_DIM + p / 2 * 2 * SM_DIM + p % 2;
    f32x16 x[4];
    i32x16 a[4];
    apply_rope(k, rope, x);
    c->kscale[at + p] = to_integers(x, KEY_MAX, a);
    for (int i = 0; i < SM_DIM; i++) key[i / 2 * SM_BLOCK * 2 + i % 2] = (int16_t)a[i / 16][i % 16];
    for (int i = 0; i < 4; i++) x[i] = sm_load(v + 16 * i);
    c->vscale[at + p] = to_integers(x, VALUE_MAX, a);
    for (int i = 0; i < SM_DIM; i++) value[2 * i] = (int16_t)a[i / 16][i % 16];
}

void sm_query(const float *q, int32_t heads, const float *rope, int32_t *query, float *scale) {
    for (int32_t h = 0; h < heads; h++, q += SM_DIM, query += QUERY_PAIRS) {
        f32x16 x[4];
        i32x16 a[4];
        apply_rope(q, rope, x);
        scale[h] = to_integers(x, QUERY_MAX, a) * 0.125f; // 1/√64
        *(i32x16 *)query = sm_pair_up(a[0], a[1]);
        *(i32x16 *)(query + 16) = sm_pair_up(a[2], a[3]);
    }
}

// Scores of `heads` query heads at 16 positions; weight (heads, SM_CHUNK), from these positions' index on. The values
// of the same positions are prefetched to L2 meanwhile.
SM_INLINE void score_block(const int16_t *key, const int16_t *value, const float *kscale, const int32_t *query,
                           const float *scale, const int heads, i32x16 mask, float *weight) {
    i32x16 acc[SM_MAX_HEADS] = {0};
    for (int d = 0; d < QUERY_PAIRS; d++) {
        __builtin_prefetch(value + d * 32, 0, L2);
        const i16x32 k = *(const i16x32 *)(key + d * SM_BLOCK * 2);
        for (int h = 0; h < heads; h++) acc[h] = sm_pairs(acc[h], k, sm_set1i(query[h * QUERY_PAIRS + d]));
    }
    for (int h = 0; h < heads; h++) {
        const f32x16 s = sm_float(acc[h]) * (sm_load(kscale) * scale[h]);
        sm_store(weight + h * SM_CHUNK, sm_select(mask, s, sm_set1(-__builtin_inff())));
    }
}

// Softmax of a chunk, not yet divided: scores → e^(score - top), and their sum; weight (SM_CHUNK), its first value
// groups
SM_INLINE void softmax_chunk(float *weight, int32_t value_groups, float *top, float *sum) {
    f32x16 most = sm_load(weight), total = sm_set1(0);
    for (int32_t i = 16; i < value_groups * SM_VALUE_GROUP; i += 16) most = sm_max(sm_load(weight + i), most);
    *top = sm_max16(most);
    for (int32_t i = 0; i < value_groups * SM_VALUE_GROUP; i += 16) {
        const f32x16 e = sm_exp(sm_load(weight + i) - *top);
        total += e;
        sm_store(weight + i, e);
    }
    *sum = sm_sum16(total);
}

// Attention weights times the values' scales of one value group (32 positions), as pairs (16) of integers; returns
// their scale
SM_INLINE float quantize_weights(const float *weight, const float *vscale, i32x16 mask0, i32x16 mask1, int32_t *pairs) {
    const f32x16 none = sm_set1(0), a = sm_select(mask0, sm_load(weight) * sm_load(vscale), none),
                 b = sm_select(mask1, sm_load(weight + 16) * sm_load(vscale + 16), none);
    const float top = sm_max16(sm_max(a, b));
    const int32_t nonzero = top > 1e-30f;
    const f32x16 inverse = sm_set1(nonzero ? WEIGHT_MAX / top : 0);
    *(i32x16 *)pairs = sm_pair_up(sm_round(a * inverse), sm_round(b * inverse));
    return nonzero ? top / WEIGHT_MAX : 0;
}

// Adds one value group times the weights of `heads` heads, 32 channels of it; part (heads, part_stride). 2 KB of the
// next chunk's keys are prefetched to L2 meanwhile.
SM_INLINE void add_values(const int16_t *value, const int16_t *next, const int32_t *pairs, const float *scale,
                          const int heads, float *part, size_t part_stride) {
    i32x16 acc[SM_MAX_HEADS][2] = {0};
    for (int p = 0; p < SM_VALUE_GROUP / 2; p++)
        for (int i = 0; i < 2; i++) {
            __builtin_prefetch(next + (2 * p + i) * 32, 0, L2);
            const i16x32 v = *(const i16x32 *)(value + (p * SM_DIM + 16 * i) * 2);
            for (int h = 0; h < heads; h++) acc[h][i] = sm_pairs(acc[h][i], v, sm_set1i(pairs[h * (SM_CHUNK / 2) + p]));
        }
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < 2; i++) {
            float *out = part + (size_t)h * part_stride + 16 * i;
            sm_store(out, sm_load(out) + sm_float(acc[h][i]) * scale[h]);
        }
}

// One chunk for at most SM_MAX_HEADS query heads of one KV head; positions `first` up to `end`
SM_INLINE void chunk_of_heads(const sm_model *m, const sm_cache *c, int32_t kv, int32_t first, int32_t end,
                              const int32_t *query, const float *scale, const int heads, const int16_t *next,
                              float *part, float *top, float *sum, sm_scratch *own) {
    const size_t at = (size_t)kv * (size_t)m->capacity + (size_t)first, stride = (size_t)m->chunks * SM_DIM,
                 row = (size_t)(m->chunks + 15) / 16 * 16;
    const int32_t n = sm_min(end - first, SM_CHUNK), value_groups = (n + SM_VALUE_GROUP - 1) / SM_VALUE_GROUP;
    for (int32_t i = 0; i < value_groups * SM_VALUE_GROUP; i += SM_BLOCK)
        score_block(c->k + (at + (size_t)i) * SM_DIM, c->v + (at + (size_t)i) * SM_DIM, c->kscale + at + i, query,
                    scale, heads, sm_below(n - i), own->weight + i);
    for (int h = 0; h < heads; h++) {
        softmax_chunk(own->weight + h * SM_CHUNK, value_groups, top + (size_t)h * row, sum + (size_t)h * row);
        for (int i = 0; i < 4; i++) sm_store(part + (size_t)h * stride + 16 * i, sm_set1(0));
    }
    for (int32_t s = 0; s < value_groups; s++) {
        const int32_t i = s * SM_VALUE_GROUP;
        float unit[SM_MAX_HEADS];
        for (int h = 0; h < heads; h++)
            unit[h] = quantize_weights(own->weight + h * SM_CHUNK + i, c->vscale + at + i, sm_below(n - i),
                                       sm_below(n - i - 16), own->weight_pairs + h * (SM_CHUNK / 2) + s * 16);
        for (int half = 0; half < 2; half++)
            add_values(c->v + (at + (size_t)i) * SM_DIM + half * SM_DIM, next + i * SM_DIM + half * 1024,
                       own->weight_pairs + s * 16, unit, heads, part + half * 32, stride);
    }
}

void sm_chunk(const sm_model *m, const sm_cache *c, int32_t kv, int32_t chunk, int32_t end, const int32_t *query,
              const float *scale, int32_t heads, const int16_t *next, float *part, float *top, float *sum,
              sm_scratch *own) {
    const size_t stride = (size_t)m->chunks * SM_DIM, row = (size_t)(m->chunks + 15) / 16 * 16;
    part += (size_t)chunk * SM_DIM, top += chunk, sum += chunk;
    for (int32_t h = 0; h < heads;) { // as many heads at once as the registers hold
        const int32_t n = sm_min(heads - h, SM_MAX_HEADS);
        const int32_t *q = query + h * QUERY_PAIRS;
        float *p = part + (size_t)h * stride, *t = top + (size_t)h * row, *s = sum + (size_t)h * row;
        // a constant number of heads, so that the loops over them are unrolled
        if (n == 3)
            chunk_of_heads(m, c, kv, chunk * SM_CHUNK, end, q, scale + h, 3, next, p, t, s, own);
        else if (n == 2)
            chunk_of_heads(m, c, kv, chunk * SM_CHUNK, end, q, scale + h, 2, next, p, t, s, own);
        else
            chunk_of_heads(m, c, kv, chunk * SM_CHUNK, end, q, scale + h, 1, next, p, t, s, own);
        h += n;
    }
}

void sm_combine(int32_t chunks, const float *part, const float *top, const float *sum, float *factor, float *out) {
    float most = top[0], total = 0;
    for (int32_t c = 1; c < chunks; c++) most = top[c] > most ? top[c] : most;
    for (int32_t c = 0; c < chunks; c += 16)
        sm_store(factor + c, sm_exp(sm_load(top + c) - most)); // entries behind the last chunk are not used
    f32x16 acc[4] = {0};
    for (int32_t c = 0; c < chunks; c++) {
        total += sum[c] * factor[c];
        for (int i = 0; i < 4; i++) acc[i] += sm_load(part + c * SM_DIM + 16 * i) * factor[c];
    }
    for (int i = 0; i < 4; i++) sm_store(out + 16 * i, acc[i] / total);
}
