// What logits say: the likeliest tokens and their probabilities, for the logit lens of many layers at once.
#include <float.h>

#include "model.h"
#include "fixedmath.h"

enum { SCAN = 64 }; // logits that are compared with the least of the likeliest at once

float sm_largest(const float *x, int32_t n) {
    const int32_t whole = n / 16 * 16;
    f32x16 most = sm_set1(x[0]);
    for (int32_t i = 0; i < whole; i += 16) most = sm_max(sm_load(x + i), most);
    float top = sm_max16(most);
    for (int32_t i = whole; i < n; i++) top = x[i] > top ? x[i] : top;
    return top;
}

double sm_exp_sum(const float *x, int32_t n, float top) {
    const int32_t whole = n / 16 * 16;
    double all = 0;
    for (int32_t i = 0; i < whole; i += 1024) {
        f32x16 s = sm_set1(0);
        for (int32_t j = i; j < sm_min(i + 1024, whole); j += 16) s += sm_exp(sm_load(x + j) - top);
        all += sm_sum16(s);
    }
    for (int32_t i = whole; i < n; i++) all += sm_exp_double(x[i] - top);
    return all;
}

int32_t sm_distribution(const float *x, int32_t n) {
    const int32_t whole = n / 16 * 16;
    i32x16 good = sm_set1i(-1), some = sm_set1i(0);
    for (int32_t i = 0; i < whole; i += 16) {
        good &= sm_load(x + i) <= FLT_MAX; // NaN is not
        some |= sm_load(x + i) >= -FLT_MAX;
    }
    int32_t all = 1, any = 0;
    for (int i = 0; i < 16; i++) all &= good[i], any |= some[i];
    for (int32_t i = whole; i < n; i++) all &= x[i] <= FLT_MAX, any |= x[i] >= -FLT_MAX;
    return all && any;
}

// x[id] into the k best so far, `have` of them, which stand in falling order; returns how many there are now
SM_SMALL static int32_t insert(const float *x, int32_t id, int32_t have, int32_t k, int32_t *ids) {
    if (have == k && !(x[id] > x[ids[k - 1]])) return have;
    int32_t at = have < k ? have : k - 1;
    for (; at && x[id] > x[ids[at - 1]]; at--) ids[at] = ids[at - 1]; // equal ones stay before it
    ids[at] = id;
    return have < k ? have + 1 : k;
}

SM_INLINE int32_t any_above(const float *x, f32x16 least) { // x (SCAN)
    i32x16 above = sm_set1i(0);
    for (int i = 0; i < SCAN; i += 16) above |= sm_load(x + i) > least;
    int32_t any = 0;
    for (int i = 0; i < 16; i++) any |= above[i];
    return any;
}

SM_SMALL void sm_rank(const float *logits, int32_t n, int32_t k, int32_t *ids, float *probs) {
    for (int32_t i = 0; i < k; i++) ids[i] = -1, probs[i] = 0;
    if (!sm_distribution(logits, n)) return;
    int32_t have = 0, i = 0;
    for (; i < k; i++) have = insert(logits, i, have, k, ids);
    for (; i + SCAN <= n; i += SCAN)
        if (any_above(logits + i, sm_set1(logits[ids[k - 1]])))
            for (int32_t j = i; j < i + SCAN; j++) have = insert(logits, j, have, k, ids);
    for (; i < n; i++) have = insert(logits, i, have, k, ids);
    const float top = logits[ids[0]];
    const double all = sm_exp_sum(logits, n, top);
    for (int32_t j = 0; j < k; j++) probs[j] = (float)(sm_exp_double((double)logits[ids[j]] - top) / all);
}
