// What the parts of the kernel share: a model's memory and the steps of a forward pass.
#ifndef SM_MODEL_H
#define SM_MODEL_H

#include <stdatomic.h>

#include "smollm.h"
#include "vec.h"

enum {
    SM_DIM = 64,         // head_dim
    SM_ROWS = 16,        // rows of a block of weights: one lane each
    SM_GROUP = 128,      // columns that share a scale, of weights and of activations
    SM_BLOCK = 16,       // positions of a block of keys: one lane each
    SM_VALUE_GROUP = 32, // positions whose attention weights share a scale
    SM_CHUNK = 128,      // positions of a chunk of the KV cache: one thread's unit of attention
    SM_MAX_HEADS = 3,    // query heads that are computed at once
    SM_MAX_GROUP = 16,   // query heads that share a KV head
    SM_MAX_THREADS = 64
};

// ---- weights: views into the mapped file ----
typedef struct {       // a range of a matrix's rows in one format
    u8x64 book;        // int4: the 16 weights that codes stand for, plus SM_BIAS, four times over
    float scale12[16]; // int4: base·2^(-j/12); a scale needs j in 0..11
#ifdef __wasm__
    float scale[256]; // int4: what each byte of `scales` means, there a load is faster than a shuffle and arithmetic
#endif
    const uint8_t *codes;  // int4: (blocks, cols/8, 16, 4) bytes of two codes; int8: (blocks, cols/4, 16, 4)
    const uint8_t *scales; // int4: (blocks, groups, 16) bytes, sign and logarithm; int8: (blocks, 16) float32
    int32_t begin, end;    // rows
    int32_t format;        // SM_INT8_ROW or SM_INT4_BOOK_G128
} sm_piece;

typedef struct {
    sm_piece piece[SM_MAX_PARTS];
    int32_t pieces, rows, cols;
} sm_matrix;

typedef struct {
    sm_matrix q, k, v, o, gate, up, down;
    const float *attn_norm, *mlp_norm; // (hidden)
} sm_layer;

// ---- activations ----
typedef struct {   // vectors as integers; x ≈ a·scale
    int32_t *word; // (groups, capacity, 64): 128 numbers a group, packed as dot.h says; a last group may be half filled
    float *scale;  // (groups, capacity) and 16 more
    int32_t *bias; // (groups, capacity) and 16 more: -SM_BIAS·Σa
    int32_t capacity; // vectors that the arena has memory for
} sm_act;

typedef struct {           // one thread's own scratch
    uint32_t barriers;     // how many barriers this thread has reached
    sm_act act;            // one vector, where every thread quantizes for itself
    float *wide;           // (max(hidden, heads·64, mlp)) a vector after its RMSNorm
    float *mix;            // (heads·64) attention's output for one token
    float *sums;           // (SM_TOGETHER, tile, 16) one block of output rows for each token
    uint8_t *panel;        // (SM_TOGETHER, 32·SM_PANEL) one unpacked group of a block of weights
    int32_t *query;        // (heads, 32) query heads as pairs of 16 bits
    float *qscale;         // (heads)
    float *weight;         // (SM_MAX_HEADS, SM_CHUNK) scores, then softmax weights
    int32_t *weight_pairs; // (SM_MAX_HEADS, SM_CHUNK/2) weights as pairs of 16 bits
    float *part;           // (heads/kv_heads, chunks, 64) each chunk's weighted sum of values
    float *top, *sum;      // (heads/kv_heads, chunks rounded up to 16) each chunk's largest score and sum of weights
} sm_scratch;

typedef struct {   // keys and values of one layer; capacity: as in sm_model
    int16_t *k;    // (sequences·kv_heads, capacity/16, 32, 16, 2): 16 positions of two channels together
    int16_t *v;    // (sequences·kv_heads, capacity/2, 64, 2): two positions of a channel together
    float *kscale; // (sequences·kv_heads, capacity)
    float *vscale; // (sequences·kv_heads, capacity)
} sm_cache;

// ---- the model: at the arena's beginning ----
typedef struct {
    _Alignas(64) atomic_uint value;
} sm_line; // a cache line of its own

// ---- choosing a token ----
typedef struct {   // the candidates that are left
    double *probs; // (count) logits, then unnormalized probabilities
    int32_t *ids;  // (count) their token ids, rising
    int32_t *heap; // (vocab) a binary heap of indices into the two above
    uint8_t *mark; // (vocab) 1 at indices that a step keeps; all zero between steps
    int32_t count; // candidates left; the arrays have memory for vocab of them
} sm_candidates;

enum { SM_JOB_FORWARD = 0, SM_JOB_HEAD = 1, SM_JOB_LIKELIEST = 2, SM_JOB_CHOOSE = 3 };
typedef struct { // one call, for all threads
    int32_t kind;
    int32_t n;              // tokens or vectors, at most tile, or rows of logits
    int32_t wanted;         // the last so many tokens' logits
    const sm_token *tokens; // (n)
    float *logits;          // (wanted, vocab), or (n, vocab) of the head
    float *residual;        // NULL, or where the residual stream goes, (n, hidden) for each of layers + 1
    size_t plane;           // numbers from one layer's residual stream to the next
    const float *rows;      // (n, hidden) for the head, or (n, vocab)
    int32_t k;              // the likeliest tokens of each row
    int32_t *best;          // (n, k) their ids
    float *probs;           // (n, k)
    sm_choice *choices;     // (n)
    const int32_t *history; // ids that they count
} sm_job;

struct sm_model {
    sm_shape shape;
    int32_t capacity; // positions: context, rounded up to a whole value group
    int32_t chunks;   // of the context, rounded up
    int32_t *held;    // (sequences) tokens in the KV cache
    int32_t *next;    // (sequences) scratch: where the next token of a call belongs
    sm_token *tokens; // (tile) of sequence 0
    double log_theta;
    sm_matrix *embed, *head;
    sm_layer *layer;           // (layers)
    const float *norm;         // (hidden)
    sm_cache *cache;           // (layers)
    float *x;                  // (tile, hidden) the residual stream
    float *qkv;                // (tile, (heads + 2·kv_heads)·64)
    float *mix;                // (tile, heads·64) attention's output
    float *gate, *up;          // (tile, mlp)
    float *rope;               // (tile, 2, 32) cosines and sines
    float *part;               // (heads, chunks, 64) one token's attention by chunk, shared between threads
    float *top, *sum;          // (heads, chunks rounded up to 16)
    float *logits;             // (vocab)
    sm_act act;                // (tile) vectors
    sm_scratch *scratch;       // (threads)
    sm_candidates *candidates; // (choosers) the sampler's
    int32_t choosers;          // threads that choose tokens at once
    sm_job job;
    atomic_int busy;                 // 1 while a call runs
    sm_line reached[SM_MAX_THREADS]; // barriers that each thread has reached
    sm_line call;                    // number of the job that workers are to run
    sm_line asleep, present, began;  // workers
    atomic_int stop;
    struct sm_system *sys; // threads, as the operating system has them
};

// ---- the steps ----
SM_INLINE int32_t sm_groups(int32_t cols) {
    return (cols + SM_GROUP - 1) / SM_GROUP;
}
SM_INLINE int32_t sm_blocks(int32_t rows) {
    return (rows + SM_ROWS - 1) / SM_ROWS;
}
SM_INLINE int32_t sm_min(int32_t a, int32_t b) {
    return a < b ? a : b;
}
// Where the i-th of `of` equal ranges of n begins
SM_INLINE int32_t sm_split(int32_t n, int32_t i, int32_t of) {
    return (int32_t)((int64_t)n * i / of);
}

// activations.c
void sm_norm(const float *x, const float *weight, float eps, int32_t n, float *y); // RMS norm; x, weight, y (n)
void sm_quantize(const float *x, int32_t n, sm_act *act, int32_t at);              // x (n) becomes vector `at` of act
void sm_swiglu(float *gate, const float *up, int32_t n);                           // gate (n) becomes silu(gate)·up

// matmul.c
// p's rows and format are set before; data: the packed part
void sm_piece_init(sm_piece *p, const uint8_t *data, int32_t cols);
// Rows of w times vectors 0..n-1 of act; blocks of 16 rows from b0 up to b1. out (n, rows), a vector's results `stride`
// apart; add: 1 adds to out, 0 replaces it
void sm_matmul(const sm_matrix *w, int32_t b0, int32_t b1, const sm_act *act, int32_t n, float *out, size_t stride,
               int32_t add, sm_scratch *scratch);
int32_t sm_tiles_left(void); // 1 where sm_matmul has left this thread shapes of tiles, which it must not
void sm_row(const sm_matrix *w, int32_t row, float *out); // (cols) a row as numbers: the embedding of a token

// attention.c
void sm_rope(double log_theta, int32_t pos, float *rope); // (2, 32) cosines and sines of a position
// kv, here and below: of the KV heads of all sequences
void sm_store_kv(sm_model *m, const sm_cache *c, int32_t kv, int32_t pos, const float *k, const float *v,
                 const float *rope);
// RoPE and quantization of queries: q (heads, 64) → query (heads, 32), pairs of 16 bits, and scale (heads)
void sm_query(const float *q, int32_t heads, const float *rope, int32_t *query, float *scale);
// Attention of query heads of one KV head over one chunk of positions. end: one past the last position that is attended
// to; next: keys to prefetch for the next chunk, or any address; results go to this chunk's place in part (heads,
// chunks, 64) and in top and sum (heads, chunks rounded up to 16)
void sm_chunk(const sm_model *m, const sm_cache *c, int32_t kv, int32_t chunk, int32_t end, const int32_t *query,
              const float *scale, int32_t heads, const int16_t *next, float *part, float *top, float *sum,
              sm_scratch *scratch);
// Chunks of one head, part (chunks, 64), top and sum (chunks rounded up to 16) → its 64 channels. factor: scratch
// (chunks rounded up to 16), may be top itself
void sm_combine(int32_t chunks, const float *part, const float *top, const float *sum, float *factor, float *out);

// api.c
int32_t sm_enter(sm_model *m); // SM_OK: the caller has the model until sm_leave
void sm_leave(sm_model *m);

// threads.c
int32_t sm_threads_start(sm_model *m); // SM_OK or a code
void sm_threads_end(sm_model *m);
void sm_threads_run(sm_model *m);             // m->job on all threads; returns when it is done
void sm_barrier(sm_model *m, int32_t thread); // barrier: all threads of a job
int32_t sm_threads_ready(const sm_model *m);  // 0 while a host's workers are missing
int32_t sm_forked(const sm_model *m);         // 1 in a child process
size_t sm_system_bytes(void);

// forward.c
void sm_run(sm_model *m, int32_t thread); // one thread's part of m->job

// sampler.c
void sm_choose_one(sm_candidates *d, const float *logits, int32_t vocab, const int32_t *history, sm_choice *choice);

// lens.c
// Σ exp(x - top) of x (n), in pieces of 1,024
double sm_exp_sum(const float *x, int32_t n, float top);
float sm_largest(const float *x, int32_t n); // of x (n)
// Whether x (n) are the logits of a distribution: each a number or -infinity, not all of them -infinity
int32_t sm_distribution(const float *x, int32_t n);
// The k likeliest of logits (n): ids and probs (k); ids are -1 where there is no distribution
void sm_rank(const float *logits, int32_t n, int32_t k, int32_t *ids, float *probs);

// The state of the floating-point unit in which everything is computed: round to nearest, denormals kept
typedef uint64_t sm_fpu;
sm_fpu sm_fpu_enter(void);
void sm_fpu_leave(sm_fpu state);

#endif
