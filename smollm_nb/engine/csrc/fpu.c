// Round to nearest, keep denormals: what WASM does everywhere, and so what every thread does while it computes.
#include "model.h"

#if defined(__x86_64__)
#include <immintrin.h>
sm_fpu sm_fpu_enter(void) {
    const sm_fpu before = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return before;
}
void sm_fpu_leave(sm_fpu state) { _mm_setcsr((uint32_t)state); }
#elif defined(__aarch64__)
sm_fpu sm_fpu_enter(void) {
    sm_fpu before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return before;
}
void sm_fpu_leave(sm_fpu state) { __asm__ volatile("msr fpcr, %0" : : "r"(state)); }
#else
sm_fpu sm_fpu_enter(void) { return 0; }
void sm_fpu_leave(sm_fpu state) { (void)state; }
#endif

#if defined(__wasm__) // no C library: what the compiler itself calls
void *memset(void *to, int byte, size_t n) {
    for (size_t i = 0; i < n; i++) ((volatile uint8_t *)to)[i] = (uint8_t)byte;
    return to;
}
void *memcpy(void *restrict to, const void *restrict from, size_t n) {
    for (size_t i = 0; i < n; i++) ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    return to;
}
#endif
