// Attention over a KV cache of integers. A position's key and value are held as 16-bit integers with one float scale each:
// as many bytes as fp16, more exact, and integer dot products eat them as they are.
//
// |key| ≤ 4095 and |query| ≤ 8191, so that 64 products stay below 2^31; |value| ≤ 4095 and weights ≤ 16383, so that 32 do.
// Positions are taken in chunks whose results are combined in rising order: whoever works them out, the numbers are the same.
#include "model.h"
#include "dot.h"
#include "fixedmath.h"

enum { KEY_MAX = 4095, QUERY_MAX = 8191, VALUE_MAX = 4095, WEIGHT_MAX = 16383, PAIRS = SM_DIM/2 };
enum { NEAR = 1 }; // what is asked for goes as near as the second cache: more of it can be under way than to the first

void sm_angles(double log_theta, int32_t pos, float *turn) { // float32 steps as PyTorch takes them: position over theta^(i/32)
    for (int i = 0; i < SM_DIM/2; i++) {
        double s, c;
        sm_sincos((float)pos/(float)sm_exp_double(log_theta*((float)(2*i)/SM_DIM)), &s, &c);
        turn[i] = (float)c, turn[SM_DIM/2 + i] = (float)s;
    }
}

// One head turned by its position's angles: channels i and i + 32 are a pair
SM_INLINE void rotate(const float *x, const float *turn, f32x16 y[4]) { // x (64)
    for (int i = 0; i < 2; i++) {
        const f32x16 a = sm_load(x + 16*i), b = sm_load(x + 32 + 16*i), c = sm_load(turn + 16*i), s = sm_load(turn + 32 + 16*i);
        y[i] = a*c - b*s, y[i + 2] = b*c + a*s;
    }
}

// 64 floats as integers, the largest of them `limit`; returns the scale
SM_INLINE float to_integers(const f32x16 x[4], float limit, i32x16 a[4]) {
    const f32x16 m = sm_max(sm_max(sm_abs(x[0]), sm_abs(x[1])), sm_max(sm_abs(x[2]), sm_abs(x[3])));
    const float top = sm_max16(m);
    const int32_t some = top > 1e-30f;
    const f32x16 inverse = sm_all(some ? limit/top : 0);
    for (int i = 0; i < 4; i++) a[i] = sm_round(x[i]*inverse);
    return some ? top/limit : 0;
}

void sm_remember(sm_model *m, const sm_cache *c, int32_t kv, int32_t pos, const float *k, const float *v, const float *turn) {
    const size_t room = (size_t)m->room, at = (size_t)kv*room, p = (size_t)pos;
    int16_t *key = c->k + at*SM_DIM + p/SM_BLOCK*SM_BLOCK*SM_DIM + p % SM_BLOCK*2;
    int16_t *value = c->v + at*SM_DIM + p/2*2*SM_DIM + p % 2;
    f32x16 x[4];
    i32x16 a[4];
    rotate(k, turn, x);
    c->kscale[at + p] = to_integers(x, KEY_MAX, a);
    for (int i = 0; i < SM_DIM; i++) key[i/2*SM_BLOCK*2 + i % 2] = (int16_t)a[i/16][i % 16];
    for (int i = 0; i < 4; i++) x[i] = sm_load(v + 16*i);
    c->vscale[at + p] = to_integers(x, VALUE_MAX, a);
    for (int i = 0; i < SM_DIM; i++) value[2*i] = (int16_t)a[i/16][i % 16];
}

void sm_query(const float *q, int32_t heads, const float *turn, int32_t *query, float *scale) {
    for (int32_t h = 0; h < heads; h++, q += SM_DIM, query += PAIRS) {
        f32x16 x[4];
        i32x16 a[4];
        rotate(q, turn, x);
        scale[h] = to_integers(x, QUERY_MAX, a)*0.125f; // 1/√64
        *(i32x16 *)query = sm_pair_up(a[0], a[1]);
        *(i32x16 *)(query + 16) = sm_pair_up(a[2], a[3]);
    }
}

// Scores of `heads` query heads at 16 positions; weight (heads, SM_CHUNK), from the place of these positions on. The values of
// the same positions come next: they are asked for meanwhile.
SM_INLINE void score_block(const int16_t *key, const int16_t *value, const float *kscale, const int32_t *query, const float *scale, const int heads, i32x16 mask, float *weight) {
    i32x16 acc[4] = {0};
    for (int d = 0; d < PAIRS; d++) {
        __builtin_prefetch(value + d*32, 0, NEAR);
        const i16x32 k = *(const i16x32 *)(key + d*SM_BLOCK*2);
        for (int h = 0; h < heads; h++) acc[h] = sm_pairs(acc[h], k, sm_alli(query[h*PAIRS + d]));
    }
    for (int h = 0; h < heads; h++) {
        const f32x16 s = sm_float(acc[h])*(sm_load(kscale)*scale[h]);
        sm_store(weight + h*SM_CHUNK, sm_pick(mask, s, sm_all(-__builtin_inff())));
    }
}

// Scores → weights e^(score - top), and their sum; weight (SM_CHUNK), the first `stretches` of 32 positions
SM_INLINE void soften(float *weight, int32_t stretches, float *top, float *sum) {
    f32x16 most = sm_load(weight), total = sm_all(0);
    for (int32_t i = 16; i < stretches*SM_STRETCH; i += 16) most = sm_max(sm_load(weight + i), most);
    *top = sm_max16(most);
    for (int32_t i = 0; i < stretches*SM_STRETCH; i += 16) {
        const f32x16 e = sm_exp(sm_load(weight + i) - *top);
        total += e;
        sm_store(weight + i, e);
    }
    *sum = sm_sum16(total);
}

// Weights times the values' scales of 32 positions, as pairs of integers; returns their scale
SM_INLINE float share_out(const float *weight, const float *vscale, i32x16 mask0, i32x16 mask1, int32_t *share) { // share (16)
    const f32x16 none = sm_all(0), a = sm_pick(mask0, sm_load(weight)*sm_load(vscale), none), b = sm_pick(mask1, sm_load(weight + 16)*sm_load(vscale + 16), none);
    const float top = sm_max16(sm_max(a, b));
    const int32_t some = top > 1e-30f;
    const f32x16 inverse = sm_all(some ? WEIGHT_MAX/top : 0);
    *(i32x16 *)share = sm_pair_up(sm_round(a*inverse), sm_round(b*inverse));
    return some ? top/WEIGHT_MAX : 0;
}

// Adds 32 positions' values times `heads` heads' weights, 32 channels of them; part (heads, part_stride). Keys that come next,
// 2 KB of them, are asked for meanwhile.
SM_INLINE void add_values(const int16_t *value, const int16_t *next, const int32_t *share, const float *scale, const int heads, float *part, size_t part_stride) {
    i32x16 acc[4][2] = {0};
    for (int p = 0; p < SM_STRETCH/2; p++)
        for (int i = 0; i < 2; i++) {
            __builtin_prefetch(next + (2*p + i)*32, 0, NEAR);
            const i16x32 v = *(const i16x32 *)(value + (p*SM_DIM + 16*i)*2);
            for (int h = 0; h < heads; h++) acc[h][i] = sm_pairs(acc[h][i], v, sm_alli(share[h*(SM_CHUNK/2) + p]));
        }
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < 2; i++) {
            float *out = part + (size_t)h*part_stride + 16*i;
            sm_store(out, sm_load(out) + sm_float(acc[h][i])*scale[h]);
        }
}

// One chunk for up to four heads; positions `first` up to `end`
SM_INLINE void chunk_of_heads(const sm_model *m, const sm_cache *c, int32_t kv, int32_t first, int32_t end, const int32_t *query, const float *scale,
                              const int heads, const int16_t *next, float *part, float *top, float *sum, sm_scratch *own) {
    const size_t at = (size_t)kv*(size_t)m->room + (size_t)first, stride = (size_t)m->chunks*SM_DIM, row = (size_t)(m->chunks + 15)/16*16;
    const int32_t n = sm_least(end - first, SM_CHUNK), stretches = (n + SM_STRETCH - 1)/SM_STRETCH;
    for (int32_t i = 0; i < stretches*SM_STRETCH; i += SM_BLOCK)
        score_block(c->k + (at + (size_t)i)*SM_DIM, c->v + (at + (size_t)i)*SM_DIM, c->kscale + at + i, query, scale, heads, sm_below(n - i), own->weight + i);
    for (int h = 0; h < heads; h++) {
        soften(own->weight + h*SM_CHUNK, stretches, top + (size_t)h*row, sum + (size_t)h*row);
        for (int i = 0; i < 4; i++) sm_store(part + (size_t)h*stride + 16*i, sm_all(0));
    }
    for (int32_t s = 0; s < stretches; s++) {
        const int32_t i = s*SM_STRETCH;
        float unit[4];
        for (int h = 0; h < heads; h++)
            unit[h] = share_out(own->weight + h*SM_CHUNK + i, c->vscale + at + i, sm_below(n - i), sm_below(n - i - 16), own->share + h*(SM_CHUNK/2) + s*16);
        for (int half = 0; half < 2; half++)
            add_values(c->v + (at + (size_t)i)*SM_DIM + half*SM_DIM, next + i*SM_DIM + half*1024, own->share + s*16, unit, heads, part + half*32, stride);
    }
}

void sm_chunk(const sm_model *m, const sm_cache *c, int32_t kv, int32_t chunk, int32_t end, const int32_t *query, const float *scale, int32_t heads,
              const int16_t *next, float *part, float *top, float *sum, sm_scratch *own) {
    const size_t stride = (size_t)m->chunks*SM_DIM, row = (size_t)(m->chunks + 15)/16*16;
    part += (size_t)chunk*SM_DIM, top += chunk, sum += chunk;
    for (int32_t h = 0; h < heads;) { // as many as share a register file
        const int32_t left = heads - h;
#define SM_HEADS(n) chunk_of_heads(m, c, kv, chunk*SM_CHUNK, end, query + h*PAIRS, scale + h, n, next, part + (size_t)h*stride, top + (size_t)h*row, sum + (size_t)h*row, own)
        if (left >= 3) SM_HEADS(3), h += 3;
        else if (left == 2) SM_HEADS(2), h += 2;
        else SM_HEADS(1), h += 1;
#undef SM_HEADS
    }
}

void sm_combine(int32_t chunks, const float *part, const float *top, const float *sum, float *factor, float *out) {
    float most = top[0], total = 0;
    for (int32_t c = 1; c < chunks; c++) most = top[c] > most ? top[c] : most;
    for (int32_t c = 0; c < chunks; c += 16) sm_store(factor + c, sm_exp(sm_load(top + c) - most)); // behind the last chunk: whatever
    f32x16 acc[4] = {0};
    for (int32_t c = 0; c < chunks; c++) {
        total += sum[c]*factor[c];
        for (int i = 0; i < 4; i++) acc[i] += sm_load(part + c*SM_DIM + 16*i)*factor[c];
    }
    for (int i = 0; i < 4; i++) sm_store(out + 16*i, acc[i]/total);
}
