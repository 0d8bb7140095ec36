"One style in all languages; the versions of the tools are pinned in constraints.txt and package-lock.json"

import subprocess
import sys
from pathlib import Path

import pytest
from test_bundler import install

from smollm_nb.browser.vendor import run_node

ROOT = Path(__file__).parent.parent
OURS = ("nbs", "tests", "setup.py", ".ci", "smollm_nb/__init__.py")  # what people write; the rest is exported


def run(*command) -> None:
    "A tool that must have nothing to say"
    p = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0, f"{p.stdout}\n{p.stderr}"


def tool(name: str) -> Path:
    "A program of this environment"
    return Path(sys.executable).with_name(name)


def test_python_is_linted():
    run(tool("ruff"), "check", ".")


def test_python_is_formatted():
    run(tool("ruff"), "format", "--check", *OURS)


def test_python_is_typed():
    run(tool("mypy"))


def test_c_is_formatted():
    sources = sorted(p for p in (ROOT / "smollm_nb" / "engine" / "csrc").iterdir() if p.suffix in (".c", ".h"))
    run(tool("clang-format"), "--dry-run", "--Werror", *sources)


SCRIPTS = ("smollm_nb/browser/runtime", "smollm_nb/lab/widgets", "smollm_nb/bench/peer_pages", "tests")


@pytest.mark.parametrize("folder", SCRIPTS)
def test_lines_of_scripts_are_short(folder):
    kinds = ("*.js", "*.mjs", "*.ts", "*.css", "*.c", "*.h")
    files = [p for s in kinds for p in (ROOT / folder).rglob(s) if not p.name.endswith(".d.ts")]  # those are made
    long = [
        f"{p.relative_to(ROOT)}:{i}"
        for p in files
        for i, line in enumerate(p.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 120
    ]
    assert files
    assert not long


def test_scripts_are_formatted(tmp_path):
    "By prettier, with `.prettierrc.json`; `--write` in place of `--check` formats"
    files = [p for folder in SCRIPTS for p in (ROOT / folder).rglob("*") if p.suffix in (".js", ".mjs", ".css")]
    assert files
    prettier = install(tmp_path) / "prettier" / "bin" / "prettier.cjs"
    run_node(prettier, "--check", "--log-level=warn", *map(str, sorted(files)), cwd=ROOT)


def test_cells_are_short():
    "An exported cell holds one idea; 60 lines are room enough"
    import json

    long = []
    for p in sorted((ROOT / "nbs").rglob("[0-9]*.ipynb")):
        if ".ipynb_checkpoints" in p.parts:
            continue
        for cell in json.loads(p.read_text(encoding="utf-8"))["cells"]:
            lines = "".join(cell["source"]).split("\n")
            if lines[0].startswith("#| export") and sum(map(bool, map(str.strip, lines))) > 61:
                long.append(f"{p.relative_to(ROOT)} {cell['id']}")
    assert not long
