"Replay every notebook's checks against the module it exports, so that coverage counts the modules"

import importlib
import json
import re
from pathlib import Path

import pytest
from execnb.nbio import read_nb
from execnb.shell import CaptureShell

NBS = Path(__file__).parent.parent / "nbs"
NOTEBOOKS = sorted(
    p.relative_to(NBS).with_suffix("").as_posix() for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)


def directives(source: str) -> set[str]:
    "The words behind `#|` at the top of a cell"
    return {m[1] for m in re.finditer(r"^#\|\s*([\w:]+)", source, re.M)}


def code_cells(name: str) -> list[str]:
    "The sources of a notebook's code cells"
    return [c.source for c in read_nb(NBS / f"{name}.ipynb").cells if c.cell_type == "code"]


REAL = [n for n in NOTEBOOKS if any("slow" in directives(c) for c in code_cells(n))]


def exported_module(cells: list[str]):
    "The module that a notebook becomes, or None"
    names = [m[1] for source in cells if (m := re.search(r"^#\|\s*default_exp ([\w.]+)", source, re.M))]
    return importlib.import_module(f"smollm_nb.{names[0]}") if names else None


def replay(name: str, monkeypatch) -> int:
    "Run the cells that are not exported; the number run"
    cells = code_cells(name)
    module = exported_module(cells)
    monkeypatch.chdir((NBS / name).parent)
    monkeypatch.setenv("IN_TEST", "1")
    shell, count = CaptureShell(path=str((NBS / name).parent), mpl_format="png"), 0
    if module:
        shell.user_ns.update({k: v for k, v in vars(module).items() if not k.startswith("__")})
    for source in cells:
        if directives(source) & {"export", "exporti", "default_exp", "hide_export", "eval:"}:
            continue
        shell.run(source)
        if shell.exc:
            raise AssertionError(f"{name}: this cell failed:\n{source}") from shell.exc
        count += 1
    return count


# cells with the real model are run with the rest of their notebook, once; the rest alone is what nbdev_test runs
@pytest.mark.parametrize("name", [n for n in NOTEBOOKS if n not in REAL])
def test_notebook(name, monkeypatch):
    assert replay(name, monkeypatch) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_notebook_with_the_real_model(name, monkeypatch, real_folder):
    assert replay(name, monkeypatch) > 0


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_house_rules(name):
    "A title, a promise, import cells that only import, no notebook without a check"
    nb = read_nb(NBS / f"{name}.ipynb")
    kept = json.loads((NBS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(isinstance(c["source"], list) for c in kept), "a cell's lines are kept apart, so that a diff shows lines"
    first = nb.cells[0].source
    assert first.startswith("# "), "a notebook starts with a title and a promise"
    assert "\n> " in first, "a notebook starts with a title and a promise"
    for c in nb.cells:
        assert not re.search(r"/(root|home|Users)/\w", str(c.get("outputs", ""))), (
            "an output names a folder of somebody's machine"
        )
        assert "widget-view" not in str(c.get("outputs", "")), (
            "a view without its kernel is an error message: clear that output"
        )
        assert "widgets" not in nb.metadata, "run nbdev_clean"
        assert not c.get("execution_count"), "run nbdev_clean"
    checks = [c for c in code_cells(name) if re.search(r"\bassert\b|\btest_\w+\(", c) and "export" not in directives(c)]
    assert checks or name == "index"


def test_the_tour_needs_no_keyboard():
    "Answer, file and bundle are views that cells show; the bundle is where JupyterLab's page finds it"
    cells = code_cells("index")
    views = ("PromptPanel", "QuantExplorer", "BrowserRunner", "TunePanel", "SweepView", "CompareView", "BenchDashboard")
    for view in views:
        assert any(c.splitlines()[-1].startswith(f"{view}(") for c in cells), view
    assert any('.export("../dist/' in c for c in cells)
