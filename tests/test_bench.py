"A benchmark as other processes see it, and what must hold while it measures; no test here fails on a timing"

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from smollm_nb.bench.bench import PROMPTS, TO_COPY, run
from smollm_nb.bench.browser_worker import BrowserSubject
from smollm_nb.bench.browsers import BrowserError, find
from smollm_nb.bench.history import read_history
from smollm_nb.bench.worker import BenchError, Subject, Worker, WorkerProcess
from smollm_nb.browser import bundle
from smollm_nb.core import code_command
from smollm_nb.inference.generation import end_ids
from smollm_nb.models.tiny import TINY
from smollm_nb.text.chat import encode_chat
from smollm_nb.text.tokenizer import SmolLMTokenizer

SMOLLM = str(Path(sys.executable).with_name("smollm"))


class Recorder:
    "A backend that computes nothing and notes what it is asked"

    config, context = TINY, TINY.max_position_embeddings

    def __init__(self):
        self.tokens, self.log = [], []

    def _read(self, ids, pos):
        self.tokens = self.tokens[:pos] + list(ids)
        scores = np.zeros(TINY.vocab_size, np.float32)
        scores[100 + len(self.tokens) % 50] = 1
        return scores

    def prefill(self, ids, pos=0, on_progress=None):
        self.log.append((len(self.tokens), pos, tuple(ids)))
        return self._read(ids, pos)

    def decode(self, id, pos):
        assert pos <= len(self.tokens), "no gap in the cache"
        return self._read([id], pos)

    def reset(self):
        self.tokens = []

    def describe(self):
        return dict(backend="recorder", variant="", threads=1, load_s=float("nan"), bytes_per_token=1, file_sha256="")


class Several(Recorder):
    "Room for long answers, sequences together, and a lookup of its own"

    context = 2048
    BATCHES = (dict(unified=False), dict(unified=True))

    def __init__(self):
        super().__init__()
        self.batches, self.looked_up = [], []

    def batch(self, size, unified):
        self.batches.append(SeveralSequences(size, unified))
        return self.batches[-1]

    def answer_with_lookup(self, ids, max_tokens, ends):
        self.looked_up.append((tuple(ids), max_tokens, ends))
        yield from [100] * max_tokens


class SeveralSequences:
    "Notes what each sequence has read, and chooses the number of the sequence"

    def __init__(self, size, unified):
        self.held, self.unified, self.closed = {s: [] for s in range(size)}, unified, False

    def read(self, tokens, wanted):
        for id, sequence, pos in tokens:
            assert pos == len(self.held[sequence]), "no gap"
            self.held[sequence].append(id)
        scores = np.zeros((wanted, TINY.vocab_size), np.float32)
        for row, (_, sequence, _) in zip(scores, tokens[-wanted:]):
            row[300 + sequence] = 1
        return scores

    def close(self):
        self.closed = True


def own(tiny_q4, name="native", **more):
    "The tiny model in the engine, one thread"
    return Subject(
        name,
        "smollm_nb.bench.worker:load_own",
        dict(path=str(tiny_q4), backend="native", context=256),
        1,
        str(tiny_q4.parent),
        **more,
    )


def test_nothing_is_remembered_between_measurements(tiny_folder):
    "Every prompt is read into an empty cache, no timed prompt comes twice, and the order changes from round to round"
    backend = Recorder()
    record = run([Worker(backend, tiny_folder)], rounds=4, quick=True)
    assert json.dumps(record, allow_nan=False)
    assert all(held == 0 and pos == 0 for held, pos, _ in backend.log), "no prefix is reused"
    long = [ids for *_, ids in backend.log if len(ids) == 128]
    assert len(set(long)) == len(long) == 4
    words = {ids for *_, ids in backend.log if len(ids) < 64}
    order = [len(ids) for *_, ids in backend.log]
    per_round = len([n for n in order if n != 242]) // 4
    assert len(words) > len(PROMPTS), "shuffled"
    assert len({tuple(order[i * per_round : (i + 1) * per_round]) for i in range(4)}) > 1, "shuffled"


def test_the_same_seed_gives_the_same_prompts(tiny_folder):
    logs = []
    for seed in (1, 1, 2):
        backend = Recorder()
        run([Worker(backend, tiny_folder)], rounds=2, quick=True, seed=seed)
        logs.append(backend.log)
    assert logs[0] == logs[1] != logs[2]


def test_sequences_together_read_only_their_own(tiny_folder):
    "Eight random prompts, none like another; each reads what its own logits chose; every layout is tried and closed"
    backend = Several()
    record = run([Worker(backend, tiny_folder)], rounds=5, only="together")
    found = {f["case"]: f for f in record["results"]}
    assert list(found) == ["8 sequences together", "8 sequences together, of one alone"]
    assert [f["unit"] for f in found.values()] == ["tokens/s", "×"]
    assert {f["n"] for f in found.values()} == {3}, "three rounds are enough for what takes long"
    assert [b.unified for b in backend.batches] == [False, True] * 3
    prompts = set()
    for batch in backend.batches:
        assert batch.closed
        for sequence, held in batch.held.items():
            assert held[16:] == [300 + sequence] * 25, "24 steps that are timed, one before them"
            prompts.add(tuple(held[:16]))
    assert len(prompts) == 3 * 8, "the layouts of a round read the same"


def test_a_copy_is_asked_for_by_the_chat_template(tiny_folder):
    "By `generate` and by the lookup that a peer has of its own, with the same ids"
    backend = Several()
    record = run([Worker(backend, tiny_folder)], rounds=2, only="copying|nothing of that name")
    assert [(f["case"], f["unit"], f["n"]) for f in record["results"]] == [("copying, 128 tokens", "ms", 2)]
    tokenizer = SmolLMTokenizer.load(tiny_folder)
    ids = encode_chat(tokenizer, [dict(role="user", content=TO_COPY)])
    assert backend.looked_up == [(tuple(ids), 128, end_ids(tokenizer, TINY))] * 2
    assert [read for _, _, read in backend.log].count(tuple(ids)) == 2


def test_what_decodes_long_says_how(tiny_folder):
    "A long answer goes through `generate`, steady decoding through the loop of the bursts"
    backend = Several()
    record = run([Worker(backend, tiny_folder)], rounds=1, only="256 tokens")
    assert [f["case"] for f in record["results"]] == ["steady decode, 256 tokens after 16", "long answer, 256 tokens"]
    assert all(f["unit"] == "tokens/s" and f["median"] > 0 for f in record["results"])
    assert backend.looked_up[0][1] == 256


def test_what_is_lacking_is_said(tiny_folder, tmp_path):
    "No sequences together, no chat template: no failure, and no figure"
    plain = tmp_path / "base"
    shutil.copytree(tiny_folder, plain)
    config = json.loads((plain / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (plain / "tokenizer_config.json").write_text(json.dumps(config))
    backend = Recorder()
    backend.context = 2048
    record = run([Worker(backend, plain)], rounds=2, quick=True)
    assert not record["lost"]
    why = {x["case"]: x["why"] for x in record["lacking"]}
    assert set(why) == {"8 sequences together", "copying, 128 tokens", "long answer, 256 tokens"}
    assert why["8 sequences together"] == "no sequences together"
    assert "no chat template" in why["copying, 128 tokens"]
    assert not set(why) & {f["case"] for f in record["results"]}
    assert json.loads(json.dumps(record))["lacking"] == record["lacking"]


def test_ours_and_a_peer_take_turns(tiny_q4):
    "As many samples each, ratios round by round, a figure for each case and thread"
    record = run([own(tiny_q4), own(tiny_q4, "other", peer=True)], rounds=3, quick=True, only="decode", file=tiny_q4)
    assert {f["n"] for f in record["results"]} == {3}
    assert {r["peer"] for r in record["ratios"]} == {"other"}
    for r in record["ratios"]:
        assert r["n"] == 3
        assert 0 < r["min"] <= r["median"] <= r["max"]
        assert r["best"]
    assert {s["variant"] for s in record["subjects"]} != {""}
    assert record["machine"]["others_share"] is not None


def test_a_browser_takes_turns_with_processes(tiny_q4, tmp_path):
    "As many samples; ours in a browser is compared with peers in that browser alone"
    try:
        find("chromium")
    except BrowserError as e:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(e))
    page = BrowserSubject(
        "wasm, chromium",
        "chromium",
        bundle.export(tiny_q4, tmp_path / "bundle")["path"],
        "bench.html?remote",
        dict(context=256),
        1,
    )
    twin = BrowserSubject("twin, chromium", page.browser, page.folder, page.page, page.options, 1, peer=True)
    record = run([own(tiny_q4), own(tiny_q4, "other", peer=True), page, twin], rounds=2, quick=True, file=tiny_q4)
    assert json.dumps(record, allow_nan=False)
    assert not record["cancelled"]
    have = {(f["case"], f["runner"]): f for f in record["results"]}
    assert all(
        f["n"] == 2 and f["browser"] == ("chromium" if "chromium" in f["runner"] else "") and f["min"] > 0
        for f in have.values()
    )
    mine = {case for case, who in have if who == page.name}
    assert {
        "cold load",
        "warm load",
        "renderer PSS, 128 tokens",
        "decode after 16, of the speed of reading",
    } <= mine
    assert not {"process start to ready", "peak RSS, 128 tokens"} & mine
    assert {(r["runner"], r["peer"]) for r in record["ratios"]} == {
        ("native", "other"),
        ("wasm, chromium", "twin, chromium"),
    }
    assert all(r["best"] for r in record["ratios"])
    assert {x["runner"] for x in record["latencies"]} == {"native", "other", page.name, twin.name}


def test_who_is_not_asked_sleeps(tiny_q4):
    "Between two questions a process uses no processor: its threads do not spin"
    with WorkerProcess(own(tiny_q4)) as r:
        r.ask("prefill", ids=[5] * 100)
        time.sleep(0.2)
        before = r.cpu_s()
        time.sleep(1)
        assert r.cpu_s() - before < 0.5  # one spinning thread would use all of it


def test_a_contestant_that_dies_is_named(tiny_q4):
    with WorkerProcess(own(tiny_q4)) as r:
        os.kill(r._process.pid, signal.SIGTERM)
        reason = "SIGTERM$" if os.name != "nt" else "exit code"
        with pytest.raises(BenchError, match=f"native ended: {reason}"):
            r.ask("memory")


def test_the_process_ends_with_its_parent(tiny_q4):
    "Its standard input closes, and it goes"
    code = f"""
import os, sys
from smollm_nb.bench.worker import WorkerProcess, Subject
options = dict(path={str(tiny_q4)!r}, backend="native", context=256)
subject = Subject("native", "smollm_nb.bench.worker:load_own", options, 1, {str(tiny_q4.parent)!r})
r = WorkerProcess(subject)
print(r._process.pid, flush=True)
os._exit(0)
"""
    pid = int(subprocess.run(code_command(code), capture_output=True, text=True, check=True).stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0]:
            return
        time.sleep(0.1)
    pytest.fail("it lives on without its parent")


def test_json_is_alone_on_stdout(tiny_q4, tmp_path):
    out = subprocess.run(
        [
            SMOLLM,
            "bench",
            "--model",
            str(tiny_q4),
            "--quick",
            "--rounds",
            "1",
            "--threads",
            "1",
            "--only",
            "first",
            "--output",
            str(tmp_path / "h.jsonl"),
            "--json",
        ],
        capture_output=True,
    )
    assert out.returncode == 0
    assert out.stdout.count(b"\n") == 1
    assert b"measure" in out.stderr
    record = json.loads(out.stdout)
    assert {"machine", "results"} <= set(record)
    assert json.loads((tmp_path / "h.jsonl").read_text())["results"] == record["results"]
    for f in record["results"]:
        assert {"case", "median", "min", "max", "n", "unit"} <= set(f)


def test_torch_is_measured_like_the_engine(tiny_folder, tmp_path):
    out = subprocess.run(
        [
            SMOLLM,
            "bench",
            "--model",
            str(tiny_folder),
            "--backend",
            "torch",
            "--quick",
            "--rounds",
            "1",
            "--threads",
            "1",
            "--only",
            "decode",
            "--output",
            str(tmp_path / "h.jsonl"),
            "--json",
        ],
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    record = json.loads(out.stdout)
    assert [(f["case"], f["runner"]) for f in record["results"]] == [("decode after 16", "torch")]
    assert "float32" in record["subjects"][0]["variant"]


def long_run(tiny_q4, history, *more):
    "A benchmark that would take hours, once it has measured something; its processes"
    how = ("--rounds", "100000", "--threads", "1", "--only", "first", "--output", str(history), *more)
    cmd = [SMOLLM, "bench", "--model", str(tiny_q4), *how]
    p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    seen = b""
    # something was measured
    while not re.search(rb" [1-9][0-9.]*/[12]00k ", seen):
        seen = seen[-40:] + p.stderr.read(1)
    time.sleep(0.5)
    return p, psutil.Process(p.pid).children(recursive=True)


def ended(processes) -> bool:
    "Whether none of them is left, after a while"
    _, alive = psutil.wait_procs(processes, timeout=60)
    return not alive


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
@pytest.mark.parametrize("where", ["", "chromium"])
def test_ctrl_c_shows_and_notes_what_was_measured(where, tiny_q4, tmp_path):
    if where:
        try:
            find(where)
        except BrowserError as e:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(str(e))
    history = tmp_path / "h.jsonl"
    p, children = long_run(tiny_q4, history, *(["--browser", where] if where else []))
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130, err
    assert b"figures measured so far, noted in" in err, err
    assert b"Traceback" not in err, err
    record = json.loads(out.splitlines()[-1])
    assert b"| first token after 5 | 1 | ms |" in out
    assert record["cancelled"]
    assert record["lost"] == []
    (noted,) = read_history(history)
    assert noted["cancelled"]
    assert noted["results"] == record["results"]
    assert noted["results"]
    assert children
    assert ended(children)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals that end a process")
def test_what_was_measured_stays_when_a_process_dies(tiny_q4, tmp_path):
    "The run ends, the table and the history hold what there was, the signal is named, and a script can tell"
    history = tmp_path / "h.jsonl"
    p, children = long_run(tiny_q4, history)
    for child in children:
        child.send_signal(signal.SIGILL)
    out, err = p.communicate(timeout=300)
    assert p.returncode == 1, err
    assert b"Traceback" not in err, err
    (noted,) = read_history(history)
    (lost,) = noted["lost"]
    assert (lost["runner"], lost["during"]) == ("native", "first token after 5")
    assert lost["error"].startswith("ended: SIGILL (")
    (figure,) = noted["results"]
    assert 0 < figure["n"] < noted["rounds"]
    assert not noted["cancelled"]
    words = "native, 1 thread, failed at 'first token after 5': ended: SIGILL"
    assert words in err.decode()
    assert words in out.decode()
    assert f"; {figure['n']} of 100000 rounds) |" in out.decode()


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    gone = subprocess.run([SMOLLM, "bench", "--model", str(tmp_path / "gone.bin")], capture_output=True, text=True)
    assert gone.returncode == 1
    assert gone.stderr.count("\n") == 1
    assert gone.stderr.startswith("smollm: ")
