"Other processes that this package starts: nothing of the working folder is run in them"

import json
import subprocess
import sys
from pathlib import Path

import pytest

from smollm_nb.bench import llama_cpp as peers
from smollm_nb.bench.bench import run
from smollm_nb.bench.worker import Subject
from smollm_nb.core import code_command, python_command
from smollm_nb.engine import build as kernel
from smollm_nb.lab import jobs as lab

ROOT = Path(__file__).parent.parent
SMOLLM = str(Path(sys.executable).with_name("smollm"))
NAMES = (
    "json",
    "subprocess",
    "tempfile",
    "typing",
    "dataclasses",
    "pathlib",
    "random",  # Python's
    "numpy",
    "psutil",
    "tokenizers",
    "torch",
    "pip",
    "ziglang",
    "smollm_nb",
)


@pytest.fixture
def planted(tmp_path, monkeypatch):
    "The working folder: modules of well-known names that leave a trace if they are run"
    folder = tmp_path / "planted"
    folder.mkdir()
    for name in NAMES:
        code = f"open({str(folder / 'trace')!r}, 'a').write({name!r})\nraise SystemExit('planted {name}')\n"
        (folder / f"{name}.py").write_text(code)
    monkeypatch.chdir(folder)
    yield folder
    assert not (folder / "trace").exists(), (folder / "trace").read_text()


def own(tiny_q4):
    "The tiny model in the engine, one thread"
    how = dict(path=str(tiny_q4), backend="native", context=256)
    return Subject("native", "smollm_nb.bench.worker:load_own", how, 1, str(tiny_q4.parent))


def test_the_trap_works(planted):
    "A Python that is started without care runs what lies in the folder"
    done = subprocess.run([sys.executable, "-c", "import json"], capture_output=True, text=True)
    assert "planted json" in done.stderr
    assert (planted / "trace").read_text() == "json"
    (planted / "trace").unlink()


def test_what_is_measured(planted, tiny_q4):
    assert run([own(tiny_q4)], rounds=1, quick=True, only="decode")["lost"] == []


def test_the_command_that_measures(planted, tiny_q4, tmp_path):
    files = ("--model", str(tiny_q4), "--output", str(tmp_path / "h.jsonl"))
    how = ("--quick", "--rounds", "1", "--threads", "1", "--only", "first", "--json")
    out = subprocess.run([SMOLLM, "bench", *files, *how], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout)["results"], out.stderr


def test_a_model_for_a_view(planted, tiny_folder):
    assert lab.prepared(tiny_folder, "int8").name == "model_q8.bin"


def test_the_compiler(planted, tmp_path):
    system = kernel.this_system()
    made = kernel.compile_to(tmp_path / "lib", kernel.command(kernel.variants(system)[-1], system))
    assert made.stat().st_size > 10_000


def test_pip_and_what_it_installed(planted, monkeypatch, tmp_path):
    "A listed file that is not there: pip itself must say so"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "pins.txt").write_text(f"absent==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(peers.PeerError, match="absent==1.0"):
        peers.install(peers.Wheels("absent", tmp_path / "pins.txt", "absent"))
    assert subprocess.run(code_command("import json, numpy, smollm_nb.core"), check=False).returncode == 0


def test_there_is_one_way_to_start_python():
    "`core` knows how; engine/build.py, which setup.py runs alone, says the same in its own words"
    found = {}
    for p in sorted((ROOT / "smollm_nb").rglob("*.py")):
        lines = [line for line in p.read_text(encoding="utf-8").splitlines() if "sys.executable" in line]
        if lines:
            found[p.relative_to(ROOT / "smollm_nb").as_posix()] = lines
    assert set(found) == {"core.py", "engine/build.py"}, "start children by core.python_command or core.code_command"
    assert all('sys.executable, "-P"' in line for lines in found.values() for line in lines)
    assert python_command("-m", "x")[1:] == ["-P", "-m", "x"]
