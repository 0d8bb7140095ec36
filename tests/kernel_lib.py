"The C kernel through plain ctypes, for tests: build a variant, open a file, compare"

import ctypes as C
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np

from smollm_nb.engine.q4file import read_q4

CSRC = Path(__file__).parents[1] / "smollm_nb" / "engine" / "csrc"
FLAGS = [
    *("-std=c11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"),
    *("-shared", "-fPIC", "-fvisibility=hidden", "-DSMOLLM_THREADS"),
]
# name → flags; what a build is called need not be what runs in it: "emulated" is the VNNI path in plain C, "tiles" the
# AMX path
VARIANTS = dict(
    sse2=["-O3", "-mcpu=x86_64"],
    ssse3=["-O3", "-mcpu=x86_64_v2"],
    avx2=["-O3", "-mcpu=x86_64_v3"],
    avx512vnni=["-O3", "-mcpu=x86_64_v4+avx512vnni"],
    amx=["-O3", "-mcpu=x86_64_v4+avx512vnni+amx_tile+amx_int8"],
    emulated=["-O2", "-mcpu=x86_64_v3", "-DSMOLLM_EMULATE"],
    tiles=["-O2", "-mcpu=x86_64_v3", "-DSMOLLM_EMULATE", "-DSMOLLM_EMULATE_TILES"],
    debug=["-O0", "-mcpu=x86_64_v3"],
)
NEEDS = dict(ssse3=1, avx2=2, emulated=2, tiles=2, debug=2, avx512vnni=4, amx=20)  # SM_CPU_ bits
TENSORS = {
    "model.embed_tokens": 0,
    "model.norm": 1,
    "lm_head": 2,
    "input_layernorm": 3,
    "q_proj": 4,
    "k_proj": 5,
    "v_proj": 6,
    "o_proj": 7,
    "post_attention_layernorm": 8,
    "gate_proj": 9,
    "up_proj": 10,
    "down_proj": 11,
}
FORMATS = {"f32": 0, "int8-row-f32": 1, "int4-book-g128-log8": 2}


class Shape(C.Structure):
    _fields_ = [
        (n, C.c_int32)
        for n in "vocab hidden mlp layers heads kv_heads head_dim context tied threads tile sequences".split()
    ] + [("rope_theta", C.c_float), ("rms_eps", C.c_float)]


class Part(C.Structure):
    _fields_ = [(n, C.c_int32) for n in "tensor layer begin end format zero".split()] + [
        ("offset", C.c_uint64),
        ("nbytes", C.c_uint64),
    ]


class Sampling(C.Structure):
    _fields_ = [(n, C.c_double) for n in "temperature top_p min_p repetition_penalty".split()] + [
        ("top_k", C.c_int32),
        ("zero", C.c_int32),
    ]


class Rng(C.Structure):
    _fields_ = [("state", C.c_uint64), ("inc", C.c_uint64)]


class Choice(C.Structure):
    _fields_ = [("how", Sampling), ("rng", Rng), ("log_probability", C.c_double)] + [
        (n, C.c_int32) for n in "id begin end zero".split()
    ]


def build(
    name: str,  # of `VARIANTS`
    folder: Path,  # where the library goes
    sources: Path = CSRC,  # the folder of the C
) -> Path:
    "Compile the kernel"
    out = Path(folder) / f"{name}.so"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "ziglang",
            "cc",
            *FLAGS,
            *VARIANTS[name],
            *sorted(map(str, sources.glob("*.c"))),
            "-o",
            str(out),
        ],
        check=True,
    )
    return out


def open_library(path) -> C.CDLL:
    "A library with its types declared"
    lib = C.CDLL(str(path))
    lib.sm_arena_bytes.restype = lib.sm_kv_bytes.restype = C.c_ssize_t
    lib.sm_variant.restype = lib.sm_error.restype = C.c_char_p
    lib.sm_create.argtypes = [
        C.c_void_p,
        C.c_void_p,
        C.c_int32,
        C.c_void_p,
        C.c_size_t,
        C.c_void_p,
        C.c_size_t,
        C.c_void_p,
    ]
    lib.sm_prefill.argtypes = [C.c_void_p, C.c_void_p, C.c_int32, C.c_int32, C.c_int32, C.c_void_p]
    lib.sm_decode.argtypes = [C.c_void_p, C.c_int32, C.c_int32, C.c_void_p]
    lib.sm_trace.argtypes = [*lib.sm_prefill.argtypes, C.c_void_p, C.c_size_t]
    lib.sm_head.argtypes = [C.c_void_p, C.c_void_p, C.c_int32, C.c_void_p]
    lib.sm_likeliest.argtypes = [C.c_void_p, C.c_void_p, C.c_int32, C.c_int32, C.c_void_p, C.c_void_p]
    lib.sm_log_probability.argtypes, lib.sm_log_probability.restype = [C.c_void_p, C.c_void_p, C.c_int32], C.c_double
    lib.sm_sample.argtypes = [C.c_void_p, C.c_void_p, C.c_void_p, C.c_void_p, C.c_void_p, C.c_int32]
    lib.sm_read.argtypes = [C.c_void_p, C.c_void_p, C.c_int32, C.c_int32, C.c_void_p]
    lib.sm_copy.argtypes = [C.c_void_p, C.c_int32, C.c_int32, C.c_int32]
    lib.sm_choose.argtypes = [C.c_void_p, C.c_void_p, C.c_void_p, C.c_int32, C.c_void_p, C.c_int32]
    lib.sm_rng_seed.argtypes = [C.c_void_p, C.c_uint64, C.c_uint64]
    lib.sm_rng_next.argtypes, lib.sm_rng_next.restype = [C.c_void_p], C.c_uint32
    lib.sm_close.argtypes = lib.sm_held.argtypes = lib.sm_workers.argtypes = lib.sm_logits.argtypes = [C.c_void_p]
    lib.sm_forget.argtypes, lib.sm_logits.restype = [C.c_void_p, C.c_int32], C.c_void_p
    return lib


def zeros64(
    n: int,  # bytes
) -> np.ndarray:  # (n,) uint8, aligned to 64
    "Memory that no page of has been touched"
    raw = np.empty(n + 64, np.uint8)
    return raw[-raw.ctypes.data % 64 :][:n]


def parts_of(f) -> "C.Array[Part]":
    "A file's table as the kernel takes it"
    out, base = [], np.frombuffer(f._map, np.uint8).ctypes.data
    for name in f.names():
        words = name.removesuffix(".weight").split(".")
        kind = TENSORS.get(words[-1], TENSORS.get(name.removesuffix(".weight")))
        for p in f.parts(name):
            out.append(
                Part(
                    kind,
                    int(words[2]) if "layers" in words else 0,
                    *p.rows,
                    FORMATS[p.format.name],
                    0,
                    p.data.ctypes.data - base,
                    p.nbytes,
                )
            )
    return (Part * len(out))(*out)


class Kernel:
    "A model in the kernel, with the methods of a backend"

    def __init__(self, lib: C.CDLL, path, context: int = 256, threads: int = 1, tile: int = 64, sequences: int = 1):
        self.lib, self.file = lib, read_q4(path, verify=False)
        c = self.config = self.file.config
        self.shape = Shape(
            c.vocab_size,
            c.hidden_size,
            c.intermediate_size,
            c.num_hidden_layers,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            context,
            int(c.tie_word_embeddings),
            threads,
            tile,
            sequences,
            c.rope_theta,
            c.rms_norm_eps,
        )
        self.context, self.parts, self.model = context, parts_of(self.file), C.c_void_p()
        need = lib.sm_arena_bytes(C.byref(self.shape))
        if need < 0:
            raise ValueError(lib.sm_error(need).decode())
        self.arena, self.weights = zeros64(need), np.frombuffer(self.file._map, np.uint8)
        self._ok(
            lib.sm_create(
                C.byref(self.shape),
                self.parts,
                len(self.parts),
                self.weights.ctypes.data,
                self.weights.size,
                self.arena.ctypes.data,
                need,
                C.byref(self.model),
            )
        )

    def _ok(self, code: int) -> int:
        if code < 0:
            raise ValueError(f"{code}: {self.lib.sm_error(code).decode()}")
        return code

    def prefill(self, ids, pos=0, want=1):
        ids = np.ascontiguousarray(ids, np.int32)
        out = np.empty((len(ids) if want == 2 else 1, self.config.vocab_size), np.float32)
        self._ok(self.lib.sm_prefill(self.model, ids.ctypes.data, len(ids), pos, want, out.ctypes.data))
        return out if want == 2 else out[0]

    def logits(self, ids):
        return self.prefill(ids, 0, 2)

    def decode(self, id, pos):
        out = np.empty(self.config.vocab_size, np.float32)
        self._ok(self.lib.sm_decode(self.model, id, pos, out.ctypes.data))
        return out

    def read(self, tokens, wanted):
        "(id, sequence, position) each; logits of the last `wanted`"
        x, out = np.array(tokens, np.int32), np.empty((max(wanted, 1), self.config.vocab_size), np.float32)
        self._ok(self.lib.sm_read(self.model, x.ctypes.data, len(x), wanted, out.ctypes.data))
        return out[:wanted]

    def choose(self, logits, hows, rngs, histories):
        "(id, log-probability, generator) of each row"
        seen, choices = [], (Choice * len(hows))()
        for c, p, rng, history in zip(choices, hows, rngs, histories):
            c.how = Sampling(p.temperature, p.top_p, p.min_p, p.repetition_penalty, p.top_k, 0)
            c.rng, c.begin, c.end = rng, len(seen), len(seen) + len(history)
            seen += [int(i) for i in history]
        seen = np.array(seen, np.int32)
        self._ok(self.lib.sm_choose(self.model, logits.ctypes.data, choices, len(hows), seen.ctypes.data, len(seen)))
        return [(c.id, c.log_probability, c.rng) for c in choices]

    def trace(self, ids, pos=0, want=1):
        "Logits, residual stream"
        ids = np.ascontiguousarray(ids, np.int32)
        out = np.empty((len(ids) if want == 2 else 1, self.config.vocab_size), np.float32)
        x = np.full((self.config.num_hidden_layers + 1, len(ids), self.config.hidden_size), np.nan, np.float32)
        call = (self.model, ids.ctypes.data, len(ids), pos, want, out.ctypes.data, x.ctypes.data, x.size)
        self._ok(self.lib.sm_trace(*call))
        return out if want == 2 else out[0], x

    def head(self, hidden):
        out = np.empty((len(hidden), self.config.vocab_size), np.float32)
        x = np.ascontiguousarray(hidden, np.float32)
        self._ok(self.lib.sm_head(self.model, x.ctypes.data, len(x), out.ctypes.data))
        return out

    def likeliest(self, logits, k):
        x, shape = np.ascontiguousarray(logits, np.float32), (len(logits), k)
        ids, probs = np.empty(shape, np.int32), np.empty(shape, np.float32)
        self._ok(self.lib.sm_likeliest(self.model, x.ctypes.data, len(x), k, ids.ctypes.data, probs.ctypes.data))
        return ids, probs

    def sample(self, logits, params, rng: Rng, history=()):
        how, h = (
            Sampling(params.temperature, params.top_p, params.min_p, params.repetition_penalty, params.top_k, 0),
            np.array(history, np.int32),
        )
        return self._ok(
            self.lib.sm_sample(
                self.model,
                np.ascontiguousarray(logits, np.float32).ctypes.data,
                C.byref(how),
                C.byref(rng),
                h.ctypes.data,
                len(h),
            )
        )

    def logprob(self, logits, id):
        return self.lib.sm_log_probability(self.model, np.ascontiguousarray(logits, np.float32).ctypes.data, id)

    def close(self):
        if self.model:
            self._ok(self.lib.sm_close(self.model))
        self.model = self.weights = None


def by_numbers_of_vectors(
    k: Kernel,
    numbers,  # of tokens of a prompt
) -> str:
    "A hash of the logits of prompts, each number of tokens a call of its own; closes k"
    ids, h = np.random.default_rng(0).integers(0, 512, 64).astype(np.int32), hashlib.sha256()
    for n in numbers:
        h.update(k.logits(ids[:n]).tobytes())
    k.close()
    return h.hexdigest()
