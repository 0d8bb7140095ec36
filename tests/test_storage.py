"What is written: whole or not at all, on a full disk, under kill -9, and from two processes at once"

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="limits and kills forked processes")

CHILD = f"""
import os, resource, shutil, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from dataclasses import replace
from pathlib import Path
import numpy as np
from smollm_nb.browser import bundle
from smollm_nb.quant import texts
from smollm_nb.models import checkpoint
from smollm_nb import core
from smollm_nb.models import gguf as gguf_import
from smollm_nb.models import hub
from smollm_nb.quant import rounding as quantize
from smollm_nb.quant import recipes
from smollm_nb.models import tiny
from smollm_nb.core import SmolLMError, StorageError
import gguf, safetensors.numpy, torch
torch.set_num_threads(1)
root, model, q4, ggufs = map(Path, sys.argv[1:5])
"""


@pytest.fixture(scope="module")
def ggufs(tmp_path_factory):
    "A small GGUF"
    from test_gguf import write_gguf

    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", "Q8_0")


@pytest.fixture
def child(tmp_path, tiny_folder, tiny_q4, ggufs):
    "Run code in a process that has imported all that it needs; what it printed, as lines"

    def run(code, *args):
        cmd = [sys.executable, "-c", CHILD + code, tmp_path, tiny_folder, tiny_q4, ggufs, *map(str, args)]
        done = subprocess.run(cmd, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Traceback" not in done.stderr, done.stderr[-3000:]
        return done.stdout.splitlines()

    return run


# the jobs: how each thing is made in `folder`, and what tells its progress
JOBS = """
def halfway(tell): return lambda *stage_done_total: tell(stage_done_total[-2] > stage_done_total[-1]/2)
def make_quantized(folder, tell):
    recipes.quantize(model, folder/"quantized", "minmax-g128-all", on_progress=halfway(tell))
def make_cached(folder, tell): recipes.cached(model, "minmax-g128-all", halfway(tell))
def make_bundle(folder, tell): bundle.export(q4, folder/"bundle", on_progress=lambda *_: tell(True))
def make_imported(folder, tell): gguf_import.import_gguf(ggufs, folder/"imported", on_progress=halfway(tell))
def make_tensors(folder, tell):
    def slowly():
        for i, t in enumerate(tiny.random_tensors()):
            tell(i == 20)
            yield t
    (folder/"shards").mkdir(exist_ok=True)
    checkpoint.save_tensors(folder/"shards", slowly(), 1_000_000)
def make_text(folder, tell):
    text_of = recipes.read_model(model)
    tok = texts.SmolLMTokenizer.load(model)
    texts.varied_text(text_of, tok, 128, window=64, identity="tiny", on_progress=lambda done, total: tell(done > 100))
JOBS = dict(quantized=make_quantized, cached=make_cached, bundle=make_bundle, imported=make_imported)
JOBS |= dict(shards=make_tensors, text=make_text)
"""


def test_killed_in_the_middle(child):
    "What a killed process left is never taken for whole, and is gone after the next run"
    lines = child(
        JOBS
        + """
def hidden(): return len(list(root.rglob(".*")))
def files():
    "Files that somebody could take for whole"
    return sum(p.is_file() and not any(x.startswith(".") or x == "cache" for x in p.parts) for p in root.rglob("*"))
for name, job in JOBS.items():
    before = files()
    if os.fork() == 0:
        job(root, lambda now: now and os.kill(os.getpid(), signal.SIGKILL))
        os._exit(0)
    ended = os.WTERMSIG(os.wait()[1])
    bad, new = hidden(), files() - before
    job(root, lambda now: None)
    print(name, ended, bad, new, hidden())
"""
    )
    assert len(lines) == 6
    for line in lines:
        name, ended, bad, new, left = line.split()
        assert int(ended) == signal.SIGKILL, f"{line}: it was killed too early"
        assert int(bad) > 0 or name == "text", f"{line}: it was killed too early"
        assert new == left == "0", line


def test_two_processes_make_it_once(child):
    "The file of a recipe, and a text that the model writes"
    lines = child(
        JOBS
        + """
for name in ("cached", "text"):
    for _ in range(3):
        if os.fork() == 0:
            calls = []
            JOBS[name](root, calls.append)
            os.write(1, f"{name} {bool(calls)}\\n".encode()) # in one piece
            os._exit(0)
    for _ in range(3): os.wait()
"""
    )
    for name in ("cached", "text"):
        assert sorted(x.split()[1] for x in lines if x.startswith(name)) == ["False", "False", "True"], lines


def test_a_file_that_cannot_grow(child):
    "The system refuses to write more than so many bytes: one line that names what was to be made, and nothing is left"
    lines = child(
        JOBS
        + """
def make_fetched(folder, tell): hub.fetch(ggufs, quiet=True)
def make_restored(folder, tell): bundle.restore(folder/"whole", folder/"restored.bin")
bundle.export(q4, root/"whole")
some = {name: JOBS[name] for name in ("quantized", "bundle", "imported", "shards")}
for room, jobs in ((0, JOBS | dict(restored=make_restored, fetched=make_fetched)), (300_000, some)):
    for name, job in jobs.items():
        if os.fork() == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            try: job(root, lambda now: None)
            except SmolLMError as e: print(room, name, type(e).__name__, str(e), sep="|", flush=True)
            else: print(room, name, "made", "", sep="|", flush=True)
            os._exit(0)
        os.wait()
print(len(list(root.rglob(".*"))))
"""
    )
    assert lines.pop() == "0"
    assert len(lines) == 8 + 4
    for line in lines:
        assert "cannot be written (File too large)" in line, line
        assert ".part" not in line, line


def test_an_export_says_what_it_needs(tiny_q4, tmp_path):
    "On a disk that has no room at all"
    from smollm_nb.browser.bundle import BundleError, export

    def full(stage, done, total):
        raise OSError(28, os.strerror(28))

    with pytest.raises(BundleError, match="bundle: the disk is too full, [0-9,]+ bytes are needed and [0-9,]+ fr") as e:
        export(tiny_q4, tmp_path / "bundle", on_progress=full)
    need = int(str(e.value).split("too full, ")[1].split(" ")[0].replace(",", ""))
    assert export(tiny_q4, tmp_path / "bundle")["bytes"] < need
    assert not list(tmp_path.glob(".*"))
