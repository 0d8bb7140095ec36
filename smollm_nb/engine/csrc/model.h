// What the parts of the kernel share: a model's memory and the steps of a forward pass.
#ifndef SM_MODEL_H
#define SM_MODEL_H

#include <stdatomic.h>

#include "smollm.h"
#include "vec.h"

enum {
    SM_DIM = 64,        // head_dim
    SM_ROWS = 16,       // rows of a block of weights: one lane each
    SM_GROUP = 128,     // columns that share a scale, of weights and of activations
    SM_BLOCK = 16,      // positions of a block of keys: one lane each
    SM_STRETCH = 32,    // positions whose weights in the sum of values share a scale
    SM_CHUNK = 128,     // positions whose attention one thread works out, before chunks are combined
    SM_MAX_GROUP = 16,  // query heads that share a KV head
    SM_MAX_THREADS = 64
};

// ---- weights: views into the mapped file ------------------------------------------------------------------------------
typedef struct {            // a range of a matrix's rows in one format
    u8x64 book;             // int4: the 16 weights that codes stand for, raised by SM_BIAS, four times over
    float scale12[16];      // int4: base·2^(-j/12) for j in 0..11
#ifdef __wasm__
    float scale[256];       // int4: what each byte of `scales` means, where memory answers sooner than a lookup
#endif
    const uint8_t *codes;   // int4: (blocks, cols/8, 16, 4) bytes of two codes; int8: (blocks, cols/4, 16, 4)
    const uint8_t *scales;  // int4: (blocks, groups, 16) bytes, sign and logarithm; int8: (blocks, 16) float32
    int32_t begin, end;     // rows
    int32_t format;         // SM_INT8_ROW or SM_INT4_BOOK_G128
} sm_piece;

typedef struct {
    sm_piece piece[SM_MAX_PARTS];
    int32_t pieces, rows, cols;
} sm_matrix;

typedef struct {
    sm_matrix q, k, v, o, gate, up, down;
    const float *attn_norm, *mlp_norm; // (hidden)
} sm_layer;

// ---- activations ------------------------------------------------------------------------------------------------------
typedef struct {    // vectors as integers; x ≈ a·scale
    int32_t *word;  // (groups, room, 64): 128 numbers a group, packed as dot.h says; a last group may be half filled
    float *scale;   // (groups, room)
    int32_t *bias;  // (groups, room): -SM_BIAS·Σa
    int32_t room;   // vectors that there is memory for
} sm_act;

typedef struct {      // one thread's own scratch
    uint32_t barriers; // that it has come to
    sm_act act;       // one vector, where every thread quantizes for itself
    float *wide;      // (max(hidden, heads·64, mlp)) a normed vector
    float *mix;       // (heads*64) what attention gives for one token
    float *sums;      // (tile, 16) a block's sums for every token
    uint8_t *panel;   // (32·SM_PANEL) an unpacked group of a block
    int32_t *query;   // (heads, 32) query heads as pairs of 16 bits
    float *qscale;    // (heads)
    float *weight;    // (3, SM_CHUNK) scores, then weights
    int32_t *share;   // (3, SM_CHUNK/2) weights as pairs of 16 bits
    float *part;      // (SM_MAX_GROUP, chunks, 64) each chunk's sum of values
    float *top, *sum; // (SM_MAX_GROUP, chunks rounded up to 16) each chunk's largest score, and its sum of weights
} sm_scratch;

typedef struct {   // keys and values of one layer
    int16_t *k;    // (kv_heads, context/16, 32, 16, 2): 16 positions of two channels together
    int16_t *v;    // (kv_heads, context/2, 64, 2): two positions of a channel together
    float *kscale; // (kv_heads, context)
    float *vscale; // (kv_heads, context)
} sm_cache;

// ---- the model: at the arena's beginning ------------------------------------------------------------------------------
typedef struct { _Alignas(64) atomic_uint value; } sm_line; // a cache line of its own

typedef struct {           // what the threads are to compute
    const int32_t *ids;    // (n)
    int32_t n, pos, want;  // n at most tile
    float *logits;         // (vocab) or (n, vocab)
} sm_job;

struct sm_model {
    sm_shape shape;
    int32_t room;          // context, rounded up to a whole stretch
    int32_t chunks;        // of it, rounded up
    int32_t held;          // tokens in the KV cache
    double log_theta;
    sm_matrix *embed, *head;
    sm_layer *layer;       // (layers)
    const float *norm;     // (hidden)
    sm_cache *cache;       // (layers)
    float *x;              // (tile, hidden) the residual stream
    float *qkv;            // (tile, (heads + 2·kv_heads)·64)
    float *mix;            // (tile, heads·64) what attention gives
    float *gate, *up;      // (tile, mlp)
    float *turn;           // (tile, 2, 32) cosines and sines
    float *part;           // (heads, chunks, 64) one token's attention by chunk, shared between threads
    float *top, *sum;      // (heads, chunks rounded up to 16)
    float *logits;         // (vocab)
    sm_act act;            // (tile) vectors
    sm_scratch *scratch;   // (threads)
    double *odds;          // (vocab) the sampler's
    int32_t *ids, *heap;   // (vocab)
    uint8_t *mark;         // (vocab)
    sm_job job;
    atomic_int busy;       // 1 while a call runs
    sm_line reached[SM_MAX_THREADS]; // barriers that each thread has come to
    sm_line call;          // number of the job that workers are to run
    sm_line asleep, present, began; // workers
    atomic_int stop;
    struct sm_system *sys; // threads, as the operating system has them
};

// ---- the steps --------------------------------------------------------------------------------------------------------
SM_INLINE int32_t sm_groups(int32_t cols) { return (cols + SM_GROUP - 1)/SM_GROUP; }
SM_INLINE int32_t sm_blocks(int32_t rows) { return (rows + SM_ROWS - 1)/SM_ROWS; }
SM_INLINE int32_t sm_least(int32_t a, int32_t b) { return a < b ? a : b; }
SM_INLINE int32_t sm_share(int32_t n, int32_t i, int32_t of) { return (int32_t)((int64_t)n*i/of); } // where share i of n begins

// activations.c
void sm_norm(const float *x, const float *weight, float eps, int32_t n, float *y); // RMS norm; x, weight, y (n)
void sm_quantize(const float *x, int32_t n, sm_act *act, int32_t at);              // x (n) becomes vector `at` of act
void sm_swiglu(float *gate, const float *up, int32_t n);                           // gate (n) becomes silu(gate)·up

// matmul.c
void sm_piece_init(sm_piece *p, const uint8_t *data, int32_t cols); // p's rows and format are set; data: the packed part
void sm_matmul( // rows of w times vectors; blocks of 16 rows from b0 up to b1
    const sm_matrix *w, int32_t b0, int32_t b1,
    const sm_act *act, int32_t n, // vectors 0..n-1
    float *out, size_t stride,    // (n, rows), a vector's results `stride` apart
    int32_t add,                  // 1: add to out, 0: replace it
    sm_scratch *scratch);
void sm_row(const sm_matrix *w, int32_t row, float *out); // (cols) a row as numbers: the embedding of a token

// attention.c
void sm_angles(double log_theta, int32_t pos, float *turn); // (2, 32) cosines and sines of a position
void sm_remember(sm_model *m, const sm_cache *c, int32_t kv, int32_t pos, const float *k, const float *v, const float *turn);
void sm_query(const float *q, int32_t heads, const float *turn, int32_t *query, float *scale); // q (heads, 64) → pairs (heads, 32)
void sm_chunk( // attention of some query heads to positions of one chunk
    const sm_model *m, const sm_cache *c, int32_t kv, int32_t chunk,
    int32_t end,                       // positions before it count
    const int32_t *query, const float *scale, int32_t heads,
    const int16_t *next,               // keys that will be wanted next, or any address
    float *part, float *top, float *sum, // this chunk's place in (heads, chunks, 64) and (heads, chunks rounded up)
    sm_scratch *scratch);
void sm_combine( // chunks of one head → its 64 channels
    int32_t chunks, const float *part, const float *top, const float *sum, // (chunks, 64), (chunks), (chunks)
    float *factor, // (chunks rounded up to 16) scratch, may be top itself
    float *out);   // (64)

// api.c
int32_t sm_enter(sm_model *m); // SM_OK: the caller has the model until sm_leave
void sm_leave(sm_model *m);

// threads.c
int32_t sm_threads_start(sm_model *m);   // SM_OK or a code
void sm_threads_end(sm_model *m);
void sm_threads_run(sm_model *m);        // m->job on all threads; returns when it is done
void sm_wait(sm_model *m, int32_t thread); // barrier: all threads of a job
int32_t sm_threads_ready(const sm_model *m); // 0 while a host's workers are missing
int32_t sm_forked(const sm_model *m);    // 1 in a child process
size_t sm_system_bytes(void);

// forward.c
void sm_forward(sm_model *m, int32_t thread); // one thread's share of m->job

// The state of the floating-point unit that all results are worked out in: nearest, denormals kept
typedef uint64_t sm_fpu;
sm_fpu sm_fpu_enter(void);
void sm_fpu_leave(sm_fpu state);

#endif
