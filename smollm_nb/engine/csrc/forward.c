// The forward pass. Every thread runs this same code; rows of matrices, tokens or chunks of attention are split between
// them, and a barrier stands wherever one needs what another made. For a single token each thread quantizes vectors for
// itself, which costs less than waiting for one another.
#include "model.h"

typedef struct { // one thread's view of a job
    sm_model *m;
    sm_scratch *own;
    int32_t thread, threads;
    sm_job job;    // a copy: behind the last barrier the caller may write the next one
    int32_t at, n; // tokens of the job that are still wanted: n from `at` on
    float *x;      // (n, hidden) their residual stream
} sm_task;

// This thread's share of n rows or tokens
SM_INLINE int32_t range_begin(const sm_task *v, int32_t n) {
    return sm_split(n, v->thread, v->threads);
}
SM_INLINE int32_t range_end(const sm_task *v, int32_t n) {
    return sm_split(n, v->thread + 1, v->threads);
}

// All rows of w times the act's vectors, rows split between threads
static void matmul(const sm_task *v, const sm_matrix *w, const sm_act *act, float *out, size_t stride, int32_t add) {
    const int32_t blocks = sm_blocks(w->rows);
    sm_matmul(w, range_begin(v, blocks), range_end(v, blocks), act, v->n, out, stride, add, v->own);
}

// The tokens' vectors x (n, cols), after an RMSNorm if there is a weight, as integers
static const sm_act *quantize_inputs(const sm_task *v, const float *x, size_t cols, const float *weight) {
    sm_model *m = v->m;
    const int32_t alone = v->n == 1;
    sm_act *act = alone ? &v->own->act : &m->act;
    for (int32_t t = alone ? 0 : range_begin(v, v->n), end = alone ? 1 : range_end(v, v->n); t < end; t++) {
        const float *y = x + (size_t)t * cols;
        if (weight) sm_norm(y, weight, m->shape.rms_eps, (int32_t)cols, v->own->wide), y = v->own->wide;
        sm_quantize(y, (int32_t)cols, act, t);
    }
    if (!alone) sm_barrier(m, v->thread);
    return act;
}

// ---- attention ----
typedef struct {
    int32_t q, kv, group, width;
} sm_heads; // query heads, KV heads, query heads a KV head, floats of q, k and v together

SM_INLINE sm_heads heads_of(const sm_model *m) {
    const int32_t q = m->shape.heads, kv = m->shape.kv_heads;
    return (sm_heads){q, kv, q / kv, (q + 2 * kv) * SM_DIM};
}

static void store_kv(const sm_task *v, const sm_cache *c, sm_heads h, int32_t kv, int32_t t) {
    sm_model *m = v->m;
    const float *k = m->qkv + (size_t)t * (size_t)h.width + (size_t)(h.q + kv) * SM_DIM;
    const sm_token *token = &v->job.tokens[t];
    sm_store_kv(m, c, token->sequence * h.kv + kv, token->pos, k, k + h.kv * SM_DIM, m->rope + t * SM_DIM);
}

// Where a chunk's keys stand; the first chunk's where there is no such chunk
SM_INLINE const int16_t *keys(const sm_model *m, const sm_cache *c, int32_t kv, int32_t chunk) {
    return c->k +
           ((size_t)kv * (size_t)m->capacity + (size_t)(chunk < 0 || chunk >= m->chunks ? 0 : chunk) * SM_CHUNK) *
               SM_DIM;
}

// One token: chunks of positions are split between threads, each KV head's last chunk with the new position in it
static void attend_one(const sm_task *v, const sm_cache *c) {
    sm_model *m = v->m;
    const sm_heads h = heads_of(m);
    const int32_t t = v->at, end = v->job.tokens[t].pos + 1, first = v->job.tokens[t].sequence * h.kv,
                  chunks = (end + SM_CHUNK - 1) / SM_CHUNK;
    const size_t part = (size_t)m->chunks * SM_DIM, row = (size_t)(m->chunks + 15) / 16 * 16;
    const float *query = m->qkv + (size_t)t * (size_t)h.width, *rope = m->rope + t * SM_DIM;
    uint8_t ready[128] = {0}; // KV heads whose queries have been rotated and quantized
    for (int32_t i = v->thread; i < chunks * h.kv; i += v->threads) {
        const int32_t kv = i % h.kv, chunk = chunks - 1 - i / h.kv; // the last chunk first
        const size_t head = (size_t)(kv * h.group);
        if (chunk == chunks - 1 && v->job.n == 1) store_kv(v, c, h, kv, 0);
        if (!ready[kv])
            sm_query(query + head * SM_DIM, h.group, rope, v->own->query + head * 32, v->own->qscale + head),
                ready[kv] = 1;
        const int32_t j = i + v->threads; // this thread's next chunk
        sm_chunk(m, c, first + kv, chunk, end, v->own->query + head * 32, v->own->qscale + head, h.group,
                 keys(m, c, first + j % h.kv, chunks - 1 - j / h.kv), m->part + head * part, m->top + head * row,
                 m->sum + head * row, v->own);
    }
    sm_barrier(m, v->thread);
    for (int32_t q = 0; q < h.q; q++) // each thread for itself: all of them need all of it
        sm_combine(chunks, m->part + (size_t)q * part, m->top + (size_t)q * row, m->sum + (size_t)q * row, v->own->top,
                   v->own->mix + q * SM_DIM);
}

static void store_all_kv(const sm_task *v, const sm_cache *c) {
    const sm_heads h = heads_of(v->m);
    for (int32_t i = v->thread; i < v->n * h.kv; i += v->threads) store_kv(v, c, h, i % h.kv, i / h.kv);
    sm_barrier(v->m, v->thread);
}

// Several tokens, of one sequence or of many: tokens and KV heads are split between threads
static void attend_many(const sm_task *v, const sm_cache *c) {
    sm_model *m = v->m;
    sm_scratch *own = v->own;
    const sm_heads h = heads_of(m);
    const size_t part = (size_t)m->chunks * SM_DIM, row = (size_t)(m->chunks + 15) / 16 * 16;
    for (int32_t i = v->thread; i < v->n * h.kv; i += v->threads) {
        const int32_t at = i % v->n, t = v->at + at, kv = i / v->n; // tokens that share keys stand together
        const sm_token *token = &v->job.tokens[t];
        const int32_t end = token->pos + 1, chunks = (end + SM_CHUNK - 1) / SM_CHUNK, of = token->sequence * h.kv + kv;
        const size_t head = (size_t)(kv * h.group);
        float *out = m->mix + ((size_t)at * (size_t)h.q + head) * SM_DIM;
        sm_query(m->qkv + (size_t)t * (size_t)h.width + head * SM_DIM, h.group, m->rope + t * SM_DIM, own->query,
                 own->qscale);
        for (int32_t chunk = 0; chunk < chunks; chunk++)
            sm_chunk(m, c, of, chunk, end, own->query, own->qscale, h.group, keys(m, c, of, chunk + 1), own->part,
                     own->top, own->sum, own);
        for (int32_t g = 0; g < h.group; g++)
            sm_combine(chunks, own->part + (size_t)g * part, own->top + (size_t)g * row, own->sum + (size_t)g * row,
                       own->top + (size_t)g * row, out + g * SM_DIM);
    }
    sm_barrier(m, v->thread);
}

static void qkv_projections(const sm_task *v, const sm_layer *l) { // the wanted tokens' queries, keys and values
    sm_model *m = v->m;
    const sm_heads h = heads_of(m);
    const size_t width = (size_t)h.width;
    const sm_act *act = quantize_inputs(v, v->x, (size_t)m->shape.hidden, l->attn_norm);
    matmul(v, &l->q, act, m->qkv, width, 0);
    matmul(v, &l->k, act, m->qkv + h.q * SM_DIM, width, 0);
    matmul(v, &l->v, act, m->qkv + (h.q + h.kv) * SM_DIM, width, 0);
    sm_barrier(m, v->thread);
}

static void attention(const sm_task *v, const sm_layer *l, const sm_cache *c) {
    sm_model *m = v->m;
    if (v->n == 1)
        attend_one(v, c);
    else
        attend_many(v, c);
    const sm_act *act = quantize_inputs(v, v->n == 1 ? v->own->mix : m->mix, (size_t)m->shape.heads * SM_DIM, NULL);
    matmul(v, &l->o, act, v->x, (size_t)m->shape.hidden, 1);
    sm_barrier(m, v->thread);
}

// ---- the rest of a layer, and the whole ----
static void mlp(const sm_task *v, const sm_layer *l) {
    sm_model *m = v->m;
    const size_t wide = (size_t)m->shape.mlp;
    const int32_t blocks = sm_blocks(m->shape.mlp), from = range_begin(v, blocks) * SM_ROWS,
                  to = range_end(v, blocks) * SM_ROWS;
    const sm_act *act = quantize_inputs(v, v->x, (size_t)m->shape.hidden, l->mlp_norm);
    matmul(v, &l->gate, act, m->gate, wide, 0);
    matmul(v, &l->up, act, m->up, wide, 0);
    for (int32_t t = 0; t < v->n; t++)
        sm_swiglu(m->gate + (size_t)t * wide + from, m->up + (size_t)t * wide + from, to - from);
    sm_barrier(m, v->thread);
    act = quantize_inputs(v, m->gate, wide, NULL);
    matmul(v, &l->down, act, v->x, (size_t)m->shape.hidden, 1);
    sm_barrier(m, v->thread);
}

static void embed(const sm_task *v) {
    sm_model *m = v->m;
    for (int32_t t = v->thread; t < v->n; t += v->threads) {
        sm_row(m->embed, v->job.tokens[t].id, m->x + (size_t)t * (size_t)m->shape.hidden);
        sm_rope(m->log_theta, v->job.tokens[t].pos, m->rope + t * SM_DIM);
    }
    sm_barrier(m, v->thread);
}

// The residual stream as it is now, for the caller; it changes next behind a barrier
SM_SMALL static void record(const sm_task *v, int32_t layer) {
    if (!v->job.residual) return;
    const size_t hidden = (size_t)v->m->shape.hidden, begin = (size_t)range_begin(v, v->n) * hidden,
                 end = (size_t)range_end(v, v->n) * hidden;
    float *out = v->job.residual + (size_t)layer * v->job.plane;
    for (size_t i = begin; i < end; i += 16) sm_store(out + i, sm_load(v->x + i));
}

// In the last layer, once keys and values are stored, only tokens whose logits are wanted go on; with a residual stream
// to hand out, behind it
static void keep_wanted(sm_task *v) {
    v->at = v->n - v->job.wanted, v->n = v->job.wanted;
    v->x += (size_t)v->at * (size_t)v->m->shape.hidden;
}

__attribute__((noinline)) static void head(const sm_task *v, const float *x) { // x (n, hidden)
    sm_model *m = v->m;
    const sm_act *act = quantize_inputs(v, x, (size_t)m->shape.hidden, m->norm);
    matmul(v, m->head, act, v->job.logits, (size_t)m->shape.vocab, 0);
    sm_barrier(m, v->thread);
}

static void forward(sm_task v) {
    sm_model *m = v.m;
    const int32_t traced = v.job.residual != NULL;
    embed(&v);
    record(&v, 0);
    for (int32_t i = 0; i < m->shape.layers; i++) {
        const int32_t final = i == m->shape.layers - 1;
        qkv_projections(&v, &m->layer[i]);
        if (v.n > 1 || (final && !v.job.wanted && !traced))
            store_all_kv(&v, &m->cache[i]); // otherwise attend_one stores the only token's
        if (final && !traced) keep_wanted(&v);
        if (!v.n) break;
        attention(&v, &m->layer[i], &m->cache[i]);
        mlp(&v, &m->layer[i]);
        record(&v, i + 1);
    }
    if (traced) keep_wanted(&v);
    if (v.n)
        head(&v, v.x);
    else if (traced)
        sm_barrier(m, v.thread); // until every thread has handed out its share
}

SM_SMALL static void likeliest(const sm_task *v) {
    const sm_job *j = &v->job;
    const int32_t vocab = v->m->shape.vocab;
    for (int32_t t = v->thread; t < v->n; t += v->threads) {
        const size_t at = (size_t)t * (size_t)j->k;
        sm_rank(j->rows + (size_t)t * (size_t)vocab, vocab, j->k, j->best + at, j->probs + at);
    }
    sm_barrier(v->m, v->thread);
}

SM_SMALL static void choose(const sm_task *v) {
    const int32_t vocab = v->m->shape.vocab, threads = v->m->choosers;
    for (int32_t i = v->thread; i < v->n && v->thread < threads; i += threads)
        sm_choose_one(&v->m->candidates[v->thread], v->job.rows + (size_t)i * (size_t)vocab, vocab, v->job.history,
                      &v->job.choices[i]);
    sm_barrier(v->m, v->thread);
}

void sm_run(sm_model *m, int32_t thread) {
    sm_task v = {m, &m->scratch[thread], thread, m->shape.threads, m->job, 0, m->job.n, m->x};
    const sm_fpu before = sm_fpu_enter();
    switch (v.job.kind) {
    case SM_JOB_FORWARD:
        forward(v);
        break;
    case SM_JOB_HEAD:
        head(&v, v.job.rows);
        break;
    case SM_JOB_LIKELIEST:
        likeliest(&v);
        break;
    case SM_JOB_CHOOSE:
        choose(&v);
        break;
    }
    sm_fpu_leave(before);
}
