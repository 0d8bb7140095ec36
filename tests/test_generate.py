"Answers that share a backend, scores that are no numbers, ends of answers and of processes"

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from smollm_nb.core import NonFiniteError, ParameterError, SmolLMError
from smollm_nb.engine import native as engine
from smollm_nb.engine import wasm
from smollm_nb.engine.q4file import read_q4
from smollm_nb.inference.generation import StopStrings, generate
from smollm_nb.inference.llama import load
from smollm_nb.inference.sampling import PCG32, SamplingParams, sample
from smollm_nb.models.tiny import SPECIAL_TOKENS, TINY, write_tiny
from smollm_nb.quant.recipes import quantize
from smollm_nb.text.tokenizer import SmolLMTokenizer


@pytest.fixture(scope="module")
def backends(tiny_folder, tiny_q4):
    "One of each kind"
    native = engine.load(tiny_q4, threads=2, tile=8)
    with native, wasm.load(tiny_q4) as web:
        yield dict(torch=load(tiny_folder, device="cpu"), native=native, wasm=web)


@pytest.fixture(scope="module")
def tok(tiny_folder):
    return SmolLMTokenizer.load(tiny_folder)


def random_requests(rng, n: int) -> list[tuple[list[int], dict]]:  # prompts and settings
    "Prompts of all lengths, no two of them with the same first token: so PyTorch reads each from its beginning"
    firsts = rng.permutation(np.arange(20, 512))[:n]
    out = []
    for first in firsts:
        prompt = [int(first), *rng.integers(20, 512, int(rng.choice([0, 3, 30, 70]))).tolist()]
        how = dict(temperature=float(rng.choice([0, 0.8, 1.5])), repetition_penalty=float(rng.choice([1, 1.2])))
        how |= dict(seed=int(rng.integers(99)), top_k=int(rng.choice([0, 30])), max_tokens=int(rng.integers(1, 25)))
        out.append((prompt, how))
    return out


def answers_alone(backend, tok, requests) -> list[tuple]:
    "What each answer is if nobody else asks"
    out = []
    for prompt, how in requests:
        backend.reset()
        g = generate(backend, tok, prompt, **how).finish()
        out.append((g.ids, g.text, g.finish_reason))
    backend.reset()
    return out


def use_otherwise(backend, rng) -> None:
    "What an evaluation, a benchmark or another cell of a notebook may do to the cache"
    ids = rng.integers(0, 512, int(rng.integers(1, 90))).tolist()
    kind = rng.integers(5)
    if kind == 0:
        backend.reset()
    elif kind == 1:
        backend.logits(ids)
    elif kind == 2:
        backend.prefill(ids)
    elif kind == 3 and len(backend.tokens) < 200:
        backend.decode(ids[0], len(backend.tokens))
    elif backend.tokens:
        backend.decode(ids[0], int(rng.integers(len(backend.tokens))))


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["torch", "native", "wasm"])
def test_in_turns_as_alone(backends, tok, kind, fuzz):
    "Several answers of one backend, read in a random order, with other uses in between: each is what it is alone"
    backend, rng = backends[kind], np.random.default_rng(len(kind))
    for _ in range(2 * fuzz):
        requests = random_requests(rng, int(rng.integers(2, 6)))
        alone = answers_alone(backend, tok, requests)
        open_, done = [generate(backend, tok, p, **how) for p, how in requests], 0
        running = list(open_)
        while running:
            g = running[rng.integers(len(running))]
            for _ in range(int(rng.choice([1, 1, 3]))):
                if next(g, None) is None:
                    running = [r for r in running if r is not g]
            if rng.random() < 0.3:
                use_otherwise(backend, rng)
        for g, want in zip(open_, alone):
            assert (g.ids, g.text, g.finish_reason) == want
            assert g.timings.new_tokens == len(g.ids) == len(g.timings.itl_s) + 1
            done += 1
        assert done == len(requests)


@pytest.mark.fuzz
def test_prompts_that_share_their_beginning(backends, tok, fuzz):
    "The engine's bits do not depend on what was in the cache, so prompts may begin alike"
    rng = np.random.default_rng(8)
    for kind in ("native", "wasm"):
        for _ in range(fuzz):
            start = rng.integers(20, 512, 20).tolist()
            lengths, ends = rng.integers(1, 21, 4), random_requests(rng, 4)
            requests = [(start[:n] + p[:3] * int(rng.integers(2)), how) for n, (p, how) in zip(lengths, ends)]
            alone = answers_alone(backends[kind], tok, requests)
            running = [generate(backends[kind], tok, p, **how) for p, how in requests]
            while any([next(g, None) for g in running]):
                pass
            assert [(g.ids, g.text, g.finish_reason) for g in running] == alone


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["torch", "native"])
def test_in_threads_as_alone(backends, tok, kind, fuzz):
    "Answers in threads of their own, one answer read by two threads, and a thread that evaluates"
    backend, rng = backends[kind], np.random.default_rng(3)
    for _ in range(fuzz):
        requests = random_requests(rng, 5)
        alone = answers_alone(backend, tok, requests)
        running, failed, over = [generate(backend, tok, p, **how) for p, how in requests], [], threading.Event()
        right = backend.logits([1, 2, 3]).tobytes()

        def guarded(work):
            try:
                work()
            except Exception as e:
                failed.append(e)

        def evaluate():
            while not over.wait(0.01):
                assert backend.logits([1, 2, 3]).tobytes() == right

        readers = [threading.Thread(target=guarded, args=(g.finish,)) for g in [*running, running[0]]]
        judge = threading.Thread(target=guarded, args=(evaluate,))
        for t in (judge, *readers):
            t.start()
        for t in readers:
            t.join(120)
        over.set()
        judge.join(120)
        assert not failed
        assert [(g.ids, g.text, g.finish_reason) for g in running] == alone


def test_waiting_thread_can_be_cancelled(backends, tok):
    "An answer that waits for its turn hears of it at once, and the other one goes on"
    backend, began = backends["native"], threading.Event()
    long, waiting = (generate(backend, tok, p, max_tokens=200, temperature=1.0, seed=1) for p in ("Once", "The"))
    waiting.cancel()
    next(long)
    long._turn.until = long._turn.last = float("inf")  # as if it were read without a pause
    reader = threading.Thread(target=lambda: (began.set(), waiting.finish()))
    reader.start()
    assert began.wait(30)
    reader.join(30)
    assert not reader.is_alive()
    assert waiting.finish_reason == "cancelled"
    assert len(long.finish().ids) > 1


def random_scores(rng) -> np.ndarray:  # (512,) float32
    "Scores of every kind: flat, steep, with equals, masked, broken"
    x = (rng.standard_normal(512) * rng.choice([0.1, 1, 4, 20, 1e30])).astype(np.float32)
    kind = rng.integers(8)
    if kind == 0:
        x = np.round(x)
    if kind == 1:
        x[rng.permutation(512)[: int(rng.choice([1, 100, 511]))]] = -np.inf
    if kind == 2:
        x[rng.integers(512)] = rng.choice([np.nan, np.inf])
    if kind == 3:
        x[:] = rng.choice([np.nan, np.inf, -np.inf, 0, 3e38, -3e38])
    return x


def random_sampling(rng, seed: int) -> SamplingParams:
    "Parameters up to their limits"
    choices = dict(
        temperature=[0, 5e-324, 1e-310, 1e-20, 0.2, 0.7, 1, 1.5, 100],
        top_p=[1, 0, 0.1, 0.5, 0.9, 0.999],
        min_p=[0, 0.01, 0.2, 1],
        repetition_penalty=[1, 0.01, 0.5, 1.1, 3, 100],
    )
    top_k = int(rng.choice([0, 1, 5, 40, 511, 512, 9999, 1 << 31]))
    return SamplingParams(**{k: rng.choice(v) for k, v in choices.items()}, top_k=top_k, seed=seed)


def outcome(choose, *args):
    "The token that is chosen, or the kind of error"
    try:
        return choose(*args)
    except SmolLMError as e:
        return type(e)


@pytest.mark.fuzz
def test_one_rule_for_any_scores(backends, fuzz):
    "numpy, C and WebAssembly choose the same token of any scores by any parameters, or all refuse"
    rng, refused = np.random.default_rng(17), 0
    for seed in range(1500 * fuzz):
        x, params = random_scores(rng), random_sampling(rng, seed)
        history = rng.integers(0, 512, rng.integers(0, 30)).tolist()
        draws, found = [PCG32(seed) for _ in range(3)], []
        for rule, draw in zip((sample, backends["native"].sample, backends["wasm"].sample), draws):
            found.append(outcome(rule, x, params, draw, history))
        assert len(set(found)) == 1, (found, params)
        assert len({d.state for d in draws}) == 1, (found, params)
        bad = not np.isfinite(x.max())
        assert (found[0] is NonFiniteError) == bad, (found, x.max())
        if not bad:
            assert x[found[0]] > -np.inf, "what is masked is never chosen"
        refused += bad
    assert refused > 100 * fuzz


ODD = [
    None,
    True,
    -1,
    0,
    5,
    511,
    512,
    1 << 31,
    1 << 70,
    0.5,
    float("nan"),
    "5",
    b"5",
    "",
    object(),
    range(3),
    {5},
    {5: 5},
    [],
    [5],
    [5] * 300,
    [512],
    [-1],
    [0.5],
    [None],
    ["5"],
    [[5]],
    [[5], 5],
    np.int64(5),
    np.float32(5),
    np.array(5),
    np.arange(3),
    np.arange(3.0),
    np.zeros((2, 2), int),
    np.zeros(512, np.float32),
    np.zeros(511),
    np.full(512, np.nan),
    np.full(512, 1e300),
    SamplingParams(),
    SamplingParams(temperature=1.0),
    PCG32(1),
]


@pytest.mark.fuzz
def test_hostile_calls(backends, tok, fuzz):
    "Whatever is passed: a typed error, or an answer; and afterwards the engine computes as before"

    def hashes():
        return {k: b.logits(list(range(20, 60))).tobytes() for k, b in backends.items()}

    rng, right, refused = np.random.default_rng(2), hashes(), 0
    warm = SamplingParams(temperature=1.0, repetition_penalty=2)
    for i in range(400 * fuzz):
        backend, a, b = list(backends.values())[rng.integers(3)], *(ODD[j] for j in rng.integers(0, len(ODD), 2))
        calls = dict(
            prefill=lambda: backend.prefill(a, b),
            decode=lambda: backend.decode(a, b),
            logits=lambda: backend.logits(a),
            generate=lambda: generate(backend, tok, a, max_tokens=2, stop=b).finish(),
        )
        if hasattr(backend, "sample"):
            calls |= dict(sample=lambda: backend.sample(a, warm, PCG32(1), b), logprob=lambda: backend.logprob(a, b))
        try:
            calls[rng.choice(list(calls))]()
        except SmolLMError:
            refused += 1
        if i % 50 == 0:
            assert hashes() == right
    assert hashes() == right
    assert refused > 200 * fuzz


@pytest.mark.fuzz
def test_stop_strings_hide_special_tokens(fuzz):
    "Random pieces, special tokens among them: what is shown has no special token, and ends before the stop string"
    rng = np.random.default_rng(4)
    words = ["a", "b", "ab", "<|im_end|>", "<|im_start|>", ""]
    ends = ["b", "ab", "ba", "bab", "<|im_end|>", "a<|im_end|>", "<|im_end|>b", "<|im_end|><|im_start|>"]
    for _ in range(500 * fuzz):
        pieces, stops = rng.choice(words, rng.integers(1, 12)).tolist(), rng.choice(ends, rng.integers(1, 3)).tolist()
        s, shown = StopStrings(stops, SPECIAL_TOKENS), ""
        for p in pieces:
            shown += s.push(p, special=p in SPECIAL_TOKENS)
        shown += s.flush()
        raw, plain = "".join(pieces), "".join(p for p in pieces if p not in SPECIAL_TOKENS)
        assert plain.startswith(shown)
        assert "<" not in shown
        in_plain, in_raw = [t for t in stops if "<" not in t], [t for t in stops if "<" in t]
        if any(t in plain for t in in_plain) or any(t in raw for t in in_raw):
            assert s.found in stops
            assert not any(t in shown for t in in_plain)
        else:
            assert (s.found, shown) == (None, plain)


OPEN = """
import sys, threading, time
from smollm_nb.engine import native as engine
from smollm_nb.inference.generation import generate
from smollm_nb.text.tokenizer import SmolLMTokenizer
tok, backend = SmolLMTokenizer.load(sys.argv[1]), None
def open_backend(kind, **kw):
    if kind == "native": return engine.load(sys.argv[2], threads=2, **kw)
    if kind == "wasm":
        from smollm_nb.engine.wasm import load
        return load(sys.argv[2], **kw)
    from smollm_nb.inference.llama import load
    return load(sys.argv[1], **kw)
"""


def run_with_model(code: str, tiny_folder, tiny_q4, *args) -> subprocess.CompletedProcess:
    "A program that may call `open_backend`"
    command = [sys.executable, "-c", OPEN + code, str(tiny_folder), str(tiny_q4), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


LEFT = dict(
    left="for e in g:\n    if e.index == 2: break",
    deleted="next(g)\ndel g",
    in_a_cycle="next(g)\ng.own = g\ndel g",
    in_a_function="def f():\n    for e in generate(backend, tok, 'x', max_tokens=9):\n        if e.index: return\nf()",
    by_exit="for e in g: sys.exit(0)",
    closed="next(g)\nbackend.close()",
    in_a_thread="threading.Thread(target=g.finish).start()",
    in_a_daemon="def f():\n    while True: generate(backend, tok, 'x', max_tokens=99, temperature=1.0).finish()\n"
    "threading.Thread(target=f, daemon=True).start()\ntime.sleep(0.2)",
)


@pytest.mark.parametrize("kind", ["torch", "native", "wasm"])
def test_leaving_early_is_silent(tiny_folder, tiny_q4, kind):
    "However an answer is left before the script ends, nothing is printed and the process ends well"
    begin = f"backend = open_backend({kind!r})\ng = generate(backend, tok, 'Hello', max_tokens=50)\n"
    ways = LEFT.values() if kind == "native" else ["\n".join(LEFT[k] for k in ("left", "in_a_cycle", "in_a_daemon"))]
    for way in ways:
        p = run_with_model(begin + way, tiny_folder, tiny_q4)
        assert (p.returncode, p.stdout, p.stderr) == (0, "", ""), (way, p)


STORM = """
import _thread, random
backend, times = open_backend(sys.argv[3]), int(sys.argv[4])
ids = list(range(20, 50))
right = backend.logits(ids).tobytes()
armed, dice = threading.Event(), random.Random(1)
def strike():
    while True:
        armed.wait()
        armed.clear()
        time.sleep(dice.uniform(0, 0.003))
        _thread.interrupt_main()
threading.Thread(target=strike, daemon=True).start()
def answer(): return generate(backend, tok, "Once upon a time", max_tokens=40, temperature=1.0, seed=3).finish().ids
def one_by_one():
    backend.prefill(ids)
    backend.decode(3, 30)
works = [lambda: backend.prefill(ids, 0, lambda *_: None), one_by_one, backend.reset, answer]
kept, free, whole = [], [], answer()
for i in range(times):
    try:
        armed.set()
        while True: works[i % 4]()
    except KeyboardInterrupt as e: kept.append(e) # its traceback lives on
    def ask(): free.append(backend.logits(ids).tobytes() == right)
    t = threading.Thread(target=ask)
    t.start()
    t.join(60)
    assert len(free) == i + 1 and free[-1], (i, free[-1:])
assert answer() == whole
print(len(kept))
"""


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["native", "torch"])
def test_ctrl_c_at_any_moment(tiny_folder, tiny_q4, kind, fuzz):
    "A storm of interrupts, their tracebacks kept: the lock is free after each, and the backend computes as before"
    times = str((100 if kind == "native" else 30) * fuzz)
    p = run_with_model(STORM, tiny_folder, tiny_q4, kind, times)
    assert (p.returncode, p.stdout.strip()) == (0, times), p.stderr[-2000:]


LIMIT = """
import resource
def allow(more): # bytes of address space that may still be asked of the system
    held = int(open("/proc/self/statm").read().split()[0])*resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + more, resource.RLIM_INFINITY))
def attempt(f):
    try: f()
    except Exception as e: print(type(e).__name__, e, sep=": ")
    else: print("enough")
"""


@pytest.fixture(scope="module")
def long_context(tmp_path_factory, four_bits, kernel_built):
    "The tiny model with room for 65,536 positions, as a checkpoint and in four bits"
    folder = tmp_path_factory.mktemp("long")
    long = write_tiny(folder / "m", replace(TINY, max_position_embeddings=65536))
    return long, quantize(long, folder / "q", four_bits)["path"]


LITTLE_MEMORY = dict(
    native=(
        "attempt(lambda: open_backend('native', context=65536))",
        30,
        r"EngineError: .*does not give the \d+ MB .* context of 65536: load with a smaller context",
    ),
    torch=(
        "attempt(lambda: open_backend('torch', context=65536))",
        30,
        r"ParameterError: .*KV cache of \d+ MB, .*: load with a smaller context",
    ),
    wasm=("attempt(lambda: open_backend('wasm', context=65536))", 50, r"EngineError: .*\d+ MB.*"),
    logits=("attempt(lambda: backend.logits([5]*32768))", 4, r"EngineError: .*read fewer.*"),
)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
@pytest.mark.parametrize("what", LITTLE_MEMORY)
def test_memory_that_cannot_be_had(what, long_context):
    "One line that says how much it would be and what to do; in a new process, where nothing freed earlier is kept"
    code, megabytes, expected = LITTLE_MEMORY[what]
    kind = "native" if what == "logits" else what
    # imports and compiles
    opened = f"backend = open_backend({kind!r}, context={32768 if what == 'logits' else 64})"
    after = "print(len(backend.logits([1, 2, 3])))"  # and the one that is open still works
    p = run_with_model("\n".join([LIMIT, opened, f"allow({megabytes * 10**6})", code, after]), *long_context)
    assert p.returncode == 0, p
    assert re.fullmatch(expected + r"\n3\n", p.stdout), p


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_lock_of_a_forked_child():
    "A backend without threads of its own is the child's own copy: a lock that another thread held does not bind it"
    code = """
import os, threading
from smollm_nb.core import SharedBackend
from smollm_nb.models.tiny import TINY
backend, taken, over = SharedBackend(TINY, 8), threading.Event(), threading.Event()
def hold():
    with backend.lock, backend._alone():
        taken.set()
        over.wait(60)
threading.Thread(target=hold).start()
taken.wait(60)
child = os.fork()
if not child:
    backend.reset()
    os._exit(7)
over.set()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (p.stdout.strip(), p.stderr) == ("7", ""), p


def test_what_is_no_parameter():
    "Values that only look like numbers"
    for bad in (
        dict(temperature=None),
        dict(temperature=1j),
        dict(top_k=np.float64(3)),
        dict(seed=1 << 64),
        dict(top_p=np.nan),
        dict(min_p="0"),
    ):
        with pytest.raises(ParameterError):
            SamplingParams(**bad)


def test_quantized_file_knows_every_end(tmp_path, four_bits, kernel_built):
    "A base model that was tuned for chats: its config has one end, its tokenizer another; the file has both"
    folder = write_tiny(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | dict(eos_token_id=0)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "provenance.json").unlink()
    with read_q4(quantize(folder, tmp_path / "q", four_bits)["path"]) as f:
        assert f.config.eos_token_ids == (0, 2)
