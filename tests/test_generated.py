"What is generated from the notebooks is what is committed"

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MADE = ("nbs/**/*.ipynb", "smollm_nb/**/*.py", "README.md", "README_files/*")


def contents(root: Path) -> dict[str, bytes]:
    "Every generated file of a tree"
    return {str(p.relative_to(root)): p.read_bytes() for pattern in MADE for p in sorted(root.glob(pattern))}


@pytest.fixture(scope="module")
def remade(tmp_path_factory):
    "A copy of the project in which everything generated was made again"
    d = tmp_path_factory.mktemp("remade") / "smollm_nb"
    d.mkdir()
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, d)
    for name in ("nbs", "smollm_nb"):
        shutil.copytree(ROOT / name, d / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))

    def tool(name):
        return str(Path(sys.executable).with_name(name))

    for cmd in (
        [tool("nbdev_export")],
        [tool("nbdev_clean")],
        [
            tool("jupyter"),
            "nbconvert",
            "--log-level=WARN",
            "--to",
            "markdown",
            "--template",
            "readme",
            "--TemplateExporter.extra_template_basedirs=nbs/templates",
            "--output-dir",
            ".",
            "--output",
            "README",
            "nbs/index.ipynb",
        ],
    ):
        subprocess.run(cmd, cwd=d, check=True, capture_output=True, env=os.environ | dict(PYTHONPATH=""))
    return d


def test_generated_equals_committed(remade):
    want, have = contents(remade), contents(ROOT)
    assert want.keys() == have.keys(), "run `make notebooks`"
    assert [name for name in want if want[name] != have[name]] == [], "run `make notebooks`"
