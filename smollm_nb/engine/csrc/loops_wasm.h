// The two hottest loops of the matrix product in WebAssembly, 128 bits at a time. Browsers compile what stands there in
// the order in which it stands, and processors are faster with one instruction for 16 rows after the next than with
// four rows after four. The compiler before them would choose the latter, which takes fewer registers; `schedule_here`
// and `opaque` forbid it.
#define SM_EACH _Pragma("clang loop unroll(full)") for (int k = 0; k < 4; k++)

// All four are worked out before what follows
SM_INLINE void schedule_here(v128_t x[4]) {
    __asm__ volatile("" : "+r"(x[0]), "+r"(x[1]), "+r"(x[2]), "+r"(x[3]));
}
// Nothing that was read from p is known any more, and offsets from it become a part of the instructions that read
SM_INLINE const void *opaque(const void *p) {
    __asm__ volatile("" : "+r"(p));
    return p;
}

SM_INLINE sm_acc sm_acc_of(const v128_t x[4]) {
    return (sm_acc){{SM_JOIN4((sm_i32x4)x[0], (sm_i32x4)x[1], (sm_i32x4)x[2], (sm_i32x4)x[3])}};
}

// sum (4) of 16 rows, plus 4 weights a row, bytes, times 4 activations
SM_INLINE void add_bytes(v128_t sum[4], const v128_t bytes[4], v128_t low_byte, const int32_t *word) { // word (2)
    const v128_t a = wasm_v128_load32_splat(word), b = wasm_v128_load32_splat(word + 1);
    SM_EACH sum[k] = wasm_i32x4_add(sum[k], wasm_i32x4_dot_i16x8(wasm_v128_and(bytes[k], low_byte), a));
    schedule_here(sum);
    SM_EACH sum[k] = wasm_i32x4_add(sum[k], wasm_i32x4_dot_i16x8(wasm_u16x8_shr(bytes[k], 8), b));
    schedule_here(sum);
}

// 16 rows × 8·steps weights times one vector; word (4·steps)
SM_INLINE sm_acc int4_by_one(u8x64 table, const uint8_t *codes, int32_t steps, const int32_t *word) {
    const v128_t book = (v128_t)sm_pin((v128_t)SM_QUARTER(table, 0)), low_bits = (v128_t)sm_pin(wasm_i8x16_splat(15)),
                 low_byte = (v128_t)sm_pin(wasm_i16x8_splat(255));
    v128_t sum[4] = {0}, bytes[4];
    for (const uint8_t *end = codes + 64 * (size_t)steps; codes != end; codes += 64, word += 4) {
        const uint8_t *line = opaque(codes);
        const int32_t *words = opaque(word);
        SM_EACH bytes[k] = SM_LOOKUP(book, wasm_v128_and(wasm_v128_load(line + 16 * k), low_bits));
        schedule_here(bytes);
        add_bytes(sum, bytes, low_byte, words);
        line = opaque(codes); // read twice: there are no registers to hold it
        SM_EACH bytes[k] = SM_LOOKUP(book, wasm_v128_and(wasm_u16x8_shr(wasm_v128_load(line + 16 * k), 4), low_bits));
        schedule_here(bytes);
        add_bytes(sum, bytes, low_byte, words + 2);
    }
    return sm_acc_of(sum);
}

// Two panels, 16 rows × 4 weights each, a step, times two vectors, the second's words 64 behind the first's
SM_INLINE void panels_by_two(const uint8_t *panel, int32_t steps, const int32_t *word, sm_acc acc[2]) {
    v128_t a[4] = {0}, b[4] = {0};
    for (int32_t s = 0; s < steps; s++, panel += 2 * SM_PANEL, word += 4) {
        const uint8_t *here = opaque(panel);
        const int32_t *words = opaque(word);
        _Pragma("clang loop unroll(full)") for (int pair = 0; pair < 4; pair++) {
            const v128_t x = wasm_v128_load32_splat(words + pair), y = wasm_v128_load32_splat(words + 64 + pair);
            SM_EACH {
                const v128_t w = wasm_v128_load(here + 64 * pair + 16 * k);
                a[k] = wasm_i32x4_add(a[k], wasm_i32x4_dot_i16x8(w, x)),
                b[k] = wasm_i32x4_add(b[k], wasm_i32x4_dot_i16x8(w, y));
            }
            schedule_here(a), schedule_here(b);
        }
    }
    acc[0] = sm_acc_of(a), acc[1] = sm_acc_of(b);
}
#undef SM_EACH
