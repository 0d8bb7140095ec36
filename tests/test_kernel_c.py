"The C kernel against PyTorch, and against itself: every variant, thread count and tile gives the same bits"

import ctypes as C
import hashlib
import itertools
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_lib import (
    CSRC,
    NEEDS,
    VARIANTS,
    Kernel,
    Part,
    Rng,
    Sampling,
    Shape,
    build,
    by_numbers_of_vectors,
    open_library,
    zeros64,
)

from smollm_nb.engine.formats import Format, Quantized, pack
from smollm_nb.engine.q4file import write_q4
from smollm_nb.inference.sampling import PCG32, SamplingParams, log_softmax, sample
from smollm_nb.models.tiny import TINY, random_tensors
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
        assert lib.sm_abi() == 3, name
        assert lib.sm_self_test() == 0, name
        assert lib.sm_variant().decode() == dict(emulated="avx512vnni", tiles="amx", debug="avx2").get(name, name)


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
        {"sse2", "avx2", "emulated", "tiles"} & set(libraries),
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


@pytest.mark.parametrize("threads", [1, 2])
def test_tiles_of_every_size(libraries, files, threads):
    "Up to a tile's 16 vectors and beyond, with half a group of columns at the end, in int8 and int4: the bits of SSE2"
    if "tiles" not in libraries:
        pytest.skip("this processor has no AVX2")
    numbers = [*range(1, 21), 31, 32, 33, 49]
    for kind in ("odd", "int8"):
        want, got = (
            by_numbers_of_vectors(Kernel(libraries[name], files[kind], threads=threads), numbers)
            for name in ("sse2", "tiles")
        )
        assert got == want, kind


SELF_TEST = "import ctypes, sys; sys.exit(-ctypes.CDLL(sys.argv[1]).sm_self_test())"


@pytest.mark.parametrize(
    ("right", "wrong", "code"),
    [
        ("if (n > SM_FEW) sm_tile_release();", "", 14),
        ("sm_tile_shape(&shapes);", "(void)shapes;", None),
        ("i < 6 ? vectors : 16", "i < 8 ? vectors : 16", None),
        ("begin_tiles(tile_vectors(n))", "begin_tiles(tile_vectors(n) - 1)", 14),
        ("sm_tile_dot(3, 5, 7);", "sm_tile_dot(3, 4, 7);", 14),
    ],
    ids=["not released", "no shapes", "other shapes", "a row short", "another plane"],
)
def test_a_misuse_of_tiles_shows(libraries, tmp_path, right, wrong, code):
    "The self-test of an emulated build with one thing wrong: its code, or the end of the process as by a processor"
    if "tiles" not in libraries:
        pytest.skip("this processor has no AVX2")
    csrc = shutil.copytree(CSRC, tmp_path / "csrc")
    text = (csrc / "matmul.c").read_text()
    assert text.count(right) == 1
    (csrc / "matmul.c").write_text(text.replace(right, wrong))
    done = subprocess.run([sys.executable, "-c", SELF_TEST, build("tiles", tmp_path, csrc)], timeout=60)
    assert done.returncode == code if code else done.returncode < 0, done


BY_SIGNALS = """
import ctypes, sys
from kernel_lib import Kernel, by_numbers_of_vectors, open_library
processor, lib, model, *numbers = sys.argv[1:]
processor = ctypes.CDLL(processor)
processor.begin()
k = Kernel(open_library(lib), model, threads=2)
print(by_numbers_of_vectors(k, map(int, numbers)), processor.instructions())
"""


def test_real_tile_instructions_on_a_processor_without_them(libraries, files, tmp_path):
    "The build that has them computes the same bits where each is carried out by a signal's handler"
    can = libraries["sse2"].sm_cpu()
    if can & NEEDS["amx"] != NEEDS["avx512vnni"]:
        pytest.skip("the processor has AMX, and it was tested above" if can & NEEDS["amx"] else "it lacks AVX-512 VNNI")
    amx, processor, numbers = build("amx", tmp_path), tmp_path / "tiles.so", [3, 4, 17, 33]
    assert open_library(amx).sm_self_test() == -14, "without permission it must not touch a tile"
    zig = [sys.executable, "-m", "ziglang", "cc", "-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    here = Path(__file__).parent
    subprocess.run([*zig, f"-I{CSRC}", here / "c" / "tiles.c", "-o", processor], check=True)
    done = subprocess.run(
        [sys.executable, "-c", BY_SIGNALS, processor, amx, files["odd"], *map(str, numbers)],
        env=os.environ | dict(PYTHONPATH=os.pathsep.join([str(here), *sys.path])),
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    got, instructions = done.stdout.split()
    assert got == by_numbers_of_vectors(Kernel(libraries["sse2"], files["odd"]), numbers)
    assert int(instructions) > 10_000


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


@pytest.mark.parametrize("kind", ["fast", "odd"])
def test_sequences_share_a_pass_and_no_bit(libraries, files, kind):
    "Batches of 1, 3 and 8 sequences that join at different times, with any threads and tile: each as alone"
    lengths, steps = (1, 40, 7, 130, 3, 64, 20, 2), 5
    prompts = [IDS[i : i + n] for i, n in enumerate(lengths)]
    for name, lib in libraries.items():
        k = Kernel(lib, files[kind])
        alone = []
        for p in prompts:
            rows = [k.prefill(p)]
            for i in range(steps):
                rows.append(k.decode(int(rows[-1].argmax()), len(p) + i))
            alone.append(np.stack(rows))
        k.close()
        full = name in ("sse2", "avx2", "emulated", "tiles")
        ways = [(1, 64, 8), (2, 5, 3), (3, 64, 8), (2, 64, 1)] if full else [(2, 16, 8)]
        if name == "debug":
            ways = [(1, 16, 8)]  # unoptimized, its frames do not fit a worker's stack
        for threads, tile, size in ways:
            k = Kernel(lib, files[kind], threads=threads, tile=tile, sequences=size)
            rows: list[list] = [[] for _ in prompts[:size]]
            for step in range(steps + 4):  # sequence s joins at step s % 4, its prompt last but for one token
                tokens = []
                joins = [s for s in range(size) if step == s % 4]
                for s in joins:
                    tokens += [(int(t), s, i) for i, t in enumerate(prompts[s][:-1])]
                wants = [s for s in range(size) if 0 <= step - s % 4 <= steps]
                for s in wants:
                    n = len(rows[s])
                    tokens.append((int(rows[s][-1].argmax() if n else prompts[s][-1]), s, len(prompts[s]) - 1 + n))
                for s, row in zip(wants, k.read(tokens, len(wants)) if wants else ()):
                    rows[s].append(row)
            k.close()
            for s, got in enumerate(rows):
                assert np.stack(got).tobytes() == alone[s].tobytes(), (name, threads, tile, size, s)


def test_a_sequence_begins_as_another(lib, files):
    "A copy of any length is what reading the same tokens gives"
    k = Kernel(lib, files["fast"], sequences=3)
    k.prefill(IDS[:90])
    for n in (1, 15, 16, 17, 90):
        k._ok(lib.sm_copy(k.model, 0, 2, n))
        got = k.read([(int(IDS[100]), 2, n)], 1)[0]
        k._ok(lib.sm_copy(k.model, 2, 1, n))
        again = k.read([(int(IDS[100]), 1, n)], 1)[0]
        k.read([(int(t), 2, i) for i, t in enumerate(IDS[:n])], 0)
        want = k.read([(int(IDS[100]), 2, n)], 1)[0]
        assert got.tobytes() == again.tobytes() == want.tobytes()
    assert lib.sm_copy(k.model, 0, 3, 1) == -17 and lib.sm_copy(k.model, 0, 1, 91) == -10
    k.close()


def test_many_choices_are_those_of_one(libraries, files):
    "Ids, log-probabilities and generators, whatever thread chooses"
    x = np.random.default_rng(4).normal(0, 3, (7, TINY.vocab_size)).astype(np.float32)
    hows = [SamplingParams(t, k, p, 0.0, r) for t in (0.0, 0.8, 1.3) for k, p, r in ((0, 1.0, 1.0), (9, 0.9, 1.4))] + [
        SamplingParams(2.0, min_p=0.1)
    ]
    for lib in libraries.values():
        k = Kernel(lib, files["fast"], threads=2, sequences=3)
        rngs = [Rng() for _ in hows]
        for i, r in enumerate(rngs):
            lib.sm_rng_seed(C.byref(r), i, 54)
        many = k.choose(x, hows, rngs, [IDS[:i] for i in range(len(hows))])
        for i, (how, (id, log_p, rng)) in enumerate(zip(hows, many)):
            one = Rng()
            lib.sm_rng_seed(C.byref(one), i, 54)
            assert id == k.sample(x[i], how, one, IDS[:i])
            assert log_p == k.logprob(x[i], id)
            assert (rng.state, rng.inc) == (one.state, one.inc)
        k.close()


def test_wrong_tokens_change_nothing(lib, files):
    "Each refusal, and what was held before goes on"
    k = Kernel(lib, files["fast"], context=64, sequences=2)
    k.read([(5, 0, 0), (6, 1, 0), (7, 1, 1)], 0)
    for code, tokens, wanted in (
        (-8, [(512, 0, 1)], 1),
        (-8, [(8, 0, 1), (-1, 1, 2)], 1),
        (-17, [(8, 2, 0)], 1),
        (-17, [(8, -1, 0)], 1),
        (-9, [(8, 0, 2)], 1),  # a gap
        (-9, [(8, 0, 1), (8, 0, 3)], 1),
        (-9, [(8, 0, 1), (8, 0, 1)], 1),
        (-9, [(8, 0, -1)], 1),
        (-9, [(8, 0, i) for i in range(1, 65)], 1),  # past the context
        (-10, [(8, 0, 1)], 2),
        (-10, [(8, 0, 1)], -1),
    ):
        with pytest.raises(ValueError, match=f"^{code}:"):
            k.read(tokens, wanted)
    got = k.read([(8, 1, 2)], 1)
    k.read([(6, 1, 0), (7, 1, 1)], 0)  # what was held from there on is forgotten
    assert got.tobytes() == k.read([(8, 1, 2)], 1).tobytes()
    k.close()


def test_memory(lib):
    "What the cache takes: 2 bytes a number and a scale a position and head, twice"
    shape = Shape(49152, 576, 1536, 30, 9, 3, 64, 2048, 1, 2, 64, 1, 1e5, 1e-5)
    kv = lib.sm_kv_bytes(C.byref(shape))
    assert kv == 30 * 3 * 2048 * (64 * 2 * 2 + 2 * 4)
    assert lib.sm_arena_bytes(C.byref(shape)) - kv < 6_000_000
    shape.sequences = 8
    assert lib.sm_kv_bytes(C.byref(shape)) == 8 * kv


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
