"The runtime as a library: its types are those of its sources; a project of vite and TypeScript builds and answers"

import difflib
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from smollm_nb.bench.browsers import BrowserError, ReportServer, find, opened
from smollm_nb.browser import bundle
from smollm_nb.browser.vendor import RUNTIME, npm, run_node
from smollm_nb.engine import native as engine
from smollm_nb.inference.generation import generate
from smollm_nb.text.tokenizer import SmolLMTokenizer

PROJECT = Path(__file__).parent / "vite"
PATIENCE = 240  # seconds for the page's report, on a machine that does ten other things
SOURCES = (
    "--allowJs",
    "--checkJs",
    "--target",
    "es2024",
    "--module",
    "esnext",
    "--moduleResolution",
    "bundler",
    "--skipLibCheck",
    "--lib",
    "es2024,dom,dom.iterable,dom.asynciterable",
)


def install(folder: Path) -> Path:
    "The example's tools, as its lock file has them; where `node_modules` is"
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copyfile(PROJECT / name, folder / name)
    run_node(npm(), "ci", "--prefer-offline", "--loglevel=error", cwd=folder)
    return folder / "node_modules"


def declarations(modules: Path, folder: Path) -> str:
    "What tsc makes of the JSDoc of `smollm.js`: types for whoever imports it"
    out = ("--declaration", "--emitDeclarationOnly", "--outDir", str(folder))
    run_node(modules / "typescript" / "bin" / "tsc", str(RUNTIME / "smollm.js"), *SOURCES, *out, cwd=folder)
    return (folder / "smollm.d.ts").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    "vite and TypeScript from npm"
    return install(tmp_path_factory.mktemp("tools"))


def test_types_are_those_of_the_sources(tools, tmp_path):
    made = declarations(tools, tmp_path)
    have = (RUNTIME / "smollm.d.ts").read_text(encoding="utf-8")
    difference = "".join(difflib.unified_diff(have.splitlines(True), made.splitlines(True)))
    assert have == made, f"run `make types`\n{difference}"
    assert not re.search(r"^import\b|\bimport\(", made, re.M), "one file is all there is to it"


@pytest.mark.parametrize("config", ["tsconfig.json", "tsconfig.sw.json"])
def test_sources_are_typed(tools, config):
    "The service worker lives among other globals than the page, so it has a configuration of its own"
    path = Path(__file__).parent / "types" / config
    run_node(tools / "typescript" / "bin" / "tsc", "-p", str(path), cwd=tools.parent)


def build(project: Path, folder: Path) -> None:
    "The example with a bundle's scripts among its sources, the bundle itself among its public files"
    for name in ("index.html", "tsconfig.json"):
        shutil.copyfile(PROJECT / name, project / name)
    scripts = project / "src" / "smollm"
    shutil.copytree(PROJECT / "src", project / "src")
    shutil.copytree(folder / "vendor", scripts / "vendor")
    for p in (*folder.glob("*.js"), *folder.glob("*.d.ts")):
        shutil.copyfile(p, scripts / p.name)
    shutil.copytree(folder, project / "public" / "model")


def test_a_project_of_vite_and_typescript(tools, tiny_q4, tmp_path):
    try:
        find("chromium")
    except BrowserError as e:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(e))
    bundle.export(tiny_q4, tmp_path / "bundle", "tiny")
    project = tmp_path / "project"
    project.mkdir()
    (project / "node_modules").symlink_to(tools)
    (project / "package.json").write_text((PROJECT / "package.json").read_text())
    build(project, tmp_path / "bundle")
    run_node(tools / "typescript" / "bin" / "tsc", cwd=project)
    run_node(tools / "vite" / "bin" / "vite.js", "build", cwd=project)
    emitted = {p.name.split("-")[0] for p in (project / "dist" / "assets").glob("*.js")}
    assert {"worker", "loader", "compute"} <= emitted, emitted
    tok = SmolLMTokenizer.load(tiny_q4.parent)
    with engine.load(tiny_q4) as e:
        want = generate(e, tok, "Hello there", max_tokens=12).finish()
    for isolated in (True, False):
        with ReportServer(project / "dist", isolated) as server, opened("chromium", server.url) as process:
            r = server.report(process, PATIENCE)
        assert "error" not in r, r["error"]
        assert (r["text"], r["ids"], "".join(r["pieces"])) == (want.text, want.ids, want.text)
        assert r["chat"] > 0
        assert r["done"]
        assert r["wrong"] == "ParameterError"
        assert (r["threads"] > 1) == (isolated and os.cpu_count() > 1), r


if __name__ == "__main__":  # make types
    with tempfile.TemporaryDirectory() as d:
        (RUNTIME / "smollm.d.ts").write_text(declarations(install(Path(d)), Path(d)), encoding="utf-8")


def imports(module: str) -> list[str]:
    "The modules of the runtime that a module imports when it starts, by path from the folder of the runtime"
    return re.findall(
        r"^(?:import|export\b.* from|\} from|import\b.* from) '\./([^']+)'", (RUNTIME / module).read_text(), re.M
    )


def all_imports(module: str, seen: frozenset[str] = frozenset()) -> set[str]:
    "These, and those that they import"
    found = set(imports(module)) - seen
    inner = [all_imports(name, seen | found) for name in found if not name.startswith("vendor/")]
    return found.union(*inner)


def test_all_modules_are_asked_for_at_once():
    "One round trip to a distant host, not one for each level of imports"
    page = (RUNTIME / "index.html").read_text()
    assert set(re.findall(r'rel="modulepreload" href="([^"]+)"', page)) == all_imports("app.js")
    for worker in ("worker.js", "loader.js", "compute.js"):
        assert set(imports(worker)) == all_imports(worker), worker
