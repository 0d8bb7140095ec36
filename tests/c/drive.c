// Drives the kernel through random calls, most of them right, some of them wrong, and prints one hash of everything
// that came back. The same case and seed must print the same hash on every processor, with any number of threads; under
// sanitizers nothing may be read or written outside its buffer, which is why every buffer here has exactly the size it
// needs.
//
//     drive CASE SEED CALLS THREADS
//
// CASE holds sm_shape, the number of parts (int32), the bytes of the weights (uint64), the parts, the weights. Without
// one, "-", models of random shapes come in turn, and tables with one number changed, most of which are refused.
#include "smollm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int32_t sm_tiles_left(void); // of model.h, which is the kernel's own

static uint64_t hash = 14695981039346656037u; // FNV-1a, 64 bits
static void mix(const void *p, size_t n) {
    for (size_t i = 0; i < n; i++) hash = (hash ^ ((const uint8_t *)p)[i]) * 1099511628211u;
}
static void mix_int(int64_t x) {
    mix(&x, sizeof x);
}

static uint64_t seed;
static uint32_t random_bits(void) { // 31 random bits
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}
static int32_t random_below(int32_t n) { // 0..n-1
    return (int32_t)(random_bits() % (uint32_t)n);
}
static int32_t one_time_in(int32_t one_in) {
    return random_below(one_in) == 0;
}

static void need(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "drive: %s\n", what);
        exit(1);
    }
}
static void *block(size_t n) { // aligned to 64, exactly n bytes
    void *p = NULL;
#ifdef _WIN32
    p = _aligned_malloc(n, 64);
#else
    if (posix_memalign(&p, 64, n)) p = NULL;
#endif
    need(p != NULL, "no memory");
    return p;
}

static sm_shape shape;
static int32_t others[256]; // tokens that the sequences but the first hold
static sm_part *parts;
static int32_t n_parts;
static uint8_t *weights;
static uint64_t weights_bytes;
static void *arena;
static sm_model *model;

static void load(const char *path) {
    FILE *f = fopen(path, "rb");
    need(f && fread(&shape, sizeof shape, 1, f) == 1 && fread(&n_parts, 4, 1, f) == 1 &&
             fread(&weights_bytes, 8, 1, f) == 1,
         "no case");
    parts = malloc((size_t)n_parts * sizeof *parts);
    weights = block(weights_bytes);
    need(parts && fread(parts, sizeof *parts, (size_t)n_parts, f) == (size_t)n_parts &&
             fread(weights, 1, weights_bytes, f) == weights_bytes,
         "the case is cut short");
    fclose(f);
}

// ---- models of random shapes ----
static int32_t random_shapes; // no case was given

static void add(int32_t tensor, int32_t layer, int32_t begin, int32_t end, int32_t cols, int32_t format) {
    const size_t lanes = (size_t)(end - begin + 15) / 16 * 16, c = (size_t)cols;
    const size_t n = format == SM_F32        ? c * 4
                     : format == SM_INT8_ROW ? lanes * c + lanes * 4
                                             : 64 + lanes * c / 2 + (lanes * ((c + 127) / 128) + 63) / 64 * 64;
    parts[n_parts++] = (sm_part){tensor, layer, begin, end, format, 0, weights_bytes, (n + 63) / 64 * 64};
    weights_bytes += (n + 63) / 64 * 64;
}

static void matrix(int32_t tensor, int32_t layer, int32_t rows, int32_t cols) {
    const int32_t cut = rows > 16 ? random_below(rows / 16) * 16 : 0;
    if (cut) add(tensor, layer, 0, cut, cols, SM_INT8_ROW);
    add(tensor, layer, cut, rows, cols, SM_INT4_BOOK_G128);
}

static void fill(void) { // small scales everywhere, any codes
    weights = block(weights_bytes);
    for (size_t i = 0; i < weights_bytes; i++) weights[i] = (uint8_t)random_bits();
    for (const sm_part *p = parts; p < parts + n_parts; p++) {
        float *f = (float *)(void *)(weights + p->offset);
        const size_t lanes = (size_t)(p->end - p->begin + 15) / 16 * 16;
        if (p->format == SM_F32)
            for (size_t i = 0; i < p->nbytes / 4; i++) f[i] = 1;
        if (p->format == SM_INT8_ROW)
            for (size_t i = 0; i < lanes; i++) f[p->nbytes / 4 - lanes + i] = 0.001f;
        if (p->format == SM_INT4_BOOK_G128) f[0] = 0.002f;
    }
}

static void make_random_model(void) {
    static const int32_t sizes[] = {64, 128, 192, 320};
    const int32_t kv = 1 + random_below(2), heads = kv * (1 + random_below(5)), hidden = sizes[random_below(4)],
                  mlp = sizes[random_below(4)], layers = 1 + random_below(2), vocab = 1 + random_below(300),
                  tied = random_below(2);
    shape = (sm_shape){
        vocab, hidden, mlp, layers, heads, kv, 64, 1 + random_below(300), tied, shape.threads, 1, 1 + random_below(4),
        10000, 1e-5f};
    free(parts), free(weights);
    parts = malloc(64 * sizeof *parts), n_parts = 0, weights_bytes = 0;
    need(parts != NULL, "no memory");
    matrix(SM_EMBED, 0, vocab, hidden);
    add(SM_NORM, 0, 0, 1, hidden, SM_F32);
    if (!tied) matrix(SM_HEAD, 0, vocab, hidden);
    for (int32_t l = 0; l < layers; l++) {
        add(SM_ATTN_NORM, l, 0, 1, hidden, SM_F32), add(SM_MLP_NORM, l, 0, 1, hidden, SM_F32);
        matrix(SM_Q, l, heads * 64, hidden);
        matrix(SM_K, l, kv * 64, hidden);
        matrix(SM_V, l, kv * 64, hidden);
        matrix(SM_O, l, hidden, heads * 64);
        matrix(SM_GATE, l, mlp, hidden);
        matrix(SM_UP, l, mlp, hidden);
        matrix(SM_DOWN, l, hidden, mlp);
    }
    fill();
}

static void create_damaged(void) { // one number of shape or table changed, to anything
    sm_shape s = shape;
    sm_part p[64];
    memcpy(p, parts, (size_t)n_parts * sizeof *p);
    if (random_below(2))
        ((int32_t *)&s)[random_below(11)] = random_below(3) ? random_below(400) : (int32_t)random_bits();
    else
        ((int32_t *)&p[random_below(n_parts)])[random_below(10)] =
            random_below(2) ? random_below(400) : (int32_t)random_bits();
    const ptrdiff_t size = sm_arena_bytes(&s);
    if (size < 0 || size > 1 << 26) return;
    void *own = block((size_t)size);
    sm_model *m = NULL;
    if (sm_create(&s, p, n_parts, weights, weights_bytes, own, (size_t)size, &m) == SM_OK) sm_close(m);
    free(own);
}

// ---- calls ----
static void start(int32_t tile) {
    if (random_shapes) {
        make_random_model();
        for (int i = 0; i < 20; i++) create_damaged();
    }
    shape.tile = tile;
    const ptrdiff_t size = sm_arena_bytes(&shape);
    need(size > 0, "no arena");
    arena = block((size_t)size);
    memset(arena, 0xa5, (size_t)size);
    need(sm_create(&shape, parts, n_parts, weights, weights_bytes, arena, (size_t)size, &model) == SM_OK, "sm_create");
    memset(others, 0, sizeof others);
    need(sm_held(model) == 0, "a new model holds nothing");
}

static void stop(void) {
    need(sm_close(model) == SM_OK, "sm_close");
    free(arena);
    model = NULL;
}

static void create_wrongly(void) { // one wrong thing at a time: the code, and no model
    sm_shape s = shape;
    sm_part *p = malloc((size_t)n_parts * sizeof *p);
    sm_model *none = NULL;
    int32_t n = n_parts;
    uint64_t bytes = weights_bytes;
    need(p != NULL, "no memory");
    memcpy(p, parts, (size_t)n_parts * sizeof *p);
    sm_part *one = p + random_below(n_parts);
    switch (random_below(12)) {
    case 0:
        s.hidden += 8;
        break;
    case 1:
        s.vocab = -1;
        break;
    case 2:
        s.heads = 1 << 30;
        break;
    case 3:
        s.kv_heads = s.heads + 1;
        break;
    case 4:
        s.rms_eps = -1;
        break;
    case 5:
        n--;
        break;
    case 6:
        one->offset += 64;
        one->offset += weights_bytes;
        break;
    case 7:
        one->nbytes -= 64;
        break;
    case 8:
        one->format = 7;
        break;
    case 9:
        one->end += 16;
        break;
    case 10:
        one->offset = ~(uint64_t)0 - 63;
        break;
    default:
        bytes /= 2;
    }
    const ptrdiff_t size = sm_arena_bytes(&shape);
    void *own = block((size_t)size);
    const int32_t code = sm_create(&s, p, n, weights, bytes, own, (size_t)size, &none);
    need(code < 0 && !none, "a wrong model was created");
    mix_int(code);
    need(sm_create(&shape, parts, n_parts, weights, weights_bytes, own, (size_t)size - 64, &none) == SM_E_ARENA,
         "a small arena was taken");
    free(own);
    free(p);
}

static void read_tokens(void) {
    const int32_t held = sm_held(model), n = one_time_in(12)  ? random_below(3) - 2
                                             : one_time_in(3) ? 1
                                                              : 1 + random_below(40);
    const int32_t pos = one_time_in(10)  ? random_below(shape.context + 9) - 4
                        : one_time_in(3) ? random_below(held + 1)
                                         : held,
                  want = one_time_in(15) ? 7 : random_below(3);
    const int32_t count = n > 0 ? n : 1;
    int32_t *ids = malloc((size_t)count * 4);
    float *logits = malloc((size_t)(want == SM_ALL_LOGITS ? count : 1) * (size_t)shape.vocab * 4);
    need(ids && logits, "no memory");
    for (int32_t i = 0; i < count; i++)
        ids[i] = one_time_in(300) ? random_below(3) * shape.vocab - shape.vocab - 1 : random_below(shape.vocab);
    const int32_t code = n == 1 && want == SM_LAST_LOGITS ? sm_decode(model, ids[0], pos, logits)
                                                          : sm_prefill(model, ids, n, pos, want, logits);
    mix_int(code);
    if (code == SM_OK) {
        need(sm_held(model) == pos + n, "a good call holds its tokens");
        if (want) mix(logits, (size_t)(want == SM_ALL_LOGITS ? n : 1) * (size_t)shape.vocab * 4);
    } else
        need(code < 0 && sm_held(model) == held && sm_error(code)[0], "a refused call changes nothing");
    free(ids);
    free(logits);
}

static void look_inside(void) { // the residual stream, the head of some of it, the likeliest tokens
    const int32_t held = sm_held(model), n = 1 + random_below(one_time_in(2) ? 1 : 20), want = random_below(3),
                  pos = one_time_in(10) ? held + 1 : random_below(held + 1);
    const size_t planes = (size_t)shape.layers + 1, hidden = (size_t)shape.hidden, vocab = (size_t)shape.vocab,
                 count = planes * (size_t)n * hidden, less = one_time_in(12);
    const int32_t rows = 1 + random_below(n),
                  k = one_time_in(12) ? 0 : 1 + random_below(shape.vocab < 64 ? shape.vocab : 64);
    int32_t *ids = malloc((size_t)n * 4), *best = malloc((size_t)(rows * (k ? k : 1)) * 4);
    float *residual = malloc((count - less) * 4), *probs = malloc((size_t)(rows * (k ? k : 1)) * 4);
    float *logits = malloc((size_t)n * vocab * 4);
    need(ids && best && residual && probs && logits, "no memory");
    for (int32_t i = 0; i < n; i++) ids[i] = one_time_in(300) ? -1 : random_below(shape.vocab);
    const int32_t code = sm_trace(model, ids, n, pos, want, logits, residual, count - less);
    mix_int(code);
    if (code == SM_OK) {
        need(sm_held(model) == pos + n, "a good call holds its tokens");
        mix(residual, count * 4);
        if (want) mix(logits, (size_t)(want == SM_ALL_LOGITS ? n : 1) * vocab * 4);
        if (one_time_in(9)) residual[count - 1] = (float)strtod(one_time_in(2) ? "nan" : "inf", NULL);
        const int32_t done = sm_head(model, residual + count - (size_t)rows * hidden, rows, logits);
        mix_int(done);
        if (done == SM_OK) {
            mix(logits, (size_t)rows * vocab * 4);
            if (one_time_in(9)) logits[0] = (float)strtod(one_time_in(2) ? "nan" : "inf", NULL);
            const int32_t ranked = sm_likeliest(model, logits, rows, k, best, probs);
            mix_int(ranked);
            if (ranked == SM_OK) mix(best, (size_t)(rows * k) * 4), mix(probs, (size_t)(rows * k) * 4);
        }
    } else
        need(code < 0 && sm_held(model) == held, "a refused call changes nothing");
    free(ids), free(best), free(residual), free(probs), free(logits);
}

// Tokens of several sequences, some of them copied before; one call in four has something wrong
static void read_sequences(void) {
    const int32_t from = random_below(shape.sequences), to = random_below(shape.sequences),
                  copied = random_below((from ? others[from] : sm_held(model)) + 2);
    const int32_t code_of_copy = sm_copy(model, from, one_time_in(20) ? shape.sequences : to, copied);
    mix_int(code_of_copy);
    if (code_of_copy == SM_OK && to) others[to] = copied;
    const int32_t n = 1 + random_below(12), wanted = random_below(n + (one_time_in(20) ? 3 : 1));
    sm_token tokens[12];
    int32_t next[256];
    memcpy(next, others, sizeof next);
    next[0] = sm_held(model);
    for (int32_t i = 0; i < n; i++) {
        const int32_t s = random_below(shape.sequences);
        tokens[i] = (sm_token){random_below(shape.vocab), s, next[s]++};
        if (one_time_in(60)) tokens[i].id = -1;
        if (one_time_in(60)) tokens[i].pos += 1;
        if (one_time_in(60)) tokens[i].sequence = shape.sequences;
    }
    float *logits = malloc((size_t)(wanted ? wanted : 1) * (size_t)shape.vocab * 4);
    need(logits != NULL, "no memory");
    const int32_t held = sm_held(model), code = sm_read(model, tokens, n, wanted, logits);
    mix_int(code);
    if (code == SM_OK) {
        memcpy(others, next, sizeof next);
        need(sm_held(model) == next[0], "a good call holds its tokens");
        mix(logits, (size_t)wanted * (size_t)shape.vocab * 4);
    } else
        need(code < 0 && sm_held(model) == held, "a refused call changes nothing");
    free(logits);
}

static void choose_several(void) {
    const int32_t n = 1 + random_below(5), n_history = random_below(20);
    sm_choice choices[5];
    int32_t history[20];
    float *logits = malloc((size_t)n * (size_t)shape.vocab * 4);
    need(logits != NULL, "no memory");
    for (int32_t i = 0; i < n * shape.vocab; i++) logits[i] = (float)(random_below(4000) - 2000) / 300;
    for (int32_t i = 0; i < n_history; i++) history[i] = one_time_in(200) ? -3 : random_below(shape.vocab);
    if (one_time_in(9)) logits[random_below(n * shape.vocab)] = (float)strtod("nan", NULL);
    for (int32_t i = 0; i < n; i++) {
        const int32_t begin = random_below(n_history + 1), end = begin + random_below(n_history - begin + 1);
        choices[i] = (sm_choice){.how = {random_below(3) / 2.0, 1, 0, 1 + random_below(2), random_below(9), 0},
                                 .begin = begin,
                                 .end = one_time_in(40) ? end + 30 : end};
        sm_rng_seed(&choices[i].rng, random_bits(), 54);
    }
    const int32_t code = sm_choose(model, logits, choices, n, history, n_history);
    mix_int(code);
    for (int32_t i = 0; i < n && code == SM_OK; i++) {
        mix_int(choices[i].id);
        mix(&choices[i].rng, sizeof choices[i].rng);
        mix(&choices[i].log_probability, sizeof choices[i].log_probability);
        need(choices[i].id < shape.vocab, "a choice outside the vocabulary");
    }
    free(logits);
}

static void choose(void) {
    const double nan = strtod("nan", NULL);
    sm_sampling how = {
        random_below(4) ? random_below(30) / 10.0 : 0,   random_below(2) ? 1 : random_below(101) / 100.0,
        random_below(2) ? 0 : random_below(101) / 100.0, random_below(2) ? 1 : 0.5 + random_below(20) / 10.0,
        random_below(2) ? 0 : random_below(600),         0};
    sm_rng rng;
    int32_t n = random_below(50), *history = malloc((size_t)(n + 1) * 4);
    float *logits = malloc((size_t)shape.vocab * 4);
    need(history && logits, "no memory");
    if (one_time_in(12)) how.temperature = nan;
    if (one_time_in(12)) how.top_p = -0.5;
    for (int32_t i = 0; i < n; i++) history[i] = one_time_in(400) ? -3 : random_below(shape.vocab);
    for (int32_t i = 0; i < shape.vocab; i++)
        logits[i] = (float)(random_below(4000) - 2000) / (float)(one_time_in(9) ? 8 : 300);
    sm_rng_seed(&rng, random_bits(), 54);
    for (int32_t i = 0; i < 4; i++) {
        const int32_t id = sm_sample(model, logits, &how, &rng, history, n);
        const double log_p = sm_log_probability(model, logits, id);
        need(id < 0 ? log_p == 1 : log_p <= 0, "a logarithm of no probability");
        mix(&log_p, sizeof log_p);
        need(id < shape.vocab, "a choice outside the vocabulary");
        mix_int(id);
    }
    mix(&rng, sizeof rng);
    free(history);
    free(logits);
}

static void call_with_null(void) { // nothing that is NULL may hurt
    int32_t id = 1;
    mix_int(sm_prefill(NULL, &id, 1, 0, 1, NULL));
    mix_int(sm_prefill(model, NULL, 1, 0, 1, NULL));
    mix_int(sm_sample(model, NULL, NULL, NULL, NULL, 0));
    mix_int(sm_trace(NULL, &id, 1, 0, 1, NULL, NULL, 0));
    mix_int(sm_trace(model, &id, 1, 0, 1, NULL, NULL, 0));
    mix_int(sm_head(NULL, NULL, 1, NULL));
    mix_int(sm_head(model, NULL, 1, NULL));
    mix_int(sm_likeliest(NULL, NULL, 1, 1, NULL, NULL));
    mix_int(sm_likeliest(model, NULL, 1, 1, NULL, NULL));
    mix_int(sm_read(NULL, NULL, 1, 0, NULL));
    mix_int(sm_read(model, NULL, 1, 0, NULL));
    mix_int(sm_copy(NULL, 0, 0, 0));
    mix_int(sm_choose(NULL, NULL, NULL, 1, NULL, 0));
    mix_int(sm_choose(model, NULL, NULL, 1, NULL, 0));
    mix_int(sm_arena_bytes(NULL));
    mix_int(sm_close(NULL));
    mix_int(sm_held(NULL));
    need(sm_error(-99)[0] && sm_error(12345)[0], "every number has words");
}

int main(int argc, char **argv) {
    need(argc == 5, "drive CASE SEED CALLS THREADS");
    random_shapes = !strcmp(argv[1], "-");
    if (!random_shapes) load(argv[1]);
    seed = (uint64_t)strtoull(argv[2], NULL, 10);
    shape.threads = atoi(argv[4]);
    need(sm_self_test() == SM_OK, "the self-test failed");
    start(1 + random_below(70));
    for (int32_t calls = atoi(argv[3]); calls > 0; calls--) {
        if (random_shapes && one_time_in(12)) stop(), start(1 + random_below(70));
        const int32_t what = random_below(100);
        if (what < 45)
            read_tokens();
        else if (what < 58)
            read_sequences();
        else if (what < 62)
            choose_several();
        else if (what < 72)
            look_inside();
        else if (what < 86)
            choose();
        else if (what < 91) {
            const int32_t n = random_below(sm_held(model) + 3) - 1;
            mix_int(sm_forget(model, n));
            mix_int(sm_held(model));
        } else if (what < 94) {
            stop();
            start(1 + random_below(70));
        } else if (what < 97)
            create_wrongly();
        else
            call_with_null();
        need(!sm_tiles_left(), "tiles were left to the caller");
    }
    stop();
    free(parts);
    free(weights);
    printf("%s %016llx\n", sm_variant(), (unsigned long long)hash);
    return 0;
}
