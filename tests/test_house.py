"Rules of the house that no single module can keep"
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest

from smollm_nb.inference.generation import generate
from smollm_nb.inference.llama import load
from smollm_nb.models.registry import ModelRegistry
from smollm_nb.models.tiny import write_tiny
from smollm_nb.text.tokenizer import SmolLMTokenizer

ROOT = Path(__file__).parent.parent


def test_no_line_hides_from_coverage():
    "What coverage leaves out is listed, with its reason, in pyproject.toml alone"
    for p in (ROOT/"smollm_nb").glob("*.py"): assert "no cover" not in p.read_text(encoding="utf-8"), p.name


def test_versions_are_pinned():
    "Every package that settings.ini names is pinned in constraints.txt, unless it is pinned there already"
    pins = set(re.findall(r"^([\w-]+)==", (ROOT/"constraints.txt").read_text(), re.M))
    names = set(re.findall(r"([\w-]+)[>=]=", " ".join(re.findall(r"^(?:dev_)?requirements = (.*)", (ROOT/"settings.ini").read_text(), re.M))))
    assert names and {n.lower() for n in names} <= {p.lower() for p in pins}


def test_each_module_imports_only_modules_above_it():
    "The order of the notebooks is the order of the imports; late imports inside functions are by choice"
    order, seen = [], set()
    for p in sorted((ROOT/"nbs").glob("[0-9]*.ipynb"), key=lambda p: p.name.replace("_", " ")):
        if m := re.search(r"#\| default_exp (\w+)", p.read_text(encoding="utf-8")): order.append(m[1])
    for name in order:
        text = (ROOT/"smollm_nb"/f"{name}.py").read_text(encoding="utf-8")
        used = set(re.findall(r"^from (?:smollm_nb)?\.(\w+) import", text, re.M))
        assert used <= seen, f"{name} imports {used - seen} from below"
        seen.add(name)


def test_help_lists_every_target():
    out = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "small", "wasm", "bench", "lab", "test", "fuzz", "notebooks", "clean"): assert f"make {target} " in out


def test_cancel_from_another_thread(tiny_folder):
    "A button's thread stops the loop; the backend can be used again at once"
    tok, backend = SmolLMTokenizer.load(tiny_folder), load(tiny_folder)
    g = generate(backend, tok, "Hello", max_tokens=200)
    said = threading.Event()
    threading.Thread(target=lambda: (said.wait(30), g.cancel())).start()
    for e in g:
        said.set()
        time.sleep(0.01)
    assert g.finish_reason == "cancelled" and 1 <= len(g.ids) < 200
    assert len(generate(backend, tok, "Hello", max_tokens=5).finish().ids) == 5


def test_registry_loads_what_the_cache_holds(monkeypatch):
    "By the plan's name, without a network"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    write_tiny(ModelRegistry().get_model_cache_path("SmolLM-135M"))
    with ModelRegistry().load_smollm_135m(context=32) as m: assert m.is_ready() and m.generate_text("Hi", max_tokens=2) is not None


@pytest.mark.slow
def test_demo_knows_the_capital(tmp_path, monkeypatch):
    from typer.testing import CliRunner
    from smollm_nb.cli.commands import app
    monkeypatch.chdir(tmp_path) # where its bundle goes
    r = CliRunner().invoke(app, ["demo", "--max-tokens", "12"])
    assert r.exit_code == 0 and r.stdout.count("Paris") >= 2
    for word in ("time to first token", "median", "p95", "tokens per second", "peak RSS", "load time", "backend", "source"): assert word in r.stdout
