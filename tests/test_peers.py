"The peers' files: every one is pinned by its hash, and llama.cpp is compiled rightly for processors with AMX"

import base64
import platform
import re
import shutil
import subprocess

import pytest

from smollm_nb.bench.llama_cpp import FORMATS, LLAMA_CPP, gguf_formats, llama_package, load_llama_cpp
from smollm_nb.bench.packages import HEADER, PINS
from smollm_nb.bench.web_peers import ONNX_BUILDER, PEERS
from smollm_nb.core import PACKAGE, python_command
from smollm_nb.inference.generation import end_ids, generate
from smollm_nb.models.gguf import bundled_gguf
from smollm_nb.text.tokenizer import SmolLMTokenizer

LISTS = sorted(PINS.glob("*.txt"))
# what ggml does before it multiplies tiles: a configuration of 64 bytes, of which the last stores are lost in GCC 12
TILES = """#include <immintrin.h>
struct config { unsigned char palette, start, reserved[14]; unsigned short colsb[16]; unsigned char rows[16]; };
#ifdef __AMX_INT8__
void load(unsigned char rows, unsigned short colsb) {
    struct config c __attribute__((aligned(64))) = {0};
    c.palette = 1;
    for (int i = 0; i < 8; i++) {
        c.rows[i] = rows;
        c.colsb[i] = colsb;
    }
    _tile_loadconfig(&c);
}
#endif
"""


def requirements(path):
    "Package → its hashes"
    lines = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8")).splitlines()
    return {line.split()[0]: re.findall(r"--hash=sha256:(\w+)", line) for line in lines if not line.startswith("#")}


@pytest.mark.parametrize("path", LISTS, ids=lambda p: p.stem)
def test_every_pin_has_its_hashes(path):
    "A version and the SHA-256 of each file that may be taken; no registry by name"
    found = requirements(path)
    assert found
    assert "://" not in path.read_text(encoding="utf-8")
    for package, hashes in found.items():
        assert re.fullmatch(r"[\w.-]+==[\w.]+", package), package
        assert hashes, package
        assert len(set(hashes)) == len(hashes), package
        assert all(re.fullmatch(r"[0-9a-f]{64}", h) for h in hashes), package


def test_every_list_is_used():
    used = {LLAMA_CPP.pins, LLAMA_CPP.tools, ONNX_BUILDER.pins}
    assert used == set(LISTS)
    assert ONNX_BUILDER.tools is None
    assert LLAMA_CPP.first == ("llama-cpp-python", "0.3.36")
    assert ONNX_BUILDER.first[0] == "onnxruntime-genai"


def test_wllama_takes_part_in_its_newest_version_and_in_the_last_of_the_old_kind():
    versions = [peer.packages[0].version for peer in PEERS if peer.name == "wllama"]
    assert versions == ["3.13.0", "2.3.7"]
    assert {peer.page for peer in PEERS} <= {p.stem for p in (PACKAGE / "bench" / "peer_pages").glob("*.js")}


def test_every_package_of_npm_has_its_hash():
    for package in (p for peer in PEERS for p in peer.packages):
        kind, _, digest = package.integrity.partition("-")
        assert kind == "sha512", package.name
        assert len(base64.b64decode(digest, validate=True)) == 64, package.name


def test_the_formats_are_numbered_as_in_files():
    from gguf import LlamaFileType

    assert FORMATS == {kind: LlamaFileType[f"MOSTLY_{kind}"] for kind in FORMATS}


@pytest.mark.slow
@pytest.mark.parametrize("flash", [False, True])
def test_the_real_llama_cpp_reads_sequences_and_drafts(flash, real_folder):
    "Its batch and its lookup give what one token after the other gives, where it has been built, which takes minutes"
    if not LLAMA_CPP.home.exists():
        pytest.skip("llama.cpp is not built here: smollm bench --peers builds it")
    gguf = bundled_gguf()
    package = llama_package(real_folder, gguf)
    files = gguf_formats(package, gguf)
    assert set(files) == set(FORMATS)
    assert files["Q4_0"].stat().st_size < gguf.stat().st_size < files["Q8_0"].stat().st_size
    how = dict(threads=1, context=512, flash=flash)
    peer = load_llama_cpp(str(package), str(files["Q4_1"]), str(real_folder), **how)
    tokenizer = SmolLMTokenizer.load(real_folder)
    ids = tokenizer.encode("one two three four five, one two three four five, one two three four")
    plain = generate(peer, tokenizer, ids, 24).finish().ids
    peer.reset()
    assert list(peer.answer_with_lookup(ids, 24, end_ids(tokenizer, peer.config)))[:8] == plain[:8]
    peer.reset()
    prompts = [tokenizer.encode(text) for text in ("The capital of France is", "def main():")]
    alone = [peer.prefill(p).argmax() for p in prompts]
    for layout in peer.BATCHES:
        batch = peer.batch(2, **layout)
        rest = [(id, s, pos) for s, p in enumerate(prompts) for pos, id in enumerate(p[:-1])]
        ends = [(p[-1], s, len(p) - 1) for s, p in enumerate(prompts)]
        assert list(batch.read(rest + ends, 2).argmax(axis=1)) == alone
        batch.close()
    peer.close()


COMPILERS = [python_command("-m", "ziglang", "cc", "-target", "x86_64-linux-gnu", "-mcpu=sapphirerapids")]
if (platform.system(), platform.machine()) == ("Linux", "x86_64") and shutil.which("gcc"):
    COMPILERS.append(["gcc", "-march=sapphirerapids"])


@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda cmd: cmd[-1])
def test_tiles_are_configured(compiler, tmp_path):
    "With the header, what is stored depends on the arguments: no store is lost; with its definition, there is no AMX"

    def assembly(*flags):
        (tmp_path / "tiles.c").write_text(TILES)
        cmd = [*compiler, "-O3", *flags, "-S", "-o", "tiles.s", "tiles.c"]
        subprocess.run(cmd, cwd=tmp_path, check=True, capture_output=True)
        return (tmp_path / "tiles.s").read_text()

    with_header = assembly("-include", str(HEADER))
    assert "ldtilecfg" in with_header
    assert re.search(r"%[er]?di", with_header)
    assert re.search(r"%[er]?si", with_header)
    _, (define, _) = LLAMA_CPP.builds
    assert "ldtilecfg" not in assembly("-include", str(HEADER), f"-D{define}")
