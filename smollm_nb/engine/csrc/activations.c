// What happens to a vector between two matrices: norm, SwiGLU, and from floats to integers.
#include "model.h"
#include "dot.h"
#include "fixedmath.h"

void sm_norm(const float *x, const float *weight, float eps, int32_t n, float *y) {
    f32x16 sum = sm_set1(0);
    for (int32_t i = 0; i < n; i += 16) sum += sm_load(x + i) * sm_load(x + i);
    const f32x16 r = sm_set1(1.0f / __builtin_sqrtf(sm_sum16(sum) / (float)n + eps));
    for (int32_t i = 0; i < n; i += 16) sm_store(y + i, sm_load(weight + i) * (sm_load(x + i) * r));
}

void sm_swiglu(float *gate, const float *up, int32_t n) {
    for (int32_t i = 0; i < n; i += 16) {
        const f32x16 g = sm_load(gate + i);
        sm_store(gate + i, g / (sm_exp(-g) + 1.0f) * sm_load(up + i));
    }
}

// One group of n numbers, n a multiple of 16: SM_AMAX stands for the largest
static void quantize_group(const float *x, int32_t n, int32_t *word, float *scale, int32_t *bias) {
    f32x16 most = sm_set1(0);
    for (int32_t i = 0; i < n; i += 16) most = sm_max(sm_abs(sm_load(x + i)), most);
    const float top = sm_max16(most);
    const int32_t nonzero = top > 1e-30f; // anything smaller counts as zero: its inverse would be infinite
    const f32x16 inverse = sm_set1(nonzero ? SM_AMAX / top : 0);
    i32x16 sum = sm_set1i(0);
    for (int32_t i = 0; i < n; i += 16) {
        const i32x16 a = sm_round(sm_load(x + i) * inverse);
        sum = sm_addi(sum, a);
        sm_pack_activations(word, i, a);
    }
    uint32_t total = 0;
    for (int i = 0; i < 16; i++) total += (uint32_t)sum[i];
    *bias = (int32_t)(0u - SM_BIAS * total);
    *scale = nonzero ? top / SM_AMAX : 0;
}

void sm_quantize(const float *x, int32_t n, sm_act *act, int32_t at) {
    for (int32_t g = 0; g * SM_GROUP < n; g++) {
        const size_t i = (size_t)g * (size_t)act->capacity + (size_t)at;
        quantize_group(x + g * SM_GROUP, sm_min(n - g * SM_GROUP, SM_GROUP), act->word + i * 64, act->scale + i,
                       act->bias + i);
    }
}
