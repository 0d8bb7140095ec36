// Choosing a token by the rule of inference/sampling.py, in double precision. Nothing is sorted that need not be: top-k
// keeps a small heap while it walks over the vocabulary, and top-p orders only the likeliest few.
#include <float.h>

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
    rng->state = s * 6364136223846793005u + rng->inc;
    const uint32_t x = (uint32_t)((s >> 18 ^ s) >> 27), rotation = (uint32_t)(s >> 59);
    return x >> rotation | x << (-rotation & 31);
}

// ---- whole vocabularies, eight numbers at a time in one order ----
static double largest(const double *x, int32_t n) {
    double most[8], all;
    int32_t i = 8;
    for (int k = 0; k < 8; k++) most[k] = x[k < n ? k : 0];
    f64x8 m = sm_load8(most);
    for (; i + 8 <= n; i += 8) m = sm_select8(sm_load8(x + i) > m, sm_load8(x + i), m);
    sm_store8(most, m);
    all = most[0];
    for (int k = 1; k < 8; k++) all = most[k] > all ? most[k] : all;
    for (; i < n; i++) all = x[i] > all ? x[i] : all;
    return all;
}

static double sum(const double *x, int32_t n) {
    f64x8 s = {0};
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) s += sm_load8(x + i);
    double v[8];
    sm_store8(v, s);
    for (int k = 4; k; k /= 2)
        for (int j = 0; j < k; j++) v[j] += v[j + k];
    for (; i < n; i++) v[0] += x[i];
    return v[0];
}

// exp((x - most)/temperature): the likeliest has 1. A tiny temperature makes the quotients -infinity, and their
// probabilities 0
static void softmax(sm_candidates *d, double most, double temperature) {
    int32_t i = 0;
    for (; i + 8 <= d->count; i += 8) sm_store8(d->probs + i, sm_exp8((sm_load8(d->probs + i) - most) / temperature));
    for (; i < d->count; i++) d->probs[i] = sm_exp_double((d->probs[i] - most) / temperature);
}

// ---- top-k, min-p, top-p ----
// Whether index a ranks before b: the larger first, of equal ones the lower id
SM_INLINE int32_t before(const sm_candidates *d, int32_t a, int32_t b) {
    return d->probs[a] > d->probs[b] || (d->probs[a] == d->probs[b] && a < b);
}

// Sift the entry at `at` down in a heap of n whose root ranks first (way 1) or last (way 0)
static void sift_down(sm_candidates *d, int32_t at, int32_t n, int32_t way) {
    const int32_t own = d->heap[at];
    for (int32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(d, d->heap[child + 1], d->heap[child]) == way) child++;
        if (before(d, d->heap[child], own) != way) break;
        d->heap[at] = d->heap[child];
    }
    d->heap[at] = own;
}

static void heapify(sm_candidates *d, int32_t n, int32_t way) {
    for (int32_t i = n / 2 - 1; i >= 0; i--) sift_down(d, i, n, way);
}

// Only marked candidates stay, in rising order
static void keep_marked(sm_candidates *d, int32_t from, int32_t to) {
    int32_t n = 0;
    for (int32_t i = from; i <= to; i++)
        if (d->mark[i]) d->probs[n] = d->probs[i], d->ids[n++] = d->ids[i], d->mark[i] = 0;
    d->count = n;
}

static void top_k(sm_candidates *d, int32_t k) {
    if (!k || k >= d->count) return;
    for (int32_t i = 0; i < k; i++) d->heap[i] = i;
    heapify(d, k, 0);
    for (int32_t i = k; i < d->count; i++) // equal ones come later here, as in the order
        if (d->probs[i] > d->probs[d->heap[0]]) d->heap[0] = i, sift_down(d, 0, k, 0);
    for (int32_t i = 0; i < k; i++) d->mark[d->heap[i]] = 1;
    keep_marked(d, 0, d->count - 1);
}

static void min_p(sm_candidates *d, double least) {
    int32_t n = 0;
    for (int32_t i = 0; i < d->count; i++)
        if (d->probs[i] >= least) d->probs[n] = d->probs[i], d->ids[n++] = d->ids[i];
    if (n) d->count = n;
}

static void top_p(sm_candidates *d, double p) {
    if (p >= 1) return;
    const double need = p * sum(d->probs, d->count);
    double least = 1, have = 0;
    int32_t n = 0;
    do { // more and more of the likeliest, until they are enough
        least = least > 1e-12 ? least / 8 : 0, n = 0, have = 0;
        for (int32_t i = 0; i < d->count; i++)
            if (d->probs[i] >= least) d->heap[n++] = i, have += d->probs[i];
    } while (have < need && n < d->count);
    heapify(d, n, 1);
    have = 0;
    int32_t low = d->count, high = -1;
    do {
        const int32_t at = d->heap[0];
        d->mark[at] = 1, have += d->probs[at];
        low = at < low ? at : low, high = at > high ? at : high;
        d->heap[0] = d->heap[--n];
        if (n) sift_down(d, 0, n, 1);
    } while (have < need && n);
    keep_marked(d, low, high);
}

static int32_t walk_by_id(const sm_candidates *d, double u) { // u in 0..1, 1 excluded
    enum { BLOCK = 512 };
    double total = 0, run = 0;
    for (int32_t i = 0; i < d->count; i += BLOCK) total += sum(d->probs + i, sm_min(BLOCK, d->count - i));
    for (int32_t i = 0; i < d->count; i += BLOCK) {
        const int32_t n = sm_min(BLOCK, d->count - i);
        const double next = run + sum(d->probs + i, n);
        if (next > u * total) {
            int32_t last =
                i; // that has any probability: the sum of the block may be rounded otherwise than the running one
            for (int32_t j = i; j < i + n; j++) {
                if (d->probs[j] > 0) last = j;
                if ((run += d->probs[j]) > u * total) break;
            }
            return d->ids[last];
        }
        run = next;
    }
    return d->ids[d->count - 1];
}

// ---- the rule ----
// Every id of the history is penalized once, however often it comes
static void penalize(sm_candidates *d, double penalty, const int32_t *history, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        double *x = &d->probs[history[i]];
        if (!d->mark[history[i]]) *x = *x > 0 ? *x / penalty : *x * penalty;
        d->mark[history[i]] = 1;
    }
    for (int32_t i = 0; i < n; i++) d->mark[history[i]] = 0;
}

// Scores as doubles, each with its id; 1 if all of them are numbers or -infinity
static int32_t copy_scores(sm_candidates *d, const float *from) {
    int32_t good = 1;
    for (int32_t i = 0; i < d->count; i++) {
        good &= from[i] <= FLT_MAX; // NaN is not
        d->probs[i] = from[i];
        d->ids[i] = i;
    }
    return good;
}

static int32_t greedy(const sm_candidates *d, double most) {
    int32_t i = 0;
    while (i < d->count - 1 && d->probs[i] != most) i++;
    return i;
}

// Greedy without a penalty: the first of the largest logits, or SM_E_SCORES
static int32_t likeliest(const float *x, int32_t n) {
    enum { SCAN = 64 };
    if (!sm_distribution(x, n)) return SM_E_SCORES;
    const float top = sm_largest(x, n);
    int32_t i = 0;
    for (; i + SCAN <= n; i += SCAN) {
        i32x16 equal = sm_set1i(0);
        for (int j = i; j < i + SCAN; j += 16) equal |= sm_load(x + j) == top;
        int32_t any = 0;
        for (int j = 0; j < 16; j++) any |= equal[j];
        if (any) break;
    }
    while (x[i] != top) i++;
    return i;
}

static int32_t choose(sm_candidates *d, double most, const sm_sampling *how, sm_rng *rng) {
    top_k(d, how->top_k);
    softmax(d, most, how->temperature);
    if (how->min_p > 0) min_p(d, how->min_p);
    top_p(d, how->top_p);
    return walk_by_id(d, sm_rng_next(rng) / 4294967296.0);
}

static int32_t within(double x, double low, double high) {
    return x >= low && x <= high;
} // NaN is not

static int32_t check(const sm_model *m, const sm_sampling *how, const int32_t *history, int32_t n) {
    if (!how || (!history && n)) return SM_E_NULL;
    if (!within(how->temperature, 0, 100) || !within(how->top_p, 0, 1) || !within(how->min_p, 0, 1) ||
        !within(how->repetition_penalty, 0.01, 100) || how->top_k < 0 || how->zero)
        return SM_E_PARAM;
    if (n < 0) return SM_E_SIZE;
    for (int32_t i = 0; i < n; i++)
        if (history[i] < 0 || history[i] >= m->shape.vocab) return SM_E_TOKEN;
    return SM_OK;
}

// What is checked before; logits (vocab). A token id, or SM_E_SCORES
static int32_t sample(sm_candidates *d, const float *logits, int32_t vocab, const sm_sampling *how, sm_rng *rng,
                      const int32_t *history, int32_t n) {
    if (how->temperature == 0 && how->repetition_penalty == 1) return likeliest(logits, vocab);
    d->count = vocab;
    const int32_t good = copy_scores(d, logits);
    __builtin_memset(d->mark, 0, (size_t)d->count);
    if (how->repetition_penalty != 1) penalize(d, how->repetition_penalty, history, n);
    const double most = largest(d->probs, d->count);
    if (!good || most < -FLT_MAX) return SM_E_SCORES; // a NaN, or nothing but -infinity
    return how->temperature == 0 ? greedy(d, most) : choose(d, most, how, rng);
}

int32_t sm_sample(sm_model *m, const float *logits, const sm_sampling *how, sm_rng *rng, const int32_t *history,
                  int32_t n_history) {
    int32_t code = m ? sm_enter(m) : SM_E_NULL;
    if (code) return code;
    code = check(m, how, history, n_history);
    if (!code && how->temperature > 0 && !rng) code = SM_E_NULL;
    if (!code) {
        const sm_fpu before_call = sm_fpu_enter();
        code = sample(m->candidates, logits ? logits : m->logits, m->shape.vocab, how, rng, history, n_history);
        sm_fpu_leave(before_call);
    }
    sm_leave(m);
    return code;
}

// log p(id) = x_id - max - log Σ exp(x - max)
static double log_probability(const float *x, int32_t vocab, int32_t id) {
    const float top = sm_largest(x, vocab);
    return (double)x[id] - top - sm_log_double(sm_exp_sum(x, vocab, top));
}

double sm_log_probability(sm_model *m, const float *logits, int32_t id) {
    if (!m || (id < 0 || id >= m->shape.vocab)) return 1;
    const sm_fpu before_call = sm_fpu_enter();
    const double out = log_probability(logits ? logits : m->logits, m->shape.vocab, id);
    sm_fpu_leave(before_call);
    return out;
}

void sm_choose_one(sm_candidates *d, const float *logits, int32_t vocab, const int32_t *history, sm_choice *c) {
    c->id = sample(d, logits, vocab, &c->how, &c->rng, history + c->begin, c->end - c->begin);
    c->log_probability = c->id < 0 ? 0 : log_probability(logits, vocab, c->id);
}

int32_t sm_choose(sm_model *m, const float *logits, sm_choice *choices, int32_t n, const int32_t *history,
                  int32_t n_history) {
    int32_t code = sm_enter(m);
    if (code) return code;
    if (!logits || !choices)
        code = SM_E_NULL;
    else if (n < 1 || n > 1 << 20 || n_history < 0)
        code = SM_E_SIZE;
    for (int32_t i = 0; i < n && !code; i++) {
        const sm_choice *c = &choices[i];
        code = c->begin < 0 || c->begin > c->end || c->end > n_history
                   ? SM_E_SIZE
                   : check(m, &c->how, history ? history + c->begin : NULL, c->end - c->begin);
    }
    if (!code && !sm_threads_ready(m)) code = SM_E_THREADS;
    if (!code) {
        m->job = (sm_job){.kind = SM_JOB_CHOOSE, .n = n, .rows = logits, .choices = choices, .history = history};
        sm_threads_run(m);
    }
    sm_leave(m);
    return code;
}
