"Several answers in one pass, drafts from the text so far, files of prompts: nothing of it changes a bit of an answer"

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from smollm_nb.core import ContextOverflowError, InvalidStateError, ParameterError
from smollm_nb.engine import native as engine
from smollm_nb.engine import wasm
from smollm_nb.inference.generation import generate
from smollm_nb.inference.many import generate_many
from smollm_nb.inference.sampling import PCG32, SamplingParams
from smollm_nb.text.tokenizer import SmolLMTokenizer

SMOLLM = str(Path(sys.executable).with_name("smollm"))


@pytest.fixture(scope="module")
def tok(tiny_folder):
    return SmolLMTokenizer.load(tiny_folder)


def requests(n: int) -> list[dict]:
    "Prompts of all lengths that repeat themselves here and there, and ways to choose"
    rng, out = np.random.default_rng(3), []
    for i in range(n):
        ids = rng.integers(20, 512, int(rng.choice([1, 4, 40, 90]))).tolist()
        how = dict(temperature=float(rng.choice([0, 0.4, 1.1])), repetition_penalty=float(rng.choice([1, 1.15])))
        how |= dict(seed=int(rng.integers(99)), top_k=int(rng.choice([0, 30])), max_tokens=int(rng.integers(1, 60)))
        out.append(dict(prompt=ids * int(rng.choice([1, 2])), **how))
    return out


@pytest.fixture(scope="module")
def alone(tiny_q4, tok):
    "What each request gets by itself, one token a pass"
    with engine.load(tiny_q4, threads=1) as e:
        return [generate(e, tok, lookup=False, **r).finish().ids for r in requests(16)]


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_give_what_each_gets_alone(tiny_q4, tok, alone, threads):
    "1, 3 and 8 at a time, in both orders"
    with engine.load(tiny_q4, threads=threads, tile=16) as e:
        for size, as_done in ((1, False), (3, True), (8, False)):
            got = {a.index: a.ids for a in generate_many(e, tok, requests(16), batch_size=size, as_done=as_done)}
            assert [got[i] for i in range(16)] == alone, (size, as_done)


def test_batches_in_webassembly(tiny_q4, tok, alone):
    with wasm.load(tiny_q4, tile=16) as e:
        assert [a.ids for a in generate_many(e, tok, requests(16), batch_size=5)] == alone


@pytest.mark.parametrize("threads", [1, 2])
def test_drafts_change_no_token(tiny_q4, tok, alone, threads, monkeypatch):
    "With estimates that draft whenever there is something to draft, and with those that there are"
    from smollm_nb.inference import lookup

    with engine.load(tiny_q4, threads=threads) as e, wasm.load(tiny_q4) as web:
        for eager in (False, True):
            if eager:
                monkeypatch.setattr(lookup.Lookup, "_best", lambda self, n, most: most)
            for backend in (e, web):
                answers = [generate(backend, tok, **r).finish() for r in requests(16)]
                assert [a.ids for a in answers] == alone, (backend.name, eager)
            if eager:
                assert any(a.timings.passes < len(a.ids) for a in answers), "some drafts were right"


def test_drafts_of_answers_in_turns(tiny_q4, tok, alone, monkeypatch):
    "Two answers that take the backend from each other, drafts and all"
    from smollm_nb.inference import lookup

    monkeypatch.setattr(lookup.Lookup, "_best", lambda self, n, most: most)
    with engine.load(tiny_q4, threads=2) as e:
        growing = [generate(e, tok, **r) for r in requests(16)]
        left = list(growing)
        while left:
            left = [g for g in left if next(g, None) is not None]
        assert [g.ids for g in growing] == alone


def test_drafts_near_the_end_of_the_context(tiny_q4, tok, monkeypatch):
    "They fit into what is left of it"
    from smollm_nb.inference import lookup

    monkeypatch.setattr(lookup.Lookup, "_best", lambda self, n, most: most)
    with engine.load(tiny_q4, context=64) as e:
        for prompt in ([5, 6, 7, 8] * 15, [5, 6] * 31, [9] * 63):
            how = dict(max_tokens=200, overflow="stop")
            ours, plain = (generate(e, tok, prompt, lookup=x, **how).finish() for x in (True, False))
            assert (ours.ids, ours.finish_reason) == (plain.ids, plain.finish_reason)


def test_batches_belong_to_their_engine(tiny_q4):
    "Their memory is told before; they end with the engine; what they refuse is named and changes nothing"
    e = engine.load(tiny_q4, threads=2)
    b = e.batch(4, context=100)
    assert e.batch_bytes(4, 100) >= b.arena_bytes > e.batch_bytes(1, 100)
    b.read([(5, 0, 0), (6, 3, 0), (7, 3, 1)], 2)
    for tokens, what in (
        ([(512, 0, 1)], r"tokens\[0\]=\(512, 0, 1\): token id 512 is not in 0..511"),
        ([(5, 0, 1), (5, 4, 0)], r"tokens\[1\]=.*there are sequences 0..3"),
        ([(5, 3, 3)], r"the next position of sequence 3 is 2"),
        ([(5, 0, 1), (5, 0, 1)], r"tokens\[1\].*the next position of sequence 0 is 2"),
        ([(5, 0, i) for i in range(1, 101)], "does not fit a context of 100"),
        ([], "must be a list of"),
        ([(5, 0)], "must be a list of"),
        ([(5, 0, 1 << 40)], "must be a list of"),
        ("ab", "must be a list of"),
    ):
        with pytest.raises((ParameterError, ContextOverflowError), match=what):
            b.read(tokens, min(1, len(tokens)))
    assert b.caches == [[5], [], [], [6, 7]]
    for wrong in (dict(source=4, target=0, n=0), dict(source=3, target=0, n=3), dict(source=0, target=-1, n=1)):
        with pytest.raises(ParameterError):
            b.copy(**wrong)
    for size in (0, 257, 1.5):
        with pytest.raises(ParameterError, match="size"):
            e.batch(size)
    e.close()
    with pytest.raises(InvalidStateError):
        b.read([(5, 0, 1)], 1)


def test_choices_of_scores_that_are_no_numbers(tiny_q4):
    from smollm_nb.core import NonFiniteError

    with engine.load(tiny_q4) as e, e.batch(2) as b:
        x = np.zeros((2, 512), np.float32)
        x[1, 7] = np.nan
        with pytest.raises(NonFiniteError):
            b.choose(x, [(SamplingParams(0.5), PCG32(1), ())] * 2)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_file_of_prompts_survives_being_stopped(tiny_folder, tiny_q4, tmp_path, how):
    "Stopped twice on the way, the same command gives the file that an undisturbed run gives, no line twice, none lost"
    source = tmp_path / "prompts.jsonl"
    lines = [json.dumps(dict(prompt=f"Story {i}", temperature=0.8, max_tokens=60 + i % 90)) for i in range(600)]
    source.write_text("\n".join([*lines, "not JSON", json.dumps("word " * 900)]), encoding="utf-8")

    def command(target):
        return [SMOLLM, "generate-many", "--model", str(tiny_q4), "--input", str(source), "--output", str(target)]

    target, part = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.part"
    stopped = 0
    for _ in range(2):
        before = len(part.read_bytes().splitlines()) if part.exists() else 0
        p = subprocess.Popen([*command(target), "--batch-size", "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while p.poll() is None and time.monotonic() < deadline:
            if part.exists() and part.read_bytes().count(b"\n") > before + 20:
                p.send_signal(how)
                break
            time.sleep(0.01)
        _, err = p.communicate(timeout=60)
        stopped += p.returncode in (-signal.SIGKILL, 130)
        assert b"Traceback" not in err, err
    assert stopped, "it was faster than the test"
    done = subprocess.run([*command(target), "--json"], capture_output=True, check=True)
    report = json.loads(done.stdout)
    assert report["kept"] >= 20 and report["answers"] == 602 and report["errors"] == 2
    assert not part.exists()
    answers = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [a["line"] for a in answers] == list(range(1, 603))
    other = tmp_path / "other.jsonl"
    subprocess.run([*command(other), "--batch-size", "16"], capture_output=True, check=True)
    assert other.read_bytes() == target.read_bytes()
