// The whole surface of the kernel: a Llama of SmolLM's family over a mapped SMOLLM_Q4 file, the same to the bit on
// every target.
//
// The caller owns all memory: the file's bytes, one arena, the buffers of a call. Nothing is allocated here and nothing
// is freed. Every function that can fail returns a negative SM_E_… code and then has changed nothing, except that a
// call may have written to its output buffers. One model serves one call at a time (SM_E_BUSY otherwise); several
// models may run at once. Shapes are written (rows, cols), rows outermost; sizes are in numbers, not bytes, unless a
// name says so.
#ifndef SMOLLM_H
#define SMOLLM_H

#include <stddef.h>
#include <stdint.h>

#if defined(__wasm__)
#define SM_API __attribute__((visibility("default"), used))
#elif defined(_WIN32)
#define SM_API __declspec(dllexport)
#else
#define SM_API __attribute__((visibility("default")))
#endif

#define SM_ABI 3 // raised whenever a function is added, or a struct or a function below changes its meaning

// ---- errors ----
enum {
    SM_OK = 0,
    SM_E_NULL = -1,       // a pointer that must be given is NULL, or not aligned as it must be
    SM_E_SHAPE = -2,      // a field of sm_shape is outside what the kernel runs
    SM_E_FORMAT = -3,     // a part's format, rows or columns are none that the kernel reads
    SM_E_TENSORS = -4,    // the parts do not cover every tensor of the shape exactly once, rows in rising order
    SM_E_BOUNDS = -5,     // a part reaches outside the weights, or its size or alignment is wrong
    SM_E_ARENA = -6,      // the arena is too small
    SM_E_THREADS = -7,    // the system gave no thread, or workers are missing
    SM_E_TOKEN = -8,      // a token id is not in 0..vocab-1
    SM_E_POSITION = -9,   // a position leaves a gap behind the tokens held, or lies past the context
    SM_E_SIZE = -10,      // a count is zero, negative or too large
    SM_E_PARAM = -11,     // a sampling parameter is outside its range
    SM_E_BUSY = -12,      // another call is running on this model
    SM_E_FORKED = -13,    // the process forked after sm_create: the child has no workers and must make its own model
    SM_E_SELF_TEST = -14, // this build computes something else than plain C on this machine
    SM_E_SCORES = -15,    // scores hold NaN or +infinity, or nothing but -infinity
    SM_E_HIDDEN = -16,    // a hidden vector holds NaN or infinity
    SM_E_SEQUENCE = -17   // a sequence is not in 0..sequences-1
};
SM_API const char *sm_error(int32_t code); // one English line, for any number

// ---- what this library is ----
SM_API int32_t sm_abi(void);         // SM_ABI
SM_API const char *sm_variant(void); // "plain", "sse2", "ssse3", "avx2", "avx512vnni", "amx", "neon", "dotprod",
                                     // "simd128", "relaxed", and these with "-threads"
enum { SM_CPU_SSSE3 = 1, SM_CPU_AVX2 = 2, SM_CPU_AVX512_VNNI = 4, SM_CPU_DOTPROD = 8, SM_CPU_AMX = 16 };
// SM_CPU_… bits that CPU and system both offer; every variant may ask. Where there is AMX, this asks Linux to let the
// process use it, once and for all its threads
SM_API int32_t sm_cpu(void);
SM_API int32_t sm_self_test(void); // SM_OK, or SM_E_SELF_TEST; about a millisecond, not for two threads at once

// ---- shape and weights ----
typedef struct {       // 56 bytes
    int32_t vocab;     // tokens, 1..2^20
    int32_t hidden;    // a multiple of 64, 64..8192
    int32_t mlp;       // a multiple of 64, 64..32768
    int32_t layers;    // 1..256
    int32_t heads;     // query heads, heads*head_dim at most 8192
    int32_t kv_heads;  // heads must be a multiple of it
    int32_t head_dim;  // 64
    int32_t context;   // positions of a sequence's KV cache, 1..65536
    int32_t tied;      // 1: the embedding is the head as well; 0: there is an SM_HEAD
    int32_t threads;   // that compute, the caller's included, 1..64
    int32_t tile;      // tokens that are read at a time, 1..512; changes speed and memory, never a result
    int32_t sequences; // that are held side by side, each with a KV cache of its own, 1..256
    float rope_theta;  // finite, 1 or more
    float rms_eps;     // finite, above 0
} sm_shape;

enum {                // tensors, by the checkpoint's names
    SM_EMBED = 0,     // model.embed_tokens.weight               (vocab, hidden)
    SM_NORM = 1,      // model.norm.weight                       (hidden), f32
    SM_HEAD = 2,      // lm_head.weight, only where not tied     (vocab, hidden)
    SM_ATTN_NORM = 3, // model.layers.N.input_layernorm.weight          (hidden), f32
    SM_Q = 4,         // model.layers.N.self_attn.q_proj.weight         (heads*head_dim, hidden)
    SM_K = 5,         // model.layers.N.self_attn.k_proj.weight         (kv_heads*head_dim, hidden)
    SM_V = 6,         // model.layers.N.self_attn.v_proj.weight         (kv_heads*head_dim, hidden)
    SM_O = 7,         // model.layers.N.self_attn.o_proj.weight         (hidden, heads*head_dim)
    SM_MLP_NORM = 8,  // model.layers.N.post_attention_layernorm.weight (hidden), f32
    SM_GATE = 9,      // model.layers.N.mlp.gate_proj.weight            (mlp, hidden)
    SM_UP = 10,       // model.layers.N.mlp.up_proj.weight              (mlp, hidden)
    SM_DOWN = 11      // model.layers.N.mlp.down_proj.weight            (hidden, mlp)
};
enum {                    // formats, by their names in engine/formats.py
    SM_F32 = 0,           // f32, vectors only
    SM_INT8_ROW = 1,      // int8-row-f32
    SM_INT4_BOOK_G128 = 2 // int4-book-g128-log8
};
enum { SM_MAX_PARTS = 4 }; // row ranges of one tensor

typedef struct {     // 40 bytes: a range of a tensor's rows, in one format, as q4file.Part has it
    int32_t tensor;  // SM_EMBED …
    int32_t layer;   // 0 where the tensor belongs to no layer
    int32_t begin;   // first row, a multiple of 16; a vector is one row
    int32_t end;     // one past the last row
    int32_t format;  // SM_F32 …
    int32_t zero;    // 0
    uint64_t offset; // of its first byte from the weights' first, a multiple of 64
    uint64_t nbytes; // Format.nbytes(end - begin, cols)
} sm_part;

// ---- life ----
typedef struct sm_model sm_model;

SM_API ptrdiff_t sm_arena_bytes(const sm_shape *shape); // bytes, a multiple of 64; or a code
#ifndef __wasm__
SM_API
ptrdiff_t sm_wasm_arena_bytes(const sm_shape *shape); // what sm_arena_bytes says where this kernel is WebAssembly
#endif
SM_API ptrdiff_t sm_kv_bytes(const sm_shape *shape); // the share of the KV cache in it; or a code

SM_API int32_t sm_create(  // SM_OK, or a code
    const sm_shape *shape, // copied
    const sm_part *parts,  // (n_parts), copied; tensors in any order
    int32_t n_parts,
    const void *weights, // (weights_bytes) bytes, aligned to 64, readable until sm_close: the mapped file
    size_t weights_bytes,
    void *arena, // (arena_bytes) bytes, aligned to 64, until sm_close; not cleared, so unused pages cost no memory
    size_t arena_bytes, // at least sm_arena_bytes(shape)
    sm_model **model);  // points into the arena
// Natively sm_create starts threads-1 workers, which sleep between calls. In WASM the host starts them: each calls
// sm_worker, on a stack of its own, with its index and comes back after sm_close; sm_workers counts those that arrived.
SM_API int32_t sm_close(sm_model *model);                 // ends and joins the workers; the model is gone
SM_API int32_t sm_worker(sm_model *model, int32_t index); // index in 1..threads-1; only for hosts that start workers
SM_API int32_t sm_workers(const sm_model *model);         // workers that are there, threads-1 when all are

// ---- reading tokens ----
enum { SM_NO_LOGITS = 0, SM_LAST_LOGITS = 1, SM_ALL_LOGITS = 2 };

SM_API int32_t sm_prefill( // SM_OK, or a code before anything is computed
    sm_model *model,
    const int32_t *ids, // (n)
    int32_t n,          // any number that the context holds; call it tile by tile to show progress or to stop
    int32_t pos,        // of ids[0]; at most the number of tokens held: what was held from there on is forgotten
    int32_t want,       // SM_NO_LOGITS …
    float *logits);     // (vocab) for SM_LAST_LOGITS, or NULL: see sm_logits; (n, vocab) for SM_ALL_LOGITS
// One token; logits as for SM_LAST_LOGITS
SM_API int32_t sm_decode(sm_model *model, int32_t id, int32_t pos, float *logits);
SM_API float *sm_logits(sm_model *model);      // (vocab), written by calls whose logits are NULL; valid until sm_close
SM_API int32_t sm_held(const sm_model *model); // tokens that the KV cache of sequence 0 holds
SM_API int32_t sm_forget(sm_model *model, int32_t n); // keep the first n tokens of those held

// Several sequences together: each weight is read once for `tile` tokens, whatever sequence they belong to, and every
// token's logits are those that its sequence gets alone. sm_prefill, sm_decode and sm_trace read sequence 0.
typedef struct {      // 12 bytes
    int32_t id;       // of the token
    int32_t sequence; // 0..sequences-1
    int32_t pos;      // the first of a sequence in a call as for sm_prefill, then one after the other
} sm_token;
SM_API int32_t sm_read( // SM_OK, or a code before anything is computed
    sm_model *model,
    const sm_token *tokens, // (n) in any order of sequences
    int32_t n,              // 1..2^20
    int32_t wanted,         // 0..n: the last so many tokens' logits
    float *logits);         // (wanted, vocab)
SM_API int32_t sm_copy(     // a sequence becomes the first n tokens of another: what many have in common is read once
    sm_model *model, int32_t from, int32_t to,
    int32_t n); // 0 … tokens that `from` holds

// ---- looking inside: nothing here costs a call of the functions above anything ----
enum { SM_MAX_LIKELIEST = 64 };

SM_API int32_t sm_trace( // sm_prefill, which also hands out the residual stream; for one token sm_decode
    sm_model *model, const int32_t *ids, int32_t n, int32_t pos, int32_t want, float *logits,
    float *residual,        // (layers + 1, n, hidden) before the first layer … after the last, before the final norm
    size_t residual_count); // numbers that `residual` has memory for, at least these
SM_API int32_t sm_head(     // the final norm and the head of any hidden vectors: after the last layer, the logits
    sm_model *model,
    const float *hidden,     // (n, hidden), finite
    int32_t n,               // 1..2^20; the weights are read once for `tile` of them
    float *logits);          // (n, vocab)
SM_API int32_t sm_likeliest( // the tokens with the largest logits, of equal ones the lower id first
    sm_model *model,         // lends its threads
    const float *logits,     // (n, vocab)
    int32_t n,               // 1..2^20
    int32_t k,               // tokens a row, 1..SM_MAX_LIKELIEST, at most vocab
    int32_t *ids,            // (n, k); -1 in rows that sm_sample would refuse, for which this returns SM_E_SCORES
    float *probs);           // (n, k) their probabilities

// ---- choosing a token: the rule of inference/sampling.py ----
typedef struct {               // 40 bytes
    double temperature;        // 0..100; 0 is greedy
    double top_p;              // 0..1; 1 is off
    double min_p;              // 0..1; 0 is off
    double repetition_penalty; // 0.01..100; 1 is off
    int32_t top_k;             // 0 or more; 0 is off
    int32_t zero;              // 0
} sm_sampling;
typedef struct {
    uint64_t state, inc;
} sm_rng; // PCG32: 16 bytes, the caller's

SM_API void sm_rng_seed(sm_rng *rng, uint64_t seed, uint64_t stream); // inference/sampling.py has stream 54
SM_API uint32_t sm_rng_next(sm_rng *rng);                             // 32 random bits
SM_API int32_t sm_sample(                                             // the chosen id, or a code
    sm_model *model,                                                  // lends scratch memory
    const float *logits,                                              // (vocab), or NULL for sm_logits
    const sm_sampling *how,
    sm_rng *rng, // advanced by one draw; untouched and may be NULL where greedy
    // (n_history) ids that the repetition penalty counts, in any order; may be NULL where it is off
    const int32_t *history, int32_t n_history);
typedef struct { // 80 bytes: one choice of several
    sm_sampling how;
    sm_rng rng;             // advanced by one draw, unless greedy
    double log_probability; // of the chosen id, as sm_log_probability has it
    int32_t id;             // the chosen id, or a code
    int32_t begin, end;     // of the ids in history that the repetition penalty counts
    int32_t zero;           // 0
} sm_choice;
SM_API int32_t sm_choose(   // SM_OK, or a code before anything is chosen; a code of one choice is its id
    sm_model *model,        // lends its threads
    const float *logits,    // (n, vocab)
    sm_choice *choices,     // (n)
    int32_t n,              // 1..2^20
    const int32_t *history, // (n_history); may be NULL where n_history is 0
    int32_t n_history);
SM_API double sm_log_probability( // natural logarithm of a token's probability, at most 0; 1 where model or id is wrong
    sm_model *model,
    const float *logits, // (vocab), or NULL for sm_logits
    int32_t id);

#endif
