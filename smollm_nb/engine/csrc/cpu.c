// What the library is, and what the processor offers.
#include "model.h"
#include "dot.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(_WIN32)
#include <windows.h>
#endif

int32_t sm_abi(void) {
    return SM_ABI;
}
const char *sm_variant(void) {
    return SM_VARIANT;
}

#if defined(__x86_64__)
static void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4]) { // eax, ebx, ecx, edx
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

static uint32_t saved_registers(void) { // XCR0: which registers the system keeps for a process
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

// Tiles of eight-bit integers, of the size that tiles.h takes for granted. Their 8 kB of state are the one thing that
// Linux saves only for processes that have asked it to
static int32_t amx(const uint32_t top[4], const uint32_t seven[4], uint32_t saved) {
#if defined(__linux__)
    const uint32_t tile_int8 = 1u << 24 | 1u << 25, state = 3u << 17;
    if (top[0] < 0x1d || (seven[3] & tile_int8) != tile_int8 || (saved & state) != state) return 0;
    uint32_t palette[4]; // bytes of all tiles and of one, of a row and number of tiles, rows
    cpuid(0x1d, 1, palette);
    if (palette[0] >> 16 != 1024 || (palette[1] & 0xffff) != 64 || palette[1] >> 16 < 8 || (palette[2] & 0xffff) != 16)
        return 0;
    int64_t answer = 158; // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
    __asm__ volatile("syscall" : "+a"(answer) : "D"(0x1023L), "S"(18L) : "rcx", "r11", "memory");
    return answer == 0;
#else
    (void)top, (void)seven, (void)saved;
    return 0;
#endif
}

int32_t sm_cpu(void) {
    uint32_t top[4], one[4], seven[4] = {0};
    cpuid(0, 0, top);
    cpuid(1, 0, one);
    if (top[0] >= 7) cpuid(7, 0, seven);
    const uint32_t saved = one[2] >> 27 & 1 ? saved_registers() : 0;
    int32_t out = one[2] >> 9 & 1 ? SM_CPU_SSSE3 : 0;
    if ((saved & 6) == 6 && seven[1] >> 5 & 1) out |= SM_CPU_AVX2;
    const uint32_t f_bw_vl =
        1u << 16 | 1u << 30 | 1u << 31 | 1u << 17; // foundation, bytes and words, 256-bit forms, DQ
    if ((saved & 0xe6) == 0xe6 && (seven[1] & f_bw_vl) == f_bw_vl && seven[2] >> 11 & 1) out |= SM_CPU_AVX512_VNNI;
    if (out & SM_CPU_AVX512_VNNI && amx(top, seven, saved)) out |= SM_CPU_AMX;
    return out;
}
#elif defined(__aarch64__)
int32_t sm_cpu(void) {
#if defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1 ? SM_CPU_DOTPROD : 0;
#elif defined(_WIN32)
    return IsProcessorFeaturePresent(43) ? SM_CPU_DOTPROD : 0; // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
#else
    return SM_CPU_DOTPROD; // every Mac with an ARM processor
#endif
}
#else
int32_t sm_cpu(void) {
    return 0;
}
#endif

const char *sm_error(int32_t code) {
    static const char *const line[] = {"all is well",
                                       "a pointer is missing or not aligned",
                                       "the model's shape is none that the kernel runs",
                                       "a tensor is held in a format that the kernel does not read",
                                       "tensors are missing, or come twice",
                                       "a tensor reaches outside the file, or has the wrong size",
                                       "the arena is too small",
                                       "threads could not be started",
                                       "a token id is outside the vocabulary",
                                       "a position leaves a gap or lies past the context",
                                       "a count is out of range",
                                       "a sampling parameter is out of range",
                                       "another call is running on this model",
                                       "the process forked after the model was made",
                                       "this build computes wrong results on this machine",
                                       "the scores hold NaN or infinity",
                                       "a hidden vector holds NaN or infinity",
                                       "there is no such sequence"};
    const int32_t n = sizeof line / sizeof *line;
    return code <= 0 && -code < n ? line[-code] : "an unknown error";
}
