// Random calls on models of random shapes, for the sanitizers: every buffer is allocated to the byte, half of what is asked is
// wrong. Prints a checksum of all logits. usage: fuzz SEED ROUNDS
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smollm.h"

static uint64_t state;
static uint32_t noise(void) { return (uint32_t)((state = state*6364136223846793005u + 1442695040888963407u) >> 33); }
static int32_t below(int32_t n) { return (int32_t)(noise() % (uint32_t)n); }

static void *room(size_t n) { // n bytes, a multiple of 64, so that nothing lies behind them
    void *p = aligned_alloc(64, n);
    if (!p) exit(3);
    memset(p, 0xff, n); // floats are NaN where nothing was written
    return p;
}

typedef struct {
    sm_shape shape;
    sm_part part[64];
    int32_t parts;
    uint8_t *weights, *arena;
    size_t bytes;
    sm_model *model;
} rig;

static void add(rig *r, int32_t tensor, int32_t layer, int32_t begin, int32_t end, int32_t cols, int32_t format) {
    const size_t lanes = (size_t)(end - begin + 15)/16*16, c = (size_t)cols;
    const size_t n = format == SM_F32 ? c*4 : format == SM_INT8_ROW ? lanes*c + lanes*4 : 64 + lanes*c/2 + (lanes*((c + 127)/128) + 63)/64*64;
    r->part[r->parts++] = (sm_part){tensor, layer, begin, end, format, 0, r->bytes, (n + 63)/64*64};
    r->bytes += (n + 63)/64*64;
}

static void matrix(rig *r, int32_t tensor, int32_t layer, int32_t rows, int32_t cols) {
    const int32_t cut = rows > 16 ? below(rows/16)*16 : 0;
    if (cut) add(r, tensor, layer, 0, cut, cols, SM_INT8_ROW);
    add(r, tensor, layer, cut, rows, cols, SM_INT4_BOOK_G128);
}

static void fill(rig *r) { // small scales everywhere, any codes
    r->weights = room(r->bytes);
    for (size_t i = 0; i < r->bytes; i++) r->weights[i] = (uint8_t)noise();
    for (const sm_part *p = r->part; p < r->part + r->parts; p++) {
        float *f = (float *)(void *)(r->weights + p->offset);
        const size_t lanes = (size_t)(p->end - p->begin + 15)/16*16;
        if (p->format == SM_F32) for (size_t i = 0; i < p->nbytes/4; i++) f[i] = 1;
        if (p->format == SM_INT8_ROW) for (size_t i = 0; i < lanes; i++) f[p->nbytes/4 - lanes + i] = 0.001f;
        if (p->format == SM_INT4_BOOK_G128) f[0] = 0.002f;
    }
}

static void make(rig *r) {
    static const int32_t sizes[] = {64, 128, 192, 320};
    memset(r, 0, sizeof *r);
    sm_shape *s = &r->shape;
    s->kv_heads = 1 + below(2), s->heads = s->kv_heads*(1 + below(5)), s->head_dim = 64, s->layers = 1 + below(2), s->vocab = 1 + below(300);
    s->hidden = sizes[below(4)], s->mlp = sizes[below(4)], s->context = 1 + below(300), s->tied = below(2), s->threads = 1 + below(3), s->tile = 1 + below(40);
    s->rope_theta = 10000, s->rms_eps = 1e-5f;
    matrix(r, SM_EMBED, 0, s->vocab, s->hidden);
    add(r, SM_NORM, 0, 0, 1, s->hidden, SM_F32);
    if (!s->tied) matrix(r, SM_HEAD, 0, s->vocab, s->hidden);
    for (int32_t l = 0; l < s->layers; l++) {
        const int32_t q = s->heads*64, kv = s->kv_heads*64;
        add(r, SM_ATTN_NORM, l, 0, 1, s->hidden, SM_F32), add(r, SM_MLP_NORM, l, 0, 1, s->hidden, SM_F32);
        matrix(r, SM_Q, l, q, s->hidden), matrix(r, SM_K, l, kv, s->hidden), matrix(r, SM_V, l, kv, s->hidden), matrix(r, SM_O, l, s->hidden, q);
        matrix(r, SM_GATE, l, s->mlp, s->hidden), matrix(r, SM_UP, l, s->mlp, s->hidden), matrix(r, SM_DOWN, l, s->hidden, s->mlp);
    }
    fill(r);
}

static int32_t mangled(rig *r) { // a shape or a table with one number changed; most are refused, none may hurt
    sm_shape s = r->shape;
    sm_part part[64];
    memcpy(part, r->part, sizeof part);
    if (below(2)) ((int32_t *)&s)[below(11)] = below(3) ? below(400) : (int32_t)noise();
    else ((int32_t *)&part[below(r->parts)])[below(10)] = below(2) ? below(400) : (int32_t)noise();
    const ptrdiff_t need = sm_arena_bytes(&s);
    if (need < 0 || need > 1 << 26) return 0;
    void *arena = room((size_t)need);
    sm_model *m = NULL;
    const int32_t code = sm_create(&s, part, r->parts, r->weights, r->bytes, arena, (size_t)need, &m);
    if (!code) sm_close(m);
    free(arena);
    return code;
}

static uint64_t hash(uint64_t h, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        h = (h ^ bits)*1099511628211u;
    }
    return h;
}

static uint64_t read_some(rig *r, uint64_t h) {
    const int32_t n = below(2) ? 1 : 1 + below(r->shape.context + 3), pos = below(sm_held(r->model) + 2), want = below(3);
    const size_t room_for = (size_t)(want == SM_ALL_LOGITS ? n : 1)*(size_t)r->shape.vocab;
    int32_t *ids = malloc((size_t)n*4);
    float *out = malloc(room_for*4);
    for (int32_t i = 0; i < n; i++) ids[i] = below(r->shape.vocab + (below(40) == 0));
    if (!sm_prefill(r->model, ids, n, pos, want, out) && want) h = hash(h, out, room_for);
    free(ids), free(out);
    return h;
}

static uint64_t choose(rig *r, uint64_t h) {
    const sm_sampling how = {below(3)*0.5, below(11)/10.0, below(2)*0.1, 1 + below(2)*0.3, below(50), 0};
    const int32_t n = below(20);
    int32_t *history = malloc((size_t)n*4 + 1);
    for (int32_t i = 0; i < n; i++) history[i] = below(r->shape.vocab);
    sm_rng rng;
    sm_rng_seed(&rng, noise(), 54);
    const int32_t id = sm_sample(r->model, NULL, &how, &rng, history, n);
    free(history);
    return (h ^ (uint64_t)id)*1099511628211u;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    state = strtoull(argv[1], NULL, 10);
    uint64_t h = 14695981039346656037u;
    if (sm_self_test()) return 4;
    for (int32_t i = atoi(argv[2]); i; i--) {
        rig r;
        make(&r);
        for (int k = 0; k < 20; k++) mangled(&r);
        const size_t need = (size_t)sm_arena_bytes(&r.shape);
        r.arena = room(need);
        if (sm_create(&r.shape, r.part, r.parts, r.weights, r.bytes, r.arena, need, &r.model)) return 5;
        sm_decode(r.model, 0, 0, NULL);
        for (int k = 0; k < 12; k++) h = below(3) ? read_some(&r, h) : below(3) ? choose(&r, h) : h + (uint64_t)sm_forget(r.model, below(sm_held(r.model) + 1));
        sm_close(r.model);
        free(r.arena), free(r.weights);
    }
    printf("%016llx\n", (unsigned long long)h);
    return 0;
}
