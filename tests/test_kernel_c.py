"The C kernel against PyTorch, and against itself: every variant, thread count and tile gives the same bits"

import ctypes as C
import hashlib
import itertools
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from kernel_lib import NEEDS, VARIANTS, Kernel, Part, Rng, Sampling, Shape, build, open_library, zeros64

from smollm_nb.inference.sampling import PCG32, SamplingParams, log_softmax, sample
from smollm_nb.models.tiny import TINY, random_tensors
from smollm_nb.quant.formats import Format, Quantized, pack
from smollm_nb.quant.q4file import write_q4
from smollm_nb.quant.recipes import quantize
from smollm_nb.quant.rounding import load_quantized, round_to_nearest

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux",
    reason="the variants listed are those of x86-64 Linux",
)
IDS = np.random.default_rng(0).integers(0, 512, 150).astype(np.int32)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    "Every variant that this processor runs, open"
    folder = tmp_path_factory.mktemp("kernel")
    first = open_library(build("sse2", folder))
    runs = [n for n in VARIANTS if n != "sse2" and first.sm_cpu() & NEEDS[n] == NEEDS[n]]
    with ThreadPoolExecutor(2) as pool:
        return dict(sse2=first) | {n: open_library(p) for n, p in zip(runs, pool.map(lambda n: build(n, folder), runs))}


def write_plain(
    path,  # the file to make
    config,  # a `LlamaConfig`
    split: int,  # rows of embedding and head that are int8; the rest, and all else, is int4
):
    "Random weights, rounded to nearest: any shape, in a moment"
    four, eight = Format.parse("int4-book-g128-log8"), Format.parse("int8-row-f32")

    def tensor(name, w):
        if w.ndim == 1:
            return name, w.shape, [((0, 1), Format.parse("f32"), pack(Quantized(Format.parse("f32"), w[None])))]
        cuts = [(0, split, eight), (split, len(w), four)] if "embed" in name or "head" in name else [(0, len(w), four)]
        return name, w.shape, [((i, j), f, pack(round_to_nearest(torch.from_numpy(w[i:j]), f))) for i, j, f in cuts]

    return write_q4(path, config, (tensor(*t) for t in random_tensors(config)), dict(name="plain"), dict(id="random"))


@pytest.fixture(scope="session")
def files(tiny_folder, tmp_path_factory):
    "Quantized models: tiny in both formats, and others of the proportions that the family has and has not"
    folder = tmp_path_factory.mktemp("files")
    odd = replace(
        TINY,
        vocab_size=523,
        hidden_size=320,
        intermediate_size=448,
        num_hidden_layers=2,
        num_attention_heads=10,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        rope_theta=10000.0,
    )
    m360 = replace(
        TINY,
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=1,
        num_attention_heads=15,
        num_key_value_heads=5,
        rope_theta=10000.0,
    )
    b1_7 = replace(
        TINY,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=1,
        num_attention_heads=32,
        num_key_value_heads=32,
        rope_theta=10000.0,
    )
    return dict(
        fast=write_plain(folder / "fast.bin", TINY, 48),
        int8=quantize(tiny_folder, folder / "int8", "int8")["path"],
        odd=write_plain(folder / "odd.bin", odd, 16),
        m360=write_plain(folder / "m360.bin", m360, 128),
        b1_7=write_plain(folder / "b1_7.bin", b1_7, 128),
    )


@pytest.fixture(scope="session")
def lib(libraries):
    return libraries.get("avx2", libraries["sse2"])


def divergence(
    p,  # logits, (n, vocab)
    q,  # logits, (n, vocab)
) -> float:
    "Mean KL of q from p, in nats"
    a, b = (x.astype(np.float64) - x.max(-1, keepdims=True) for x in (p, q))
    a, b = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (a, b))
    return float((np.exp(a) * (a - b)).sum(-1).mean())


def test_libraries_know_themselves(libraries):
    "Names, and the test that a loader runs"
    assert len(libraries) >= 3  # even without AVX2: sse2, and on anything of the last decade the rest
    for name, lib in libraries.items():
        assert lib.sm_abi() == 2, name
        assert lib.sm_self_test() == 0, name
        assert lib.sm_variant().decode() == dict(emulated="avx512vnni", debug="avx2").get(name, name)


@pytest.mark.parametrize("kind", ["fast", "int8", "odd", "m360", "b1_7"])
def test_logits_are_pytorchs(lib, files, kind):
    "As near to fp32 on the same weights as the bar asks for the real model"
    k, want = Kernel(lib, files[kind]), load_quantized(files[kind], "cpu").logits(IDS)
    got = k.logits(IDS)
    k.close()
    assert divergence(want, got) < 2e-4
    assert (want.argmax(-1) == got.argmax(-1)).mean() >= 0.98


@pytest.mark.parametrize("kind", ["fast", "int8", "odd"])
def test_same_bits_everywhere(libraries, files, kind):
    "Variants, each alone and with threads, those that machines mostly choose with 1 to 4 and all tiles: one hash"
    seen, ways, some, more, full = (
        set(),
        0,
        [(1, 64), (3, 7)],
        [(2, 64), (4, 33)],
        {"sse2", "avx2", "emulated"} & set(libraries),
    )
    for name, lib, (threads, tile) in [(n, lib, w) for n, lib in libraries.items() for w in some + more * (n in full)]:
        if name == "debug" and threads > 1:
            continue  # slow, and the same code
        k = Kernel(lib, files[kind], threads=threads, tile=tile)
        logits = k.logits(IDS[:70])
        same, inside = k.trace(IDS[:70], want=2)
        assert same.tobytes() == logits.tobytes()
        lens = k.likeliest(k.head(inside[:, -1]), 7)
        seen.add(hashlib.sha256(b"".join(x.tobytes() for x in (logits, inside, *lens))).hexdigest())
        k.close()
        ways += 1
    assert len(seen) == 1
    assert ways == 2 * len(libraries) + 2 * len(full) - ("debug" in libraries)


def test_decode_is_prefill(lib, files):
    "Token by token, in pieces, after going back: the logits of one pass, to the bit"
    whole = Kernel(lib, files["fast"], threads=2)
    want = whole.logits(IDS)
    k = Kernel(lib, files["fast"], threads=2, tile=5)
    assert np.array_equal(k.prefill(IDS[:9]), want[8])
    for i in range(9, len(IDS)):
        assert np.array_equal(k.decode(int(IDS[i]), i), want[i])
    k.prefill(IDS[::-1].copy())
    assert lib.sm_forget(k.model, 0) == 0
    assert np.array_equal(k.prefill(IDS[:40]), want[39])
    assert np.array_equal(k.prefill(IDS[20:60], 20), want[59])
    assert lib.sm_held(k.model) == 60
    whole.close(), k.close()


def test_trace_is_prefill_and_decode(lib, files):
    "The residual stream of a prompt, of pieces of it and of single tokens; the head of its last layer"
    whole = Kernel(lib, files["odd"], threads=2)
    want, inside = whole.trace(IDS[:90], want=2)
    assert np.array_equal(whole.logits(IDS[:90]), want)
    assert np.array_equal(whole.head(inside[-1]), want)
    assert np.isfinite(inside).all()
    k = Kernel(lib, files["odd"], threads=2, tile=5)
    for begin, end, logits in ((0, 7, 0), (7, 8, 1), (8, 9, 0), (9, 10, 2), (10, 31, 1), (31, 90, 2)):
        got, x = k.trace(IDS[begin:end], begin, logits)
        assert np.array_equal(x, inside[:, begin:end]), (begin, end)
        if logits:
            assert np.array_equal(got, want[begin:end] if logits == 2 else want[end - 1]), (begin, end)
    assert np.array_equal(k.decode(5, 90), whole.decode(5, 90)), "what was traced is in the cache"
    whole.close(), k.close()


def test_likeliest_by_numpy(lib, files):
    "Equal logits, many of them, -infinity; every number of tokens"
    k, r = Kernel(lib, files["odd"], threads=3), np.random.default_rng(4)
    x = (4 * r.standard_normal((9, 523))).astype(np.float32)
    x[1], x[2], x[3, 5:], x[4, 100] = x[1].round(), 0, -np.inf, 500
    for n in (1, 2, 5, 64):
        ids, probs = k.likeliest(x, n)
        order = np.argsort(-x, axis=1, kind="stable")[:, :n]
        assert np.array_equal(ids, order)
        p = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
        assert np.allclose(probs, np.take_along_axis(p / p.sum(1, keepdims=True), order, 1), rtol=1e-6, atol=1e-30)
    for bad in (np.nan, np.inf):
        y = x.copy()
        y[6, 522] = bad
        with pytest.raises(ValueError, match="-15"):
            k.likeliest(y, 3)
    with pytest.raises(ValueError, match="-15"):
        k.likeliest(np.full((1, 523), -np.inf), 3)
    k.close()


def test_sampler_follows_the_rule(lib, files):
    "The tokens that generate.py's sampler chooses, over a grid of parameters"
    k, r = Kernel(lib, files["fast"]), np.random.default_rng(1)
    grid = itertools.product([0.0, 0.7, 1.5], [0, 1, 7, 600], [1.0, 0.9, 0.3, 0.0], [0.0, 0.1], [1.0, 1.3])
    for n, (t, top_k, top_p, min_p, penalty) in enumerate(grid):
        params, logits = (
            SamplingParams(t, top_k, top_p, min_p, penalty, seed=n << 40 | n),
            (4 * r.standard_normal(512)).astype(np.float32),
        )
        if n % 3 == 0:
            logits = logits.round()  # equals
        a, b, history = PCG32(params.seed), Rng(), r.integers(0, 512, 30).tolist()
        lib.sm_rng_seed(C.byref(b), params.seed, 54)
        for _ in range(4):
            assert sample(logits, params, a, history) == k.sample(logits, params, b, history), params
        assert abs(k.logprob(logits, n) - log_softmax(logits)[n]) < 1e-5
        assert a.next() == lib.sm_rng_next(C.byref(b))
    k.close()


def test_door(lib, files):
    "What may not come in, and its code"
    k = Kernel(lib, files["fast"], context=40)
    ids, out = np.zeros(50, np.int32), np.empty((50, 512), np.float32)

    def prefill(n, pos=0, want=1, ids=ids):
        return lib.sm_prefill(k.model, ids.ctypes.data if ids is not None else None, n, pos, want, out.ctypes.data)

    assert prefill(40) == 0
    assert prefill(41) == -10
    assert prefill(0) == -10
    assert prefill(-5) == -10
    assert prefill(3, want=7) == -10
    assert prefill(1, 40) == -9
    assert prefill(2, 39) == -9
    assert prefill(1, -1) == -9
    assert prefill(1, 2**31 - 1) == -9
    assert prefill(5, ids=None) == -1
    assert prefill(1, 0, ids=np.array([512], np.int32)) == -8
    assert prefill(1, 0, ids=np.array([-1], np.int32)) == -8
    assert lib.sm_held(k.model) == 40
    assert lib.sm_forget(k.model, 41) == -10
    assert lib.sm_decode(k.model, 1, 5, None) == 0
    assert lib.sm_decode(k.model, 1, 7, None) == -9
    how, nan = Sampling(1, 1, 0, 1, 0, 0), float("nan")
    assert lib.sm_sample(k.model, None, C.byref(how), None, None, 0) == -1
    for bad in (
        Sampling(nan, 1, 0, 1, 0, 0),
        Sampling(101, 1, 0, 1, 0, 0),
        Sampling(1, 1.1, 0, 1, 0, 0),
        Sampling(1, 1, -1, 1, 0, 0),
        Sampling(1, 1, 0, 0, 0, 0),
        Sampling(1, 1, 0, 1, -1, 0),
    ):
        assert lib.sm_sample(k.model, None, C.byref(bad), C.byref(Rng()), None, 0) == -11
    assert lib.sm_sample(k.model, None, C.byref(how), C.byref(Rng()), np.array([512], np.int32).ctypes.data, 1) == -8
    assert all(lib.sm_error(c) for c in range(-20, 3))
    k.close()


def test_door_of_the_lens(lib, files):
    "What may not come in where the residual stream goes out"
    k = Kernel(lib, files["fast"], context=40)
    ids, x, logits = np.zeros(50, np.int32), np.zeros((5, 40, 192), np.float32), np.zeros((50, 512), np.float32)

    def trace(n=3, pos=0, want=1, ids=ids, out=x, room=x.size):
        address = None if out is None else out.ctypes.data
        return lib.sm_trace(k.model, ids.ctypes.data, n, pos, want, logits.ctypes.data, address, room)

    layers = k.config.num_hidden_layers
    assert trace() == 0
    assert trace(room=(layers + 1) * 3 * 192) == 0
    assert trace(room=(layers + 1) * 3 * 192 - 1) == -10
    assert trace(room=0) == -10
    assert trace(out=None) == -1
    assert trace(n=41) == -10
    assert trace(n=0) == -10
    assert trace(want=3) == -10
    assert trace(pos=5) == -9
    assert trace(ids=np.full(3, 512, np.int32)) == -8
    assert lib.sm_trace(None, ids.ctypes.data, 3, 0, 1, None, x.ctypes.data, x.size) == -1
    assert lib.sm_held(k.model) == 3

    def head(n=2, x=x[0], out=logits, model=k.model):
        return lib.sm_head(model, *(None if x is None else x.ctypes.data, n, None if out is None else out.ctypes.data))

    assert head() == 0
    assert head(0) == head(-1) == head((1 << 20) + 1) == -10
    assert head(x=None) == head(out=None) == head(model=None) == -1
    for bad in (np.nan, np.inf, -np.inf):
        y = np.zeros((2, 192), np.float32)
        y[1, 191] = bad
        assert head(x=y) == -16
    best, probs = np.zeros((50, 64), np.int32), np.zeros((50, 64), np.float32)

    def likeliest(n=2, top=5, x=logits, ids=best, probs=probs, model=k.model):
        at = [None if a is None else a.ctypes.data for a in (x, ids, probs)]
        return lib.sm_likeliest(model, at[0], n, top, at[1], at[2])

    assert likeliest() == 0
    assert likeliest(0) == likeliest(top=0) == likeliest(top=65) == likeliest(1 << 21) == -10
    assert likeliest(x=None) == likeliest(ids=None) == likeliest(probs=None) == likeliest(model=None) == -1
    k.close()


def test_refusals_at_creation(lib, files):
    "Shapes, parts and memory that do not fit"
    k = Kernel(lib, files["fast"])
    need = lib.sm_arena_bytes(C.byref(k.shape))

    def create(shape=None, parts=k.parts, n=None, weights=0, size=k.weights.size, arena=None, room=4 * need):
        arena = zeros64(4 * need) if arena is None else arena
        return lib.sm_create(
            C.byref(shape or k.shape),
            parts,
            len(parts) if n is None else n,
            k.weights.ctypes.data + weights,
            size,
            arena.ctypes.data,
            room,
            C.byref(C.c_void_p()),
        )

    def shape(**changed):
        return Shape(*[changed.get(n, getattr(k.shape, n)) for n, _ in Shape._fields_])

    def parts(i, **changed):
        p = (Part * len(k.parts))(*k.parts)
        for name, v in changed.items():
            setattr(p[i], name, v)
        return p

    for bad in (
        dict(hidden=100),
        dict(head_dim=32),
        dict(kv_heads=2),
        dict(vocab=0),
        dict(layers=257),
        dict(context=0),
        dict(threads=65),
        dict(tile=0),
        dict(tied=2),
        dict(rope_theta=0.5),
        dict(rms_eps=float("nan")),
        dict(mlp=-64),
    ):
        assert lib.sm_arena_bytes(C.byref(shape(**bad))) == -2, bad
        assert create(shape(**bad)) == -2, bad
    assert create(n=len(k.parts) - 1) == -4
    assert create(shape(tied=0)) == -4
    assert create(shape(layers=5)) == -4
    assert create(shape(layers=3)) == -4
    assert create(parts=parts(0, format=7)) == -3
    assert create(parts=parts(0, begin=8)) == -3
    assert create(parts=parts(0, tensor=99)) == -4
    assert create(parts=parts(0, layer=1)) == -4
    assert create(parts=parts(0, offset=32)) == -5
    assert create(parts=parts(0, offset=2**64 - 64)) == -5
    assert create(parts=parts(0, nbytes=64)) == -5
    assert create(size=4096) == -5
    assert create(room=need - 1) == -6
    assert create(weights=8) == -1
    assert create(arena=zeros64(need + 64)[8:]) == -1
    k.close()


def test_memory(lib):
    "What the cache takes: 2 bytes a number and a scale a position and head, twice"
    shape = Shape(49152, 576, 1536, 30, 9, 3, 64, 2048, 1, 2, 64, 1e5, 1e-5)
    kv = lib.sm_kv_bytes(C.byref(shape))
    assert kv == 30 * 3 * 2048 * (64 * 2 * 2 + 2 * 4)
    assert lib.sm_arena_bytes(C.byref(shape)) - kv < 6_000_000


@pytest.mark.slow
def test_real_model(lib, real_folder, tmp_path):
    "KL to fp32 PyTorch on the same dequantized weights"
    path = quantize(real_folder, tmp_path, "int8")["path"]
    ids = np.random.default_rng(2).integers(0, 49152, 200).astype(np.int32)
    k = Kernel(lib, path, threads=2)
    got, want = k.logits(ids), load_quantized(path, "cpu").logits(ids)
    k.close()
    assert divergence(want, got) < 2e-4
    assert (want.argmax(-1) == got.argmax(-1)).mean() >= 0.99
