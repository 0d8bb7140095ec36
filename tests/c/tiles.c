// The tile instructions of AMX on processors without them: a library that a test loads beside the kernel's real build.
// An instruction that the processor does not know raises SIGILL; this decodes it and carries it out in plain C. It
// knows the encodings from Intel's manual and those instructions alone that the kernel uses; anything else ends the
// process.
#define _GNU_SOURCE
#define SMOLLM_EMULATE_TILES
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "tiles.h"

enum { NONE, P66, PF3, PF2 }; // prefixes as VEX has them
static const int number[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
static atomic_ulong answered;

static void need(int fine) {
    if (!fine) abort();
}

typedef struct { // an operand in memory
    uint8_t *at;
    ptrdiff_t index; // times its scale: between the rows of a tile
    int length;      // bytes behind ModRM
} operand;

static operand memory(const greg_t *reg, const uint8_t *code) { // code: from VEX on
    const int b = !(code[1] & 32) * 8, x = !(code[1] & 64) * 8, mod = code[4] >> 6, rm = code[4] & 7, sib = code[5];
    const uint8_t *moved = code + 5 + (rm == 4);
    operand o = {NULL, 0, (rm == 4) + (mod == 1 ? 1 : mod == 2 ? 4 : 0)};
    need(mod < 3 && !(mod == 0 && (rm == 5 || (rm == 4 && (sib & 7) == 5)))); // all with a base
    o.at = (uint8_t *)reg[number[(rm == 4 ? sib & 7 : rm) + b]];
    if (rm == 4 && (sib >> 3 & 7) + x != 4) o.index = reg[number[(sib >> 3 & 7) + x]] << (sib >> 6);
    int32_t far = 0;
    if (mod == 2) memcpy(&far, moved, 4);
    o.at += mod == 1 ? (int8_t)*moved : far;
    return o;
}

static void answer(int signal, siginfo_t *info, void *context) {
    greg_t *reg = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)reg[REG_RIP];
    (void)signal, (void)info;
    need(code[0] == 0xc4 && (code[1] & 0x9f) == 0x82 && !(code[2] & 0x84)); // VEX, map 2, 128 bits, W0
    const int prefix = code[2] & 3, third = ~code[2] >> 3 & 15, kind = code[3], regs = code[4] >= 0xc0;
    const int first = code[4] >> 3 & 7, second = code[4] & 7;
    operand o = {NULL, 0, 0};
    if (!regs) o = memory(reg, code);
    need(kind == 0x5e || !third);
    if (kind == 0x49 && !regs && !first && prefix == NONE)
        sm_tile_shape((const sm_tile_shapes *)(o.at + o.index));
    else if (kind == 0x49 && !regs && !first && prefix == P66)
        sm_tile_shape_now((sm_tile_shapes *)(o.at + o.index));
    else if (kind == 0x49 && code[4] == 0xc0 && prefix == NONE)
        sm_tile_release();
    else if (kind == 0x49 && regs && !second && prefix == PF2)
        sm_tile_zero(first);
    else if (kind == 0x4b && !regs && second == 4 && prefix == PF2)
        sm_tile_load(first, o.at, o.index);
    else if (kind == 0x4b && !regs && second == 4 && prefix == PF3)
        sm_tile_store(first, o.at, o.index);
    else if (kind == 0x5e && regs && prefix == PF3)
        sm_tile_dot(first, second, third);
    else
        abort();
    reg[REG_RIP] += 5 + o.length;
    answered++;
}

void begin(void) {
    struct sigaction act = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO};
    need(!sigaction(SIGILL, &act, NULL));
}

uint64_t instructions(void) { // so far
    return answered;
}
