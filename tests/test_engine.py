"The native engine against PyTorch, against itself in every build, and against wrong use"

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import goldens
import numpy as np
import pytest

from smollm_nb.core import Cancelled, ContextOverflowError, InvalidStateError, ParameterError, SmolLMError
from smollm_nb.engine import build as kernel
from smollm_nb.engine import native as engine
from smollm_nb.fidelity.evaluate import evaluate
from smollm_nb.inference.generation import generate
from smollm_nb.inference.sampling import PCG32, SamplingParams, sample
from smollm_nb.models.tiny import TINY, write_tiny
from smollm_nb.quant.recipes import quantize
from smollm_nb.quant.rounding import load_quantized
from smollm_nb.text.tokenizer import SmolLMTokenizer

IDS = np.random.default_rng(0).integers(0, TINY.vocab_size, 70).tolist()


def logits_by_all_ways(path, **kw) -> str:
    "A hash of the logits of a prompt, read at once and token by token, or a failure if the two differ"
    with engine.load(path, **kw) as e:
        at_once = e.logits(IDS)
        assert e.prefill(IDS).tobytes() == at_once[-1].tobytes()
        e.reset()
        assert b"".join(e.decode(t, i).tobytes() for i, t in enumerate(IDS)) == at_once.tobytes()
        inside = e.residuals(IDS)
        assert e.head(inside[-1]).tobytes() == at_once.tobytes()
        e.reset()
        for i, t in enumerate(IDS):
            assert e.residuals([t], i).tobytes() == inside[:, i : i + 1].tobytes()
        everything = (at_once, inside, *e.lens(inside[:, ::9], 3))
    return hashlib.sha256(b"".join(x.tobytes() for x in everything)).hexdigest()


def runnable() -> list[str]:
    "The variants that this processor can run, by what the system says of it"
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""

    def has(name):
        return re.search(rf"\b{name}\b", flags) is not None

    vnni = has("avx512_vnni") and has("avx512bw") and has("avx512vl")
    by_system = dict(
        amx=vnni and has("amx_tile") and has("amx_int8"),
        avx512vnni=vnni,
        avx2=has("avx2"),
        ssse3=has("ssse3"),
        sse2=True,
        dotprod=has("asimddp"),
        neon=True,
    )
    return [v.name for v in kernel.variants(kernel.this_system()) if by_system[v.name]]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc/cpuinfo what to expect")
def test_every_variant_gives_the_same_bits(tiny_q4):
    want, seen = runnable(), {}
    for name in want:
        for threads, tile in ((1, 64), (2, 7), (3, 64), (4, 1)):
            seen[name, threads, tile] = logits_by_all_ways(tiny_q4, variant=name, threads=threads, tile=tile)
    print(f"compared {len(seen)} runs of {len(want)} variants: {', '.join(want)}")
    assert len(want) >= 2 or kernel.this_system().startswith("aarch64")
    assert len(seen) == 4 * len(want), seen
    assert len(set(seen.values())) == 1, seen


def test_debug_build_gives_the_same_bits(tiny_q4, tmp_path, monkeypatch):
    "Hardly optimized, and with a trap wherever C leaves the behaviour undefined"
    system, here = kernel.this_system(), kernel.choose()
    for name in {here.variant, kernel.variants(system)[-1].name}:
        v = kernel.VARIANTS[name]
        kernel.compile_to(tmp_path / kernel.library(v, system), kernel.command(v, system, kernel.DEBUG))
    release = logits_by_all_ways(tiny_q4, threads=2)
    monkeypatch.setattr(engine, "choose", lambda variant: kernel.choose(here.variant, tmp_path))
    assert logits_by_all_ways(tiny_q4, threads=2, tile=5) == release


def test_close_to_torch(tiny_q4):
    with engine.load(tiny_q4) as e:
        result = evaluate(load_quantized(tiny_q4), e, np.random.default_rng(1).integers(0, 512, 1500).tolist())
    assert result.kl_mean < 2e-4, result
    assert result.top1 >= 0.99, result


def test_same_tokens_as_torch(tiny_q4):
    "The prompts of the golden file, with the weights of the quantized one"
    tok, reference = SmolLMTokenizer.load(tiny_q4.parent), load_quantized(tiny_q4)
    with engine.load(tiny_q4) as e:
        for case in goldens.load():
            ours, theirs = (generate(b, tok, case["prompt"], max_tokens=32).finish().ids for b in (e, reference))
            assert ours == theirs, case["prompt"]


SHAPES = {  # of the family's members, with fewer layers and a small vocabulary that is no multiple of 16
    "135M": dict(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=3,
        num_attention_heads=9,
        num_key_value_heads=3,
        rope_theta=1e4,
        max_position_embeddings=2048,
    ),
    "360M": dict(
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=2,
        num_attention_heads=15,
        num_key_value_heads=5,
        rope_theta=1e4,
        max_position_embeddings=2048,
    ),
    "1.7B": dict(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=1,
        num_attention_heads=32,
        num_key_value_heads=32,
        rope_theta=1.3e5,
        max_position_embeddings=8192,
    ),
    "untied": dict(tie_word_embeddings=False, num_key_value_heads=3),
}


@pytest.mark.parametrize("name, bits", [*((name, 4) for name in SHAPES), ("135M", 8), ("untied", 8)])
def test_shapes_of_the_family(name, bits, tmp_path, four_bits):
    config = dataclasses.replace(TINY, **{"vocab_size": 1003, "max_position_embeddings": 2048, **SHAPES[name]})
    path = quantize(write_tiny(tmp_path / "m", config), tmp_path / "q", four_bits if bits == 4 else "int8")["path"]
    ids = np.random.default_rng(0).integers(0, 1003, 48).tolist()
    with engine.load(path) as e, engine.load(path, threads=3, tile=5) as other:
        ours, theirs = e.logits(ids), load_quantized(path, context=64).logits(ids)
        assert other.logits(ids).tobytes() == ours.tobytes()
        assert e.context == 2048
    error = np.sqrt(((ours - theirs) ** 2).mean()) / theirs.std()
    assert error < 0.002, error
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.95, error


def test_a_long_context(tmp_path, four_bits):
    "Past every chunk border of the attention, and at the very last position"
    config = dataclasses.replace(TINY, max_position_embeddings=1100, num_hidden_layers=2)
    path = quantize(write_tiny(tmp_path / "m", config), tmp_path / "q", four_bits)["path"]
    ids = np.random.default_rng(3).integers(0, 512, 1100).tolist()
    with engine.load(path) as e, engine.load(path, threads=1, tile=37) as other:
        ours, theirs = e.logits(ids), load_quantized(path).logits(ids)
        assert np.sqrt(((ours - theirs) ** 2).mean()) < 0.002 * theirs.std()
        for n in (255, 256, 257, 512, 1099):
            assert other.prefill(ids[:n]).tobytes() == ours[n - 1].tobytes()
            assert other.decode(ids[n], n).tobytes() == ours[n].tobytes()
        with pytest.raises(ContextOverflowError, match="1101 tokens do not fit a context of 1100; shorten the prompt$"):
            e.decode(1, 1100)


def test_refuses_what_torch_refuses(tiny_q4):
    "The same errors at the same door"
    reference = load_quantized(tiny_q4)
    with engine.load(tiny_q4) as e:
        for b in (e, reference):
            b.prefill(IDS[:10])
        for call in (
            lambda b: b.prefill([]),
            lambda b: b.decode(-1, 0),
            lambda b: b.decode(512, 0),
            lambda b: b.prefill([1, 1 << 40]),
            lambda b: b.decode(1, 11),
            lambda b: b.decode(1, -1),
            lambda b: b.prefill([1] * 300),
            lambda b: b.logits([]),
            lambda b: b.residuals([]) if b is e else b.logits([]),
            lambda b: b.residuals([1, 512], 3) if b is e else b.prefill([1, 512], 3),
        ):
            said = []
            for b in (e, reference):
                with pytest.raises(SmolLMError) as error:
                    call(b)
                said.append((type(error.value), str(error.value)))
            assert said[0] == said[1]
            if e.tokens:
                assert e.tokens == reference.tokens == IDS[:10], "a refused call changes nothing"


def test_sampler_in_c_and_in_numpy(tiny_q4):
    "Thousands of random scores and parameters: the same token, the same state of the generator"
    rng, n = np.random.default_rng(7), 0
    with engine.load(tiny_q4) as e:
        for seed in range(600):
            x = (rng.standard_normal(512) * rng.choice([0.1, 1, 4, 20])).astype(np.float32)
            if seed % 5 == 0:
                x = np.round(x)  # many equal scores
            params = SamplingParams(
                temperature=float(rng.choice([0, 0.2, 0.7, 1, 1.5, 100])),
                top_k=int(rng.choice([0, 1, 5, 40, 511, 512, 9999])),
                top_p=float(rng.choice([1, 0, 0.1, 0.5, 0.9, 0.999])),
                min_p=float(rng.choice([0, 0.01, 0.2, 1])),
                repetition_penalty=float(rng.choice([1, 0.5, 1.1, 3])),
                seed=seed,
            )
            a, b, history = PCG32(seed), PCG32(seed), rng.integers(0, 512, rng.integers(0, 30)).tolist()
            for _ in range(5):
                assert e.sample(x, params, a, history) == sample(x, params, b, history), params
                n += 1
            assert a.state == b.state
        assert n == 3000
        with pytest.raises(ParameterError, match="shape"):
            e.sample(x[:10], params, a)
        with pytest.raises(ParameterError):
            e.sample(x, params, a, [512])


ENGINE_ALONE = """
from smollm_nb.engine import native as engine
with engine.load(path) as e: assert e.prefill([1, 2, 3]).shape == (512,)"""
SHORT_WAY = """
from smollm_nb import Model
with Model(path, backend="native") as m: assert m.generate("Hello", max_tokens=3).finish().timings.new_tokens"""
HEAVY = (
    "torch",
    "transformers",
    "matplotlib",
    "huggingface_hub",
    "safetensors",
    "smollm_nb.models.hub",
    "smollm_nb.text.template",
)


@pytest.mark.parametrize("code, more", [(ENGINE_ALONE, ("tokenizers", "smollm_nb.text.tokenizer")), (SHORT_WAY, ())])
def test_what_is_not_needed_is_not_imported(tiny_q4, code, more):
    "The time from nothing to an answer is for a good part that of the imports"
    code = f"import sys; path = {str(tiny_q4)!r}{code}\nprint([m for m in {HEAVY + more} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torch_minds_the_quota_too(tiny_folder, monkeypatch):
    "Which PyTorch itself knows nothing of"
    import torch

    from smollm_nb import Model

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(engine, "_cpu_quota", lambda: 1.5)
        with Model(tiny_folder, backend="torch", threads=2):
            assert torch.get_num_threads() == 2
        with Model(tiny_folder, backend="torch"):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_threads_wait_for_each_other(tiny_q4):
    "Eight threads on one engine, and two engines side by side"
    answers = []
    with engine.load(tiny_q4) as e, engine.load(tiny_q4) as other:
        right = e.logits(IDS).tobytes()
        threads = [threading.Thread(target=lambda b=b: answers.append(b.logits(IDS).tobytes())) for b in (e, other) * 4]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert answers == [right] * 8


def test_close_while_another_thread_reads(tiny_q4):
    e, started, outcome = engine.load(tiny_q4, tile=1), threading.Event(), []

    def read():
        try:
            while True:
                e.prefill(IDS, 0, lambda *_: started.set())
        except InvalidStateError as error:
            outcome.append(str(error))

    t = threading.Thread(target=read)
    t.start()
    assert started.wait(30)
    e.close()
    t.join(30)
    assert not t.is_alive()
    assert "closed" in outcome[0]


def test_idle_means_idle(tiny_q4):
    with engine.load(tiny_q4, threads=4) as e:
        e.prefill(IDS)
        time.sleep(0.2)
        before = time.process_time()
        time.sleep(1)
        assert time.process_time() - before < 0.1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 3])
def test_fork(tiny_q4, threads):
    "A child is told at once, can close what it inherited and load its own engine; the parent goes on"
    code = f"""
import os, sys
from smollm_nb.engine import native as engine
from smollm_nb.core import InvalidStateError
e = engine.load({str(tiny_q4)!r}, threads={threads})
right = e.prefill([1, 2, 3]).tobytes()
e._lock.acquire() # as if another thread were in the middle of a call
child = os.fork()
if not child:
    for call in (lambda: e.decode(1, 0), e.reset, lambda: e.prefill([1])):
        try: call()
        except InvalidStateError as error: assert "forked" in str(error)
        else: os._exit(1)
    e.close()
    with engine.load({str(tiny_q4)!r}, threads={threads}) as own: assert own.prefill([1, 2, 3]).tobytes() == right
    sys.exit(7)
e._lock.release()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert e.prefill([1, 2, 3]).tobytes() == right
print("well")"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == "well", out.stderr
    assert not out.stderr, out.stderr


def test_forgotten_engines_leave_nothing_behind(tiny_q4):
    "Not closed: collected, or still there when the process ends"
    code = f"""
import gc, threading
from pathlib import Path
from smollm_nb.engine import native as engine
count = lambda: len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 1
before = count()
for _ in range(3): engine.load({str(tiny_q4)!r}, threads=3).prefill([1, 2])
gc.collect()
assert count() == before, (count(), before)
e = engine.load({str(tiny_q4)!r}, threads=3)
e.prefill([1])"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    assert not out.stderr, out.stderr


def test_cancel_in_a_long_prefill(tiny_q4):
    with engine.load(tiny_q4, tile=1) as e:

        def stop(done, total):
            assert total == len(IDS)
            if done == 5:
                raise Cancelled("enough")

        with pytest.raises(Cancelled):
            e.prefill(IDS, 0, stop)
        assert e.tokens == IDS[:5]
        with engine.load(tiny_q4) as fresh:
            assert e.prefill(IDS[5:], 5).tobytes() == fresh.prefill(IDS).tobytes()


def test_damaged_files_are_refused_or_harmless(tiny_q4, tmp_path):
    "Any byte changed: a typed error where it is verified; where only the structure is, no weights may crash the engine"
    good, rng, bad = tiny_q4.read_bytes(), np.random.default_rng(5), tmp_path / "bad.bin"
    header = int.from_bytes(good[10:18], "little") + 50
    ran = 0
    for i in range(160):
        raw = bytearray(good)
        low, high = (0, header) if i % 2 else (header, len(raw))
        for at in rng.integers(low, high, int(rng.choice([1, 3, 200]))):
            raw[at] = rng.integers(0, 256)
        if i % 10 == 0:
            raw = raw[: rng.integers(0, len(raw))]
        bad.write_bytes(raw)
        if bytes(raw) != good:
            with pytest.raises(SmolLMError):
                engine.load(bad)
        try:
            with engine.load(bad, verify=False) as e:
                e.logits(IDS[:9])
                e.sample(e.decode(3, 9), SamplingParams(temperature=1.0, top_p=0.9), PCG32(1))
                ran += 1
        except SmolLMError:
            pass
    assert ran >= 40


def test_threads_by_default_are_those_allowed(tiny_q4):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    code = (
        "import os; os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]}); "
        f"from smollm_nb.engine.native import load; print(load({str(tiny_q4)!r}).threads)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "1"
    )


CGROUPS = Path("/sys/fs/cgroup")


def make_group(place: Path, quota: int, inner: bool) -> None:
    "A control group with a quota (microseconds in a period of 100,000; 0 is none), for others inside where `inner`"
    place.mkdir()
    if (CGROUPS / "cpu").is_dir():
        (place / "cpu.cfs_quota_us").write_text(str(quota or -1))  # version 1
    else:
        (place / "cpu.max").write_text(f"{quota or 'max'} 100000")
        if inner:
            (place / "cgroup.subtree_control").write_text("+cpu")


@pytest.mark.parametrize("quotas, want", [((100_000,), 1), ((30_000,), 1), ((150_000, 0, 0), 1), ((0,), 64)])
def test_threads_mind_the_quota_of_a_container(quotas, want):
    "As `docker run --cpus` sets it, for the group itself or for one that holds it"
    place = CGROUPS / "cpu" if (CGROUPS / "cpu").is_dir() else CGROUPS
    groups = [place := place / f"smollm-test-{os.getpid()}-{i}" for i in range(len(quotas))]
    code = (
        "from smollm_nb.engine.native import default_threads, survey; print(default_threads(), survey()['threads_why'])"
    )
    move_and_run = f'echo $$ > {place}/cgroup.procs && exec "$0" -c "{code}"'
    try:
        try:
            for group, quota in zip(groups, quotas):
                make_group(group, quota, group != place)
        except OSError as e:
            pytest.skip(f"no control groups can be made here: {e}")
        said = subprocess.check_output(["sh", "-c", move_and_run, sys.executable], text=True)
    finally:
        for group in filter(Path.exists, reversed(groups)):
            group.rmdir()
    here = engine.default_threads()
    assert int(said.split()[0]) == min(want, here), said
    assert want >= here or "CPU quota" in said, said


def test_command_runs_the_engine(tiny_q4):
    import json

    smollm = str(Path(sys.executable).with_name("smollm"))

    def run(*args):
        return json.loads(subprocess.run([smollm, *args, "--json"], capture_output=True, text=True, check=True).stdout)

    auto = run("generate", "The quick", "--model", str(tiny_q4), "--max-tokens", "6")
    native = run(
        "generate", "The quick", "--model", str(tiny_q4), "--max-tokens", "6", "--backend", "native", "--threads", "1"
    )
    torch = run("generate", "The quick", "--model", str(tiny_q4), "--max-tokens", "6", "--backend", "torch")
    assert auto["ids"] == native["ids"] == torch["ids"]
    assert [r["timings"]["backend"] for r in (auto, native, torch)] == ["native", "native", "torch"]
    assert native["timings"]["threads"] == 1
    assert run("info", "--engine")["variant"] == auto["timings"]["variant"]


@pytest.mark.slow
def test_real_model_close_to_torch(real_q4):
    "At the goal, not only at the bar: KL 0.0002, first choices 99 %"
    from smollm_nb.fidelity.evaluate import builtin_text, text_ids

    words, _ = builtin_text()
    with engine.load(real_q4) as e:
        result = evaluate(
            load_quantized(real_q4, context=256), e, text_ids(SmolLMTokenizer.load(real_q4.parent), words, 768)
        )
        assert result.kl_mean <= 2e-4, result
        assert result.top1 >= 0.99, result
        ids = list(range(1000, 1090))
        first = e.logits(ids).tobytes()
    for name in runnable():
        with engine.load(real_q4, variant=name, threads=1, tile=33) as other:
            assert other.logits(ids).tobytes() == first, name


@pytest.mark.slow
def test_real_model_starts_small_and_soon(real_q4):
    "A fresh process: bars of 0.5 s and 150 MiB; time is the best of three"
    code = f"""
import time; start = time.perf_counter()
from smollm_nb.engine import native as engine
from smollm_nb.core import peak_rss_bytes
from smollm_nb.inference.generation import generate
from smollm_nb.text.tokenizer import SmolLMTokenizer
tok, e = SmolLMTokenizer.load({str(real_q4.parent)!r}), engine.load({str(real_q4)!r})
ready = time.perf_counter() - start
assert len(generate(e, tok, "The capital of France is", max_tokens=128).finish().ids) > 20
print(ready, peak_rss_bytes()/2**20)"""
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    print(runs)
    # twice the bar in time: CI machines are shared
    assert min(float(r[0]) for r in runs) < 1.5, runs
    assert max(float(r[1]) for r in runs) < 150, runs
