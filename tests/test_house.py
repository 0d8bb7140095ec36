"Rules of the house that no single module can keep"

import ast
import json
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
from workers import LONGEST, group_of

from smollm_nb.api import load_smollm_135m
from smollm_nb.bench.browsers import BROWSERS
from smollm_nb.inference.generation import generate
from smollm_nb.inference.llama import load
from smollm_nb.models.registry import ModelRegistry
from smollm_nb.models.tiny import write_tiny
from smollm_nb.text.tokenizer import SmolLMTokenizer

ROOT = Path(__file__).parent.parent


def test_no_line_hides_from_coverage():
    "What coverage leaves out is listed, with its reason, in pyproject.toml alone"
    for p in (ROOT / "smollm_nb").rglob("*.py"):
        assert "no cover" not in p.read_text(encoding="utf-8"), p.name


def test_versions_are_pinned():
    "Every package that settings.ini names is pinned in constraints.txt, unless it is pinned there already"
    pins = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.M))
    names = set(
        re.findall(
            r"([\w-]+)[>=]=",
            " ".join(re.findall(r"^(?:\w+_)?requirements = (.*)", (ROOT / "settings.ini").read_text(), re.M)),
        )
    )
    assert names
    assert {n.lower() for n in names} <= {p.lower() for p in pins}


def test_what_begins_first_is_there():
    "Files, notebooks and browsers that are named in workers.py: a wrong name would only cost time"
    known = {p.stem for p in Path(__file__).parent.glob("test_*.py")}
    known |= {f"test_browsers:{name}" for name in BROWSERS}
    known |= {f"test_notebooks:{p.relative_to(ROOT / 'nbs').with_suffix('')}" for p in ROOT.glob("nbs/**/*.ipynb")}
    assert set(LONGEST) <= known
    assert group_of("tests/test_notebooks.py::test_notebook[01_models/04_tiny]") in known
    assert group_of("tests/test_browsers.py::test_in_the_browser[webkit-plain-logits, 1 threads]") in known
    assert group_of("tests/test_page.py::test_in_a_window[webkit-the model is loaded]") in known
    assert group_of("tests/test_process.py::test_notes[2>/dev/null]") == "test_process"


# a room imports only rooms before it; within a room, modules import modules whose notebooks come before theirs
ROOMS = (
    "core models text inference fidelity engine quant browser explore tune api bench scale plots lab serving cli"
).split()
PACKAGE = ROOT / "smollm_nb"


def module_order() -> dict[str, int]:
    "Each module, `room.name`, and its place by the notebooks' numbers"
    notebooks = sorted(p for p in (ROOT / "nbs").rglob("[0-9]*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    names = [re.search(r"#\| default_exp ([\w.]+)", p.read_text(encoding="utf-8")) for p in notebooks]
    return {m[1]: i for i, m in enumerate(names) if m}


def imports_of(path: Path) -> list[tuple[str, str, int]]:
    "Everything of this package that a module imports, inside functions too: (module, name, line)"
    here, found = ["smollm_nb", *path.relative_to(PACKAGE).parent.parts], []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not [a.name for a in node.names if a.name.startswith("smollm_nb")], (
                f"{path}: import names, not the package"
            )
        if not isinstance(node, ast.ImportFrom):
            continue
        base = here[: len(here) - node.level + 1] if node.level else []
        source = ".".join([*base, *filter(None, [node.module])])
        if source.split(".")[0] != "smollm_nb":
            continue
        source = source.removeprefix("smollm_nb").lstrip(".")
        is_module = (PACKAGE / (source.replace(".", "/") + ".py")).is_file() and source
        for alias in node.names:
            found.append(
                (source, alias.name, node.lineno)
                if is_module
                else (f"{source}.{alias.name}".lstrip("."), "", node.lineno)
            )
    return found


def test_imports_go_one_way():
    "Between rooms and within them, inside functions too; what has a leading underscore stays in its module"
    order = module_order()
    assert {m.split(".")[0] for m in order} <= set(ROOMS)
    for module, place in order.items():
        path = PACKAGE / (module.replace(".", "/") + ".py")
        for source, name, line in imports_of(path):
            where = f"{path.relative_to(ROOT)}:{line}"
            if source == "__version__" or name == "__version__":
                continue
            assert source in order, f"{where} imports {source}, which no notebook makes"
            assert ROOMS.index(source.split(".")[0]) <= ROOMS.index(module.split(".")[0]), (
                f"{where} imports {source}, a later room"
            )
            assert order[source] < place, f"{where} imports {source}, whose notebook comes later"
            assert not name.startswith("_"), f"{where} imports {name}, which is private to {source}"


def test_no_module_is_without_its_notebook():
    "And no notebook's number is used twice"
    order, numbers = (
        module_order(),
        [p.relative_to(ROOT / "nbs").as_posix() for p in (ROOT / "nbs").rglob("[0-9]*.ipynb")],
    )
    modules = {
        ".".join(p.relative_to(PACKAGE).with_suffix("").parts)
        for p in PACKAGE.rglob("*.py")
        if not p.name.startswith("_")
    }
    assert modules == set(order)
    heads = [re.match(r"\d+_\w+/\d+|\d+", n)[0] for n in numbers if ".ipynb_checkpoints" not in n]
    assert len(heads) == len(set(heads))


def prose_of(path: Path) -> str:
    "A page without its code"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "markdown"]
        text = "\n".join("".join(c["source"]) for c in cells)
    return re.sub(r"(?ms)^```.*?^```|^ {4}.*?$|`[^`\n]*`", "", text)


def test_links_lead_somewhere():
    "From a notebook or a page to a file of the project"
    pages = [p for p in (*(ROOT / "nbs").rglob("*.ipynb"), *ROOT.glob("*.md")) if ".ipynb_checkpoints" not in p.parts]
    links = [(p, link) for p in pages for link in re.findall(r"\]\((?!\w+:|#)([^)\s#]+)", prose_of(p))]
    assert len(links) > 100
    assert [(str(p), link) for p, link in links if not (p.parent / link).exists()] == []


def test_the_map_has_every_module():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for module in module_order():
        name = module.split(".")[-1]
        assert f"`{name}`" in text or name.startswith("template_"), f"ARCHITECTURE.md does not name {module}"


def test_help_lists_every_target():
    out = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "small", "wasm", "bench", "lab", "test", "fuzz", "wheels", "notebooks", "clean"):
        assert f"make {target} " in out


def test_cancel_from_another_thread(tiny_folder):
    "A button's thread stops the loop; the backend can be used again at once"
    tok, backend = SmolLMTokenizer.load(tiny_folder), load(tiny_folder)
    g = generate(backend, tok, "Hello", max_tokens=200)
    said = threading.Event()
    threading.Thread(target=lambda: (said.wait(30), g.cancel())).start()
    for e in g:
        said.set()
        time.sleep(0.01)
    assert g.finish_reason == "cancelled"
    assert 1 <= len(g.ids) < 200
    assert len(generate(backend, tok, "Hello", max_tokens=5).finish().ids) == 5


def test_registry_loads_what_the_cache_holds(monkeypatch):
    "Without a network"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    write_tiny(ModelRegistry().get_model_cache_path("SmolLM-135M"))
    with load_smollm_135m(context=32) as m:
        assert m.is_ready()
        assert m.generate_text("Hi", max_tokens=2) is not None


@pytest.mark.slow
def test_demo_knows_the_capital(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from smollm_nb.cli.commands import app

    monkeypatch.chdir(tmp_path)  # where its bundle goes
    r = CliRunner().invoke(app, ["demo", "--max-tokens", "12"])
    assert r.exit_code == 0
    assert r.stdout.count("Paris") >= 2
    for word in (
        "time to first token",
        "median",
        "p95",
        "tokens per second",
        "peak RSS",
        "load time",
        "backend",
        "source",
    ):
        assert word in r.stdout
