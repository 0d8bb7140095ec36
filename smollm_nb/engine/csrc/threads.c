// Threads: a barrier by atomics within a call, sleep between calls. Natively the workers are started here
// (SMOLLM_THREADS); in WASM the host starts them, and they sleep by memory.atomic.wait32.
#define _POSIX_C_SOURCE 200809L // nanosleep
#include "model.h"

#if defined(SMOLLM_THREADS) && defined(_WIN32)
#define SM_WINDOWS 1
#include <windows.h>
#elif defined(SMOLLM_THREADS)
#define SM_POSIX 1
#include <pthread.h>
#include <time.h>
#include <unistd.h>
#elif defined(__wasm_atomics__)
#define SM_HOSTED 1
#endif

enum {
#if defined(__wasm__)
    SPINS = 200000, // looks at a barrier before giving way: some 0.2 ms; there is no pause between them, and waking
                    // takes long
    AWAKE_SPINS = 100000, // looks for the next call before going to sleep: while a token is chosen and shown
    AWAKE_US = 0          // there is no clock
#else
    SPINS = 4000,     // some 50 µs
    AWAKE_SPINS = 64, // looks between two at the clock
    AWAKE_US = 1500 // a worker waits for the next call before it goes to sleep: longer than a token is chosen and shown
#endif
};

SM_INLINE void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

// A machine with more threads than cores needs this one's core. Who sleeps is served sooner again than who yields: two
// to six times the tokens a second beside two busy processes on two cores
static void back_off(sm_line *line, uint32_t seen) {
#if defined(SM_WINDOWS)
    (void)line, (void)seen, SwitchToThread();
#elif defined(SM_POSIX)
    (void)line, (void)seen;
    nanosleep(&(struct timespec){0, 20000}, NULL);
#elif defined(SM_HOSTED)
    __builtin_wasm_memory_atomic_wait32((int32_t *)&line->value, (int32_t)seen,
                                        100000); // at most 0.1 ms: nobody notifies
#else
    (void)line, (void)seen;
#endif
}

// Each thread writes how many barriers it has reached, on a cache line of its own, and reads everyone else's: a line
// that goes from core to core once, where a common counter would travel three times
void sm_barrier(sm_model *m, int32_t thread) {
    const uint32_t mine = m->scratch[thread].barriers++ + 1;
    atomic_store_explicit(&m->reached[thread].value, mine, memory_order_release);
    for (int32_t t = 0; t < m->shape.threads; t++) {
        uint32_t theirs;
        for (int32_t i = 0;
             (int32_t)((theirs = atomic_load_explicit(&m->reached[t].value, memory_order_acquire)) - mine) < 0;)
            if (i < SPINS)
                i++, relax();
            else
                back_off(&m->reached[t], theirs);
    }
}

// ---- sleeping and waking ----
static uint64_t microseconds(void) { // of a clock that runs; 0 where there is none
#if defined(SM_WINDOWS)
    LARGE_INTEGER now, rate;
    QueryPerformanceCounter(&now), QueryPerformanceFrequency(&rate);
    return (uint64_t)now.QuadPart * 1000000 / (uint64_t)rate.QuadPart;
#elif defined(SM_POSIX)
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
#else
    return 0;
#endif
}

// A worker that sleeps between two tokens takes longer to wake than the next token is away: it looks for the next call
// for a while, and sleeps when an answer is done. 1 if the call came
static int32_t stay_awake(const sm_model *m, uint32_t seen) {
    const uint64_t begin = microseconds();
    do
        for (int32_t i = 0; i < AWAKE_SPINS; i++) {
            if (atomic_load_explicit(&m->call.value, memory_order_acquire) != seen) return 1;
            relax();
        }
    while (microseconds() - begin < AWAKE_US);
    return 0;
}

#if defined(SM_WINDOWS)
struct sm_system {
    HANDLE thread[SM_MAX_THREADS];
    SRWLOCK lock;
    CONDITION_VARIABLE wake;
    DWORD process;
};
static void lock(sm_model *m) {
    AcquireSRWLockExclusive(&m->sys->lock);
}
static void unlock(sm_model *m) {
    ReleaseSRWLockExclusive(&m->sys->lock);
}
static void sleep_on(sm_model *m) {
    SleepConditionVariableSRW(&m->sys->wake, &m->sys->lock, INFINITE, 0);
}
static void wake_all(sm_model *m) {
    WakeAllConditionVariable(&m->sys->wake);
}
#elif defined(SM_POSIX)
struct sm_system {
    pthread_t thread[SM_MAX_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pid_t process;
};
static void lock(sm_model *m) {
    pthread_mutex_lock(&m->sys->lock);
}
static void unlock(sm_model *m) {
    pthread_mutex_unlock(&m->sys->lock);
}
static void sleep_on(sm_model *m) {
    pthread_cond_wait(&m->sys->wake, &m->sys->lock);
}
static void wake_all(sm_model *m) {
    pthread_cond_broadcast(&m->sys->wake);
}
#else
struct sm_system {
    int32_t none;
};
#endif

size_t sm_system_bytes(void) {
    return sizeof(struct sm_system);
}

// Sleep until the number of the call is no longer `seen`
static void sleep_while(sm_model *m, uint32_t seen) {
#if defined(SM_WINDOWS) || defined(SM_POSIX)
    lock(m);
    atomic_fetch_add(&m->asleep.value, 1);
    while (atomic_load(&m->call.value) == seen) sleep_on(m);
    atomic_fetch_sub(&m->asleep.value, 1);
    unlock(m);
#elif defined(SM_HOSTED)
    while (atomic_load(&m->call.value) == seen)
        __builtin_wasm_memory_atomic_wait32((int32_t *)&m->call.value, (int32_t)seen, -1);
#else
    (void)m, (void)seen;
#endif
}

static void wake_workers(sm_model *m) { // a new number for the workers
    atomic_fetch_add(&m->call.value, 1);
#if defined(SM_WINDOWS) || defined(SM_POSIX)
    if (!atomic_load(&m->asleep.value)) return; // a worker that is about to sleep looks at the number first
    lock(m);
    wake_all(m);
    unlock(m);
#elif defined(SM_HOSTED)
    __builtin_wasm_memory_atomic_notify((int32_t *)&m->call.value, 0xffffffff);
#endif
}

void sm_threads_run(sm_model *m) {
    if (m->shape.threads > 1) wake_workers(m);
    sm_run(m, 0);
}

int32_t sm_worker(sm_model *m, int32_t index) {
    if (!m) return SM_E_NULL;
    if (index < 1 || index >= m->shape.threads) return SM_E_SIZE;
    uint32_t seen = 0;
    atomic_fetch_add(&m->present.value, 1);
    for (;;) {
        if (!stay_awake(m, seen)) sleep_while(m, seen);
        seen++;
        if (atomic_load(&m->stop)) break;
        sm_run(m, index);
    }
    atomic_fetch_sub(&m->present.value, 1);
    return SM_OK;
}

int32_t sm_workers(const sm_model *m) {
    return m ? (int32_t)atomic_load(&((sm_model *)m)->present.value) : SM_E_NULL;
}

// ---- life ----
#if defined(SM_WINDOWS) || defined(SM_POSIX)
typedef struct {
    sm_model *m;
    int32_t index;
} start_with;

#if defined(SM_WINDOWS)
static DWORD WINAPI begin(void *p)
#else
static void *begin(void *p)
#endif
{
    const start_with s = *(start_with *)p;
    atomic_store(&s.m->began.value, 1); // p may go
    sm_worker(s.m, s.index);
    return 0;
}

static int32_t start_one(sm_model *m, int32_t i) {
    start_with s = {m, i};
    atomic_store(&m->began.value, 0);
#if defined(SM_WINDOWS)
    if (!(m->sys->thread[i] = CreateThread(NULL, 1 << 18, begin, &s, 0, NULL))) return 0;
#else
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 18);
    const int bad = pthread_create(&m->sys->thread[i], &small, begin, &s);
    pthread_attr_destroy(&small);
    if (bad) return 0;
#endif
    while (!atomic_load(&m->began.value)) back_off(&m->began, 0);
    return 1;
}

static void end_workers(sm_model *m, int32_t n) { // workers 1..n-1
    atomic_store(&m->stop, 1);
    wake_workers(m);
    for (int32_t i = 1; i < n; i++) {
#if defined(SM_WINDOWS)
        WaitForSingleObject(m->sys->thread[i], INFINITE);
        CloseHandle(m->sys->thread[i]);
#else
        pthread_join(m->sys->thread[i], NULL);
#endif
    }
#if defined(SM_POSIX)
    pthread_cond_destroy(&m->sys->wake);
    pthread_mutex_destroy(&m->sys->lock);
#endif
}
#endif

int32_t sm_threads_start(sm_model *m) {
    (void)m;
#if defined(SM_WINDOWS)
    InitializeSRWLock(&m->sys->lock);
    InitializeConditionVariable(&m->sys->wake);
    m->sys->process = GetCurrentProcessId();
#elif defined(SM_POSIX)
    if (pthread_mutex_init(&m->sys->lock, NULL)) return SM_E_THREADS;
    if (pthread_cond_init(&m->sys->wake, NULL)) return SM_E_THREADS;
    m->sys->process = getpid();
#elif !defined(SM_HOSTED)
    if (m->shape.threads > 1) return SM_E_THREADS;
#endif
#if defined(SM_WINDOWS) || defined(SM_POSIX)
    for (int32_t i = 1; i < m->shape.threads; i++)
        if (!start_one(m, i)) {
            end_workers(m, i);
            return SM_E_THREADS;
        }
#endif
    return SM_OK;
}

void sm_threads_end(sm_model *m) {
#if defined(SM_WINDOWS) || defined(SM_POSIX)
    end_workers(m, m->shape.threads);
#elif defined(SM_HOSTED)
    atomic_store(&m->stop, 1);
    wake_workers(m);
    for (uint32_t n; (n = atomic_load(&m->present.value));) back_off(&m->present, n);
#else
    (void)m;
#endif
}

int32_t sm_threads_ready(const sm_model *m) {
#if defined(SM_HOSTED)
    return sm_workers(m) == m->shape.threads - 1;
#else
    (void)m;
    return 1;
#endif
}

int32_t sm_forked(const sm_model *m) {
#if defined(SM_POSIX)
    return m->shape.threads > 1 && m->sys->process != getpid();
#else
    (void)m;
    return 0;
#endif
}
