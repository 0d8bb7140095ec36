// The entry points: every argument is checked here, and the arena is laid out here.
#include <float.h>

#include "model.h"
#include "dot.h"
#include "fixedmath.h"

// ---- the arena: a bump allocator, which can also only measure ----
typedef struct {
    uint8_t *base; // NULL: only measure
    size_t at;     // bytes given out
} bump;

static void *bump_alloc(bump *w, size_t count, size_t size) { // aligned to 64
    void *p = w->base ? w->base + w->at : NULL;
    w->at += (count * size + 63) / 64 * 64;
    return p;
}

static void alloc_act(bump *w, sm_act *act, size_t capacity, size_t cols) {
    const size_t n = capacity * (size_t)sm_groups((int32_t)cols);
    act->word = bump_alloc(w, n * 64, sizeof(int32_t));
    act->scale = bump_alloc(w, n + 16, sizeof(float));
    act->bias = bump_alloc(w, n + 16, sizeof(int32_t));
    act->capacity = (int32_t)capacity;
}

static size_t widest(const sm_shape *s) {
    const int32_t q = s->heads * SM_DIM, w = s->hidden > s->mlp ? s->hidden : s->mlp;
    return (size_t)(q > w ? q : w);
}

static void alloc_scratch(bump *w, const sm_model *m, sm_scratch *own) {
    const sm_shape *s = &m->shape;
    const size_t chunks = (size_t)m->chunks, row = (chunks + 15) / 16 * 16, group = (size_t)(s->heads / s->kv_heads);
    alloc_act(w, &own->act, 1, widest(s));
    own->wide = bump_alloc(w, widest(s), sizeof(float));
    own->mix = bump_alloc(w, (size_t)s->heads * SM_DIM, sizeof(float));
    own->sums = bump_alloc(w, (size_t)s->tile * 16 * SM_TOGETHER, sizeof(float));
    own->panel = bump_alloc(w, 32 * SM_PANEL * SM_TOGETHER, 1);
    own->barriers = 0;
    own->query = bump_alloc(w, (size_t)s->heads * 32, sizeof(int32_t));
    own->qscale = bump_alloc(w, (size_t)s->heads, sizeof(float));
    own->weight = bump_alloc(w, SM_MAX_HEADS * SM_CHUNK, sizeof(float));
    own->weight_pairs = bump_alloc(w, SM_MAX_HEADS * SM_CHUNK / 2, sizeof(int32_t));
    own->part = bump_alloc(w, group * chunks * SM_DIM, sizeof(float));
    own->top = bump_alloc(w, group * row, sizeof(float));
    own->sum = bump_alloc(w, group * row, sizeof(float));
}

static void alloc_candidates(bump *w, const sm_model *m, sm_candidates *d) {
    const size_t n = (size_t)m->shape.vocab;
    d->probs = bump_alloc(w, n, sizeof(double));
    d->ids = bump_alloc(w, n, sizeof(int32_t));
    d->heap = bump_alloc(w, n, sizeof(int32_t));
    d->mark = bump_alloc(w, n, 1);
}

static size_t alloc_cache(bump *w, const sm_model *m, sm_cache *c) { // its bytes
    const size_t before = w->at, n = (size_t)(m->shape.sequences * m->shape.kv_heads) * (size_t)m->capacity;
    c->k = bump_alloc(w, n * SM_DIM, sizeof(int16_t));
    c->v = bump_alloc(w, n * SM_DIM, sizeof(int16_t));
    c->kscale = bump_alloc(w, n, sizeof(float));
    c->vscale = bump_alloc(w, n, sizeof(float));
    return w->at - before;
}

// Places everything of m->shape behind the model itself; what m points to is only touched if w has a base
static size_t alloc_model(bump *w, sm_model *m) { // bytes of the KV cache
    const sm_shape *s = &m->shape;
    const size_t tile = (size_t)s->tile, hidden = (size_t)s->hidden, chunks = (size_t)m->chunks,
                 row = (chunks + 15) / 16 * 16;
    sm_cache nowhere;
    sm_scratch none;
    sm_candidates nothing;
    size_t kv = 0;
    m->sys = bump_alloc(w, 1, sm_system_bytes());
    m->embed = bump_alloc(w, 1, sizeof(sm_matrix));
    m->head = s->tied ? m->embed : bump_alloc(w, 1, sizeof(sm_matrix));
    m->layer = bump_alloc(w, (size_t)s->layers, sizeof(sm_layer));
    m->cache = bump_alloc(w, (size_t)s->layers, sizeof(sm_cache));
    m->scratch = bump_alloc(w, (size_t)s->threads, sizeof(sm_scratch));
    m->x = bump_alloc(w, tile * hidden, sizeof(float));
    m->qkv = bump_alloc(w, tile * (size_t)(s->heads + 2 * s->kv_heads) * SM_DIM, sizeof(float));
    m->mix = bump_alloc(w, tile * (size_t)s->heads * SM_DIM, sizeof(float));
    m->gate = bump_alloc(w, tile * (size_t)s->mlp, sizeof(float));
    m->up = bump_alloc(w, tile * (size_t)s->mlp, sizeof(float));
    m->rope = bump_alloc(w, tile * SM_DIM, sizeof(float));
    m->part = bump_alloc(w, (size_t)s->heads * chunks * SM_DIM, sizeof(float));
    m->top = bump_alloc(w, (size_t)s->heads * row, sizeof(float));
    m->sum = bump_alloc(w, (size_t)s->heads * row, sizeof(float));
    m->logits = bump_alloc(w, (size_t)s->vocab, sizeof(float));
    alloc_act(w, &m->act, tile, widest(s));
    m->held = bump_alloc(w, (size_t)s->sequences, sizeof(int32_t));
    m->next = bump_alloc(w, (size_t)s->sequences, sizeof(int32_t));
    m->tokens = bump_alloc(w, tile, sizeof(sm_token));
    m->choosers = sm_min(s->threads, s->sequences);
    m->candidates = bump_alloc(w, (size_t)m->choosers, sizeof(sm_candidates));
    for (int32_t i = 0; i < m->choosers; i++) alloc_candidates(w, m, w->base ? &m->candidates[i] : &nothing);
    for (int32_t i = 0; i < s->threads; i++) alloc_scratch(w, m, w->base ? &m->scratch[i] : &none);
    for (int32_t i = 0; i < s->layers; i++) kv += alloc_cache(w, m, w->base ? &m->cache[i] : &nowhere);
    return kv;
}

static int32_t within(int32_t x, int32_t low, int32_t high) {
    return low <= x && x <= high;
}

static int32_t shape_fits(const sm_shape *s) {
    const float huge = 3e38f;
    return within(s->vocab, 1, 1 << 20) && within(s->hidden, 64, 8192) && s->hidden % 64 == 0 &&
           within(s->mlp, 64, 32768) && s->mlp % 64 == 0 && within(s->layers, 1, 256) && s->head_dim == SM_DIM &&
           within(s->heads, 1, 128) && within(s->kv_heads, 1, s->heads) && s->heads % s->kv_heads == 0 &&
           s->heads / s->kv_heads <= SM_MAX_GROUP && within(s->context, 1, 65536) && within(s->tied, 0, 1) &&
           within(s->threads, 1, SM_MAX_THREADS) && within(s->tile, 1, 512) && within(s->sequences, 1, 256) &&
           s->rope_theta >= 1 && s->rope_theta < huge && s->rms_eps > 0 && s->rms_eps < huge;
}

// Bytes of the arena; m gets the shape and what follows from it
static ptrdiff_t measure(const sm_shape *s, sm_model *m, size_t *kv) {
    if (!s) return SM_E_NULL;
    if (!shape_fits(s)) return SM_E_SHAPE;
    m->shape = *s;
    m->capacity = (s->context + SM_VALUE_GROUP - 1) / SM_VALUE_GROUP * SM_VALUE_GROUP;
    m->chunks = (s->context + SM_CHUNK - 1) / SM_CHUNK;
    const double guess = 300.0 * s->layers * s->kv_heads * m->capacity * s->sequences + 1e8 +
                         4.0 * s->tile * (3.0 * s->mlp + 4.0 * s->hidden) + 2e7 * s->threads;
    if (guess > (double)PTRDIFF_MAX) return SM_E_SHAPE; // more than 32 bits can address
    bump w = {NULL, (sizeof(sm_model) + 63) / 64 * 64};
    *kv = alloc_model(&w, m);
    return (ptrdiff_t)w.at;
}

ptrdiff_t sm_arena_bytes(const sm_shape *s) {
    sm_model m;
    size_t kv;
    return measure(s, &m, &kv);
}

// Structs in WebAssembly, bytes: whoever makes a folder for the browser says how much memory the kernel will take there
enum {
    WASM_MODEL = 4672,
    WASM_MATRIX = 4928,
    WASM_LAYER = 34560,
    WASM_CACHE = 16,
    WASM_SCRATCH = 64,
    WASM_CANDIDATES = 20,
    WASM_SYSTEM = 4,
    WASM_PANEL = 128
};
#ifdef __wasm__
_Static_assert(sizeof(sm_model) == WASM_MODEL && sizeof(sm_matrix) == WASM_MATRIX && sizeof(sm_layer) == WASM_LAYER,
               "sizes of structs changed");
_Static_assert(sizeof(sm_cache) == WASM_CACHE && sizeof(sm_scratch) == WASM_SCRATCH &&
                   sizeof(sm_candidates) == WASM_CANDIDATES && SM_PANEL == WASM_PANEL,
               "sizes of structs changed");
#else
// How many bytes more an array of structs takes in WebAssembly (there) than natively (here)
static ptrdiff_t extra_bytes(int32_t count, size_t there, size_t here) {
    return (ptrdiff_t)(((size_t)count * there + 63) / 64 * 64) - (ptrdiff_t)(((size_t)count * here + 63) / 64 * 64);
}

ptrdiff_t sm_wasm_arena_bytes(const sm_shape *s) {
    const ptrdiff_t here = sm_arena_bytes(s);
    if (here < 0) return here;
    return here + extra_bytes(1, WASM_MODEL, sizeof(sm_model)) + extra_bytes(1, WASM_SYSTEM, sm_system_bytes()) +
           (s->tied ? 1 : 2) * extra_bytes(1, WASM_MATRIX, sizeof(sm_matrix)) +
           extra_bytes(s->layers, WASM_LAYER, sizeof(sm_layer)) + extra_bytes(s->layers, WASM_CACHE, sizeof(sm_cache)) +
           extra_bytes(s->threads, WASM_SCRATCH, sizeof(sm_scratch)) +
           extra_bytes(sm_min(s->threads, s->sequences), WASM_CANDIDATES, sizeof(sm_candidates)) +
           (ptrdiff_t)s->threads * (32 * (WASM_PANEL - SM_PANEL * SM_TOGETHER) - s->tile * 64 * (SM_TOGETHER - 1));
}
#endif

ptrdiff_t sm_kv_bytes(const sm_shape *s) {
    sm_model m;
    size_t kv;
    const ptrdiff_t all = measure(s, &m, &kv);
    return all < 0 ? all : (ptrdiff_t)kv;
}

// ---- weights ----
static sm_matrix *matrix_of(sm_model *m, int32_t tensor, int32_t layer) {
    sm_layer *l = &m->layer[layer];
    switch (tensor) {
    case SM_EMBED:
        return m->embed;
    case SM_HEAD:
        return m->shape.tied ? NULL : m->head;
    case SM_Q:
        return &l->q;
    case SM_K:
        return &l->k;
    case SM_V:
        return &l->v;
    case SM_O:
        return &l->o;
    case SM_GATE:
        return &l->gate;
    case SM_UP:
        return &l->up;
    case SM_DOWN:
        return &l->down;
    default:
        return NULL;
    }
}

static const float **vector_of(sm_model *m, int32_t tensor, int32_t layer) {
    return tensor == SM_NORM        ? &m->norm
           : tensor == SM_ATTN_NORM ? &m->layer[layer].attn_norm
           : tensor == SM_MLP_NORM  ? &m->layer[layer].mlp_norm
                                    : NULL;
}

static uint64_t packed_bytes(int32_t format, int32_t rows, int32_t cols) { // as Format.nbytes; cols a multiple of 64
    const uint64_t lanes = (uint64_t)sm_blocks(rows) * 16;
    if (format == SM_INT8_ROW) return lanes * (uint64_t)cols + lanes * 4;
    return 64 + lanes * (uint64_t)cols / 2 + (lanes * (uint64_t)sm_groups(cols) + 63) / 64 * 64;
}

static int32_t add_vector(sm_model *m, const sm_part *p, const uint8_t *data) {
    const float **v = vector_of(m, p->tensor, p->layer);
    if (p->format != SM_F32 || p->begin != 0 || p->end != 1) return SM_E_FORMAT;
    if (*v) return SM_E_TENSORS;
    if (p->nbytes != ((uint64_t)m->shape.hidden * 4 + 63) / 64 * 64) return SM_E_BOUNDS;
    *v = (const float *)(const void *)data;
    return SM_OK;
}

static int32_t add_matrix(sm_matrix *w, const sm_part *p, const uint8_t *data) {
    if (p->format != SM_INT8_ROW && p->format != SM_INT4_BOOK_G128) return SM_E_FORMAT;
    if (p->begin % SM_ROWS || p->begin >= p->end || p->end > w->rows) return SM_E_FORMAT;
    if (p->begin != (w->pieces ? w->piece[w->pieces - 1].end : 0) || w->pieces == SM_MAX_PARTS) return SM_E_TENSORS;
    if (p->nbytes != packed_bytes(p->format, p->end - p->begin, w->cols)) return SM_E_BOUNDS;
    sm_piece *piece = &w->piece[w->pieces++];
    piece->begin = p->begin, piece->end = p->end, piece->format = p->format;
    sm_piece_init(piece, data, w->cols);
    return SM_OK;
}

static void size_matrices(sm_model *m) {
    const sm_shape *s = &m->shape;
    const int32_t q = s->heads * SM_DIM, kv = s->kv_heads * SM_DIM;
#define SM_SIZE(w, r, c) ((w)->pieces = 0, (w)->rows = (r), (w)->cols = (c))
    SM_SIZE(m->embed, s->vocab, s->hidden);
    SM_SIZE(m->head, s->vocab, s->hidden);
    for (sm_layer *l = m->layer; l < m->layer + s->layers; l++) {
        SM_SIZE(&l->q, q, s->hidden);
        SM_SIZE(&l->k, kv, s->hidden);
        SM_SIZE(&l->v, kv, s->hidden);
        SM_SIZE(&l->o, s->hidden, q);
        SM_SIZE(&l->gate, s->mlp, s->hidden);
        SM_SIZE(&l->up, s->mlp, s->hidden);
        SM_SIZE(&l->down, s->hidden, s->mlp);
        l->attn_norm = l->mlp_norm = NULL;
    }
#undef SM_SIZE
}

static int32_t add_part(sm_model *m, const sm_part *p, const uint8_t *weights, size_t bytes) {
    const int32_t layered = p->tensor >= SM_ATTN_NORM;
    if (!within(p->tensor, SM_EMBED, SM_DOWN) || !within(p->layer, 0, layered ? m->shape.layers - 1 : 0))
        return SM_E_TENSORS;
    if (p->offset % 64 || p->offset > bytes || p->nbytes > bytes - p->offset) return SM_E_BOUNDS;
    if (vector_of(m, p->tensor, p->layer)) return add_vector(m, p, weights + p->offset);
    sm_matrix *w = matrix_of(m, p->tensor, p->layer);
    return w ? add_matrix(w, p, weights + p->offset) : SM_E_TENSORS;
}

static int32_t complete(const sm_matrix *w) {
    return w->pieces && w->piece[w->pieces - 1].end == w->rows;
}

static int32_t all_there(const sm_model *m) {
    int32_t good = complete(m->embed) && complete(m->head) && m->norm;
    for (const sm_layer *l = m->layer; l < m->layer + m->shape.layers; l++)
        good = good && complete(&l->q) && complete(&l->k) && complete(&l->v) && complete(&l->o) && complete(&l->gate) &&
               complete(&l->up) && complete(&l->down) && l->attn_norm && l->mlp_norm;
    return good;
}

// ---- life ----
int32_t sm_create(const sm_shape *shape, const sm_part *parts, int32_t n_parts, const void *weights,
                  size_t weights_bytes, void *arena, size_t arena_bytes, sm_model **model) {
    sm_model measured;
    size_t kv;
    if (!shape || !parts || !weights || !arena || !model || (uintptr_t)weights % 64 || (uintptr_t)arena % 64)
        return SM_E_NULL;
    if (n_parts < 1) return SM_E_SIZE;
    const ptrdiff_t need = measure(shape, &measured, &kv);
    if (need < 0) return (int32_t)need;
    if (arena_bytes < (size_t)need) return SM_E_ARENA;
    sm_model *m = arena;
    __builtin_memset(m, 0, sizeof *m);
    m->shape = *shape, m->capacity = measured.capacity, m->chunks = measured.chunks;
    bump w = {arena, (sizeof(sm_model) + 63) / 64 * 64};
    alloc_model(&w, m);
    m->log_theta = sm_log_double(shape->rope_theta);
    __builtin_memset(m->held, 0, (size_t)shape->sequences * sizeof(int32_t));
    size_matrices(m);
    for (int32_t i = 0; i < n_parts; i++) {
        const int32_t code = add_part(m, &parts[i], weights, weights_bytes);
        if (code) return code;
    }
    if (!all_there(m)) return SM_E_TENSORS;
    const int32_t code = sm_threads_start(m);
    if (!code) *model = m;
    return code;
}

int32_t sm_enter(sm_model *m) {
    if (!m) return SM_E_NULL;
    if (sm_forked(m)) return SM_E_FORKED;
    return atomic_exchange(&m->busy, 1) ? SM_E_BUSY : SM_OK;
}

void sm_leave(sm_model *m) {
    atomic_store(&m->busy, 0);
}

static int32_t leave(sm_model *m, int32_t code) {
    sm_leave(m);
    return code;
}

int32_t sm_close(sm_model *m) {
    const int32_t code = sm_enter(m);
    if (!code) sm_threads_end(m);
    return code;
}

// ---- reading tokens ----
static int32_t check_tokens(const sm_model *m, const int32_t *ids, int32_t n, int32_t pos, int32_t want,
                            const float *logits) {
    if (!ids || (want == SM_ALL_LOGITS && !logits)) return SM_E_NULL;
    if (n < 1 || n > m->shape.context || !within(want, SM_NO_LOGITS, SM_ALL_LOGITS)) return SM_E_SIZE;
    if (!within(pos, 0, m->held[0]) || pos > m->shape.context - n) return SM_E_POSITION;
    for (int32_t i = 0; i < n; i++)
        if (!within(ids[i], 0, m->shape.vocab - 1)) return SM_E_TOKEN;
    return SM_OK;
}

// One pass over the weights for n tokens, at most a tile
static void pass(sm_model *m, const sm_token *tokens, int32_t n, int32_t wanted, float *logits, float *residual,
                 size_t plane) {
    m->job = (sm_job){.kind = SM_JOB_FORWARD,
                      .tokens = tokens,
                      .n = n,
                      .wanted = wanted,
                      .logits = logits,
                      .residual = residual,
                      .plane = plane};
    sm_threads_run(m);
    for (int32_t i = 0; i < n; i++) m->held[tokens[i].sequence] = tokens[i].pos + 1;
}

SM_SMALL static int32_t read_tokens(sm_model *m, const int32_t *ids, int32_t n, int32_t pos, int32_t want,
                                    float *logits,
                                    float *residual) { // NULL, or (layers + 1, n, hidden)
    const size_t hidden = (size_t)m->shape.hidden;
    if (!sm_threads_ready(m)) return SM_E_THREADS;
    for (int32_t i = 0; i < n; i += m->shape.tile) {
        const int32_t count = sm_min(n - i, m->shape.tile), end = i + count == n,
                      wanted = want == SM_ALL_LOGITS ? count : want == SM_LAST_LOGITS && end;
        for (int32_t t = 0; t < count; t++) m->tokens[t] = (sm_token){ids[i + t], 0, pos + i + t};
        pass(m, m->tokens, count, wanted,
             want == SM_ALL_LOGITS ? logits + (size_t)i * (size_t)m->shape.vocab
             : logits              ? logits
                                   : m->logits,
             residual ? residual + (size_t)i * hidden : NULL, (size_t)n * hidden);
    }
    return SM_OK;
}

static int32_t check_sequences(sm_model *m, const sm_token *tokens, int32_t n) {
    for (int32_t i = 0; i < m->shape.sequences; i++) m->next[i] = -1;
    for (const sm_token *t = tokens; t < tokens + n; t++) {
        if (!within(t->sequence, 0, m->shape.sequences - 1)) return SM_E_SEQUENCE;
        if (!within(t->id, 0, m->shape.vocab - 1)) return SM_E_TOKEN;
        int32_t *next = &m->next[t->sequence];
        const int32_t first = *next < 0;
        if (!within(t->pos, first ? 0 : *next, first ? m->held[t->sequence] : *next) || t->pos >= m->shape.context)
            return SM_E_POSITION;
        *next = t->pos + 1;
    }
    return SM_OK;
}

int32_t sm_read(sm_model *m, const sm_token *tokens, int32_t n, int32_t wanted, float *logits) {
    int32_t code = sm_enter(m);
    if (code) return code;
    if (!tokens || (wanted && !logits)) return leave(m, SM_E_NULL);
    if (!within(n, 1, 1 << 20) || !within(wanted, 0, n)) return leave(m, SM_E_SIZE);
    if ((code = check_sequences(m, tokens, n))) return leave(m, code);
    if (!sm_threads_ready(m)) return leave(m, SM_E_THREADS);
    for (int32_t i = 0, count; i < n; i += count) {
        count = sm_min(n - i, m->shape.tile);
        const int32_t before = sm_min(n - wanted - i, count), skipped = before > 0 ? before : 0,
                      done = i + skipped - (n - wanted);
        pass(m, tokens + i, count, count - skipped, logits + (done > 0 ? (size_t)done * (size_t)m->shape.vocab : 0),
             NULL, 0);
    }
    return leave(m, SM_OK);
}

int32_t sm_prefill(sm_model *m, const int32_t *ids, int32_t n, int32_t pos, int32_t want, float *logits) {
    int32_t code = sm_enter(m);
    if (code) return code;
    code = check_tokens(m, ids, n, pos, want, logits);
    return leave(m, code ? code : read_tokens(m, ids, n, pos, want, logits, NULL));
}

int32_t sm_decode(sm_model *m, int32_t id, int32_t pos, float *logits) {
    return sm_prefill(m, &id, 1, pos, SM_LAST_LOGITS, logits);
}

SM_SMALL int32_t sm_copy(sm_model *m, int32_t from, int32_t to, int32_t n) {
    const int32_t code = sm_enter(m);
    if (code) return code;
    const int32_t last = m->shape.sequences - 1;
    if (!within(from, 0, last) || !within(to, 0, last)) return leave(m, SM_E_SEQUENCE);
    if (!within(n, 0, m->held[from])) return leave(m, SM_E_SIZE);
    const size_t capacity = (size_t)m->capacity, heads = (size_t)m->shape.kv_heads,
                 whole = (size_t)((n + SM_BLOCK - 1) / SM_BLOCK * SM_BLOCK); // keys stand in blocks
    for (const sm_cache *c = m->cache; c < m->cache + m->shape.layers && from != to; c++)
        for (size_t h = 0; h < heads; h++) {
            const size_t a = ((size_t)from * heads + h) * capacity, b = ((size_t)to * heads + h) * capacity;
            __builtin_memcpy(c->k + b * SM_DIM, c->k + a * SM_DIM, whole * SM_DIM * sizeof *c->k);
            __builtin_memcpy(c->v + b * SM_DIM, c->v + a * SM_DIM, whole * SM_DIM * sizeof *c->v);
            __builtin_memcpy(c->kscale + b, c->kscale + a, whole * sizeof *c->kscale);
            __builtin_memcpy(c->vscale + b, c->vscale + a, whole * sizeof *c->vscale);
        }
    m->held[to] = n;
    return leave(m, SM_OK);
}

// ---- looking inside ----
SM_SMALL int32_t sm_trace(sm_model *m, const int32_t *ids, int32_t n, int32_t pos, int32_t want, float *logits,
                          float *residual, size_t residual_count) {
    int32_t code = sm_enter(m);
    if (code) return code;
    if ((code = check_tokens(m, ids, n, pos, want, logits))) return leave(m, code);
    if (!residual) return leave(m, SM_E_NULL);
    if (residual_count / (size_t)m->shape.hidden / (size_t)(m->shape.layers + 1) < (size_t)n)
        return leave(m, SM_E_SIZE);
    return leave(m, read_tokens(m, ids, n, pos, want, logits, residual));
}

SM_SMALL static int32_t check_rows(const float *in, int32_t n, const void *out) {
    if (!in || !out) return SM_E_NULL;
    return within(n, 1, 1 << 20) ? SM_OK : SM_E_SIZE;
}

SM_SMALL static int32_t all_finite(const float *x, size_t n) { // n a multiple of 16
    i32x16 good = sm_set1i(-1);
    for (size_t i = 0; i < n; i += 16) good &= sm_abs(sm_load(x + i)) <= FLT_MAX; // NaN is not
    for (int i = 0; i < 16; i++)
        if (!good[i]) return 0;
    return 1;
}

SM_SMALL int32_t sm_head(sm_model *m, const float *hidden, int32_t n, float *logits) {
    int32_t code = sm_enter(m);
    if (code) return code;
    if ((code = check_rows(hidden, n, logits))) return leave(m, code);
    const size_t width = (size_t)m->shape.hidden;
    if (!all_finite(hidden, (size_t)n * width)) return leave(m, SM_E_HIDDEN);
    if (!sm_threads_ready(m)) return leave(m, SM_E_THREADS);
    for (int32_t i = 0; i < n; i += m->shape.tile) {
        m->job = (sm_job){.kind = SM_JOB_HEAD,
                          .n = sm_min(n - i, m->shape.tile),
                          .rows = hidden + (size_t)i * width,
                          .logits = logits + (size_t)i * (size_t)m->shape.vocab};
        sm_threads_run(m);
    }
    return leave(m, SM_OK);
}

SM_SMALL int32_t sm_likeliest(sm_model *m, const float *logits, int32_t n, int32_t k, int32_t *ids, float *probs) {
    int32_t code = sm_enter(m);
    if (code) return code;
    if ((code = check_rows(logits, n, ids))) return leave(m, code);
    if (!probs) return leave(m, SM_E_NULL);
    if (!within(k, 1, sm_min(SM_MAX_LIKELIEST, m->shape.vocab))) return leave(m, SM_E_SIZE);
    if (!sm_threads_ready(m)) return leave(m, SM_E_THREADS);
    m->job = (sm_job){.kind = SM_JOB_LIKELIEST, .n = n, .rows = logits, .k = k, .best = ids, .probs = probs};
    sm_threads_run(m);
    for (int32_t i = 0; i < n; i++)
        if (ids[(size_t)i * (size_t)k] < 0) code = SM_E_SCORES;
    return leave(m, code);
}

float *sm_logits(sm_model *m) {
    return m ? m->logits : NULL;
}
int32_t sm_held(const sm_model *m) {
    return m ? m->held[0] : SM_E_NULL;
}

int32_t sm_forget(sm_model *m, int32_t n) {
    const int32_t code = sm_enter(m);
    if (code) return code;
    if (!within(n, 0, m->held[0])) return leave(m, SM_E_SIZE);
    m->held[0] = n;
    return leave(m, SM_OK);
}
