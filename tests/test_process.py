"The command and the package as other processes see them"
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMOLLM = str(Path(sys.executable).with_name("smollm"))


def run(*args, input=b"", **kw):
    "The `smollm` command in a process of its own"
    return subprocess.run([SMOLLM, *args], input=input, capture_output=True, **kw)


def test_stdin_is_read_exactly(tiny_folder):
    out = run("tokenize", "-", "--model", str(tiny_folder), "--json", input="\r\n a\r\n\n".encode())
    assert "".join(json.loads(out.stdout)["pieces"]) == "\r\n a\r\n\n"


def test_json_is_alone_on_stdout(tiny_folder):
    out = run("generate", "Hi", "--model", str(tiny_folder), "--max-tokens", "3", "--json")
    assert len(json.loads(out.stdout)["ids"]) == 3 and out.stdout.count(b"\n") == 1


def test_wrong_usage_and_failure_have_their_codes(tmp_path):
    assert run("generate").returncode == 2
    assert run("registry", "no-such-model").returncode == 1
    out = run("validate", str(tmp_path/"nowhere"))
    assert out.returncode == 1 and b"no such folder" in out.stdout and b"Traceback" not in out.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_keeps_the_answer_and_exits_130(tmp_path):
    from smollm_nb.core import LlamaConfig
    from smollm_nb.models.tiny import TINY, write_tiny
    slow = LlamaConfig(**{**TINY.__dict__, "max_position_embeddings": 100_000, "eos_token_ids": ()})
    folder = write_tiny(tmp_path/"slow", slow)
    p = subprocess.Popen([SMOLLM, "generate", "Hi", "--model", str(folder), "--max-tokens", "90000", "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.read(8), "it streams"
    p.send_signal(signal.SIGINT)
    start = time.perf_counter()
    out, err = p.communicate(timeout=20)
    assert p.returncode == 130 and b"cancelled" in err and b"Traceback" not in err, err
    assert time.perf_counter() - start < 15


@pytest.mark.parametrize("module", ["core", "registry", "checkpoint", "tokenizer", "chat", "generate", "formats", "q4file", "kernel", "engine", "vendor", "bundle", "serve", "hub", "runner", "bench", "report", "peers", "api", "terminal", "demo", "cli"])
def test_imports_stay_light(module):
    "Nothing but the model itself waits for PyTorch"
    code = f"import sys, smollm_nb.{module}; print([m for m in ('torch', 'transformers', 'matplotlib', 'huggingface_hub', 'gguf') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_model_is_there_at_the_top():
    code = "import sys, smollm_nb; assert 'smollm_nb.api' not in sys.modules; from smollm_nb import Model; print(Model('SmolLM-135M'), smollm_nb.__version__)"
    assert "not loaded" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    import smollm_nb
    with pytest.raises(AttributeError, match="no attribute"): smollm_nb.Modle


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_serve_says_where_and_ends_with_a_word(tmp_path):
    import urllib.request
    (tmp_path/"index.html").write_text("<h1>hello</h1>")
    p = subprocess.Popen([SMOLLM, "serve", str(tmp_path), "--port", "0", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    url = json.loads(p.stdout.readline())["url"]
    with urllib.request.urlopen(url, timeout=10) as r: assert r.read() == b"<h1>hello</h1>"
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=20)
    assert (p.returncode, out) == (0, b"") and b"ended" in err and b"Traceback" not in err, err
