// Choosing a token by generate.py's rule, step by step, in double precision. The order that top-k and top-p need comes from a
// heap: making one costs a walk over the vocabulary, and each token taken from it a few swaps.
#include "model.h"
#include "fixedmath.h"

void sm_rng_seed(sm_rng *rng, uint64_t seed, uint64_t stream) {
    rng->state = 0, rng->inc = stream << 1 | 1;
    sm_rng_next(rng);
    rng->state += seed;
    sm_rng_next(rng);
}

uint32_t sm_rng_next(sm_rng *rng) {
    const uint64_t s = rng->state;
    rng->state = s*6364136223846793005u + rng->inc;
    const uint32_t x = (uint32_t)((s >> 18 ^ s) >> 27), turn = (uint32_t)(s >> 59);
    return x >> turn | x << (-turn & 31);
}

typedef struct {
    double *odds;  // (vocab) scores, then what is proportional to probabilities
    int32_t *heap; // (count) ids, none larger below than above
    uint8_t *mark; // (vocab) what a step has kept
    int32_t vocab, count;
} draw;

SM_INLINE int32_t before(const draw *d, int32_t a, int32_t b) { // whether id a comes first: the larger, then the lower id
    return d->odds[a] > d->odds[b] || (d->odds[a] == d->odds[b] && a < b);
}

static void sink(draw *d, int32_t at) {
    const int32_t id = d->heap[at];
    for (int32_t child; (child = 2*at + 1) < d->count; at = child) {
        if (child + 1 < d->count && before(d, d->heap[child + 1], d->heap[child])) child++;
        if (!before(d, d->heap[child], id)) break;
        d->heap[at] = d->heap[child];
    }
    d->heap[at] = id;
}

static int32_t take_first(draw *d) {
    const int32_t id = d->heap[0];
    d->heap[0] = d->heap[--d->count];
    if (d->count) sink(d, 0);
    return id;
}

// Order the ids still in the draw
static void order(draw *d) {
    for (int32_t i = d->count/2 - 1; i >= 0; i--) sink(d, i);
}

// The marked ids alone stay, in rising order
static void keep_marked(draw *d) {
    d->count = 0;
    for (int32_t i = 0; i < d->vocab; i++)
        if (d->mark[i]) d->heap[d->count++] = i, d->mark[i] = 0;
}

static void penalize(draw *d, double penalty, const int32_t *history, int32_t n) { // every id once, however often it comes
    if (penalty == 1) return;
    for (int32_t i = 0; i < n; i++) {
        double *x = &d->odds[history[i]];
        if (!d->mark[history[i]]) *x = *x > 0 ? *x/penalty : *x*penalty;
        d->mark[history[i]] = 1;
    }
    for (int32_t i = 0; i < n; i++) d->mark[history[i]] = 0;
}

static int32_t greedy(const draw *d) {
    int32_t best = 0;
    for (int32_t i = 1; i < d->vocab; i++) best = d->odds[i] > d->odds[best] ? i : best;
    return best;
}

static void top_k(draw *d, int32_t k) {
    if (!k || k >= d->count) return;
    order(d);
    while (k--) d->mark[take_first(d)] = 1;
    keep_marked(d);
}

static void softmax(draw *d) { // the likeliest has 1
    double most = d->odds[d->heap[0]];
    for (int32_t i = 1; i < d->count; i++) most = d->odds[d->heap[i]] > most ? d->odds[d->heap[i]] : most;
    for (int32_t i = 0; i < d->count; i++) d->odds[d->heap[i]] = sm_exp_double(d->odds[d->heap[i]] - most);
}

static void min_p(draw *d, double least) {
    int32_t n = 0;
    for (int32_t i = 0; i < d->count; i++)
        if (d->odds[d->heap[i]] >= least) d->heap[n++] = d->heap[i];
    if (n) d->count = n;
}

static double sum_of(const draw *d) {
    double sum = 0;
    for (int32_t i = 0; i < d->count; i++) sum += d->odds[d->heap[i]];
    return sum;
}

static void top_p(draw *d, double p) {
    if (p >= 1) return;
    const double need = p*sum_of(d);
    double sum = 0;
    order(d);
    do {
        const int32_t id = take_first(d);
        d->mark[id] = 1, sum += d->odds[id];
    } while (sum < need && d->count);
    keep_marked(d);
}

static int32_t walk_by_id(const draw *d, double u) { // u in 0..1, 1 excluded
    const double all = sum_of(d);
    double total = 0, run = 0;
    for (int32_t i = 0; i < d->count; i++) total += d->odds[d->heap[i]]/all;
    for (int32_t i = 0; i < d->count; i++)
        if ((run += d->odds[d->heap[i]]/all) > u*total) return d->heap[i];
    return d->heap[d->count - 1];
}

static int32_t choose(draw *d, const sm_sampling *how, sm_rng *rng) {
    for (int32_t i = 0; i < d->vocab; i++) d->odds[i] /= how->temperature, d->heap[i] = i;
    top_k(d, how->top_k);
    softmax(d);
    if (how->min_p > 0) min_p(d, how->min_p);
    top_p(d, how->top_p);
    return walk_by_id(d, sm_rng_next(rng)/4294967296.0);
}

static int32_t within(double x, double low, double high) { return x >= low && x <= high; } // NaN is not

static int32_t check(const sm_model *m, const sm_sampling *how, const sm_rng *rng, const int32_t *history, int32_t n) {
    if (!how || (!history && n)) return SM_E_NULL;
    if (!within(how->temperature, 0, 100) || !within(how->top_p, 0, 1) || !within(how->min_p, 0, 1)
        || !within(how->repetition_penalty, 0.01, 100) || how->top_k < 0 || how->zero) return SM_E_PARAM;
    if (how->temperature > 0 && !rng) return SM_E_NULL;
    if (n < 0) return SM_E_SIZE;
    for (int32_t i = 0; i < n; i++)
        if (history[i] < 0 || history[i] >= m->shape.vocab) return SM_E_TOKEN;
    return SM_OK;
}

int32_t sm_sample(sm_model *m, const float *logits, const sm_sampling *how, sm_rng *rng, const int32_t *history, int32_t n_history) {
    int32_t code = m ? sm_enter(m) : SM_E_NULL;
    if (code) return code;
    if (!(code = check(m, how, rng, history, n_history))) {
        draw d = {m->odds, m->heap, m->mark, m->shape.vocab, m->shape.vocab};
        const sm_fpu before_call = sm_fpu_enter();
        const float *from = logits ? logits : m->logits;
        for (int32_t i = 0; i < d.vocab; i++) d.odds[i] = from[i], d.mark[i] = 0;
        penalize(&d, how->repetition_penalty, history, n_history);
        code = how->temperature == 0 ? greedy(&d) : choose(&d, how, rng);
        sm_fpu_leave(before_call);
    }
    sm_leave(m);
    return code;
}
