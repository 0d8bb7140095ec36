"Tuning from a shell: interrupted, resumed, and what the folder then holds"

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from smollm_nb.core import ParameterError, sha256_file
from smollm_nb.inference.llama import load
from smollm_nb.models.checkpoint import read_provenance, validate
from smollm_nb.models.tiny import write_tiny
from smollm_nb.text.chat import encode_chat
from smollm_nb.text.tokenizer import SmolLMTokenizer
from smollm_nb.tune.finetune import RECORD, finetune
from smollm_nb.tune.training import CHECKPOINT

EXAMPLES = [dict(prompt=f"Say {n} twice.", answer=f"{n} {n}") for n in range(60)]


SETTINGS = dict(lora=4, epochs=6, lr=0.003, answers=0, dtype="float32")
CHILD = """import json, sys
from smollm_nb.tune.finetune import finetune
finetune(*sys.argv[1:4], **json.loads(sys.argv[4]))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A model, its examples, and what they make of it in one go"
    home = tmp_path_factory.mktemp("whole")
    folder, data = write_tiny(home / "model"), home / "examples.jsonl"
    data.write_text("\n".join(map(json.dumps, EXAMPLES)))
    return folder, data, finetune(folder, data, home / "tuned", **SETTINGS)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupted_and_resumed(whole, tmp_path, how):
    "The same call goes on where it was, to the same weights"
    folder, data, report = whole
    cut, running = tmp_path / "cut", tmp_path / "cut.training"
    command = [sys.executable, "-c", CHILD, folder, data, cut, json.dumps(SETTINGS)]
    environment = os.environ | dict(OMP_NUM_THREADS=str(torch.get_num_threads()))
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        while not (running / CHECKPOINT).exists() and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(how)
        said = child.communicate(timeout=60)[1]
    # the exit code of an interrupt is another one where a library runs code while Python ends, as pyarrow does
    assert child.returncode == -how if how == signal.SIGKILL else said.endswith("KeyboardInterrupt\n"), said
    assert not cut.exists()
    assert finetune(folder, data, cut, **SETTINGS).loss_after == report.loss_after < report.loss_before
    assert not running.exists()
    assert sha256_file(cut / "model.safetensors") == sha256_file(f"{report.path}/model.safetensors")


def test_the_checkpoint_is_one_for_everybody(tmp_path):
    "transformers reads the tuned folder, and the adapter upon the base model, with the same logits"
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    folder = write_tiny(tmp_path / "model")
    report = finetune(folder, EXAMPLES, tmp_path / "tuned", lora=4, epochs=2, lr=5e-3, answers=2)
    validate(report.path)
    backend = load(report.path)
    ids = encode_chat(SmolLMTokenizer.load(folder), [dict(role="user", content="Say 7 twice.")])
    want = torch.from_numpy(backend.logits(ids))
    base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for theirs in (
        LlamaForCausalLM.from_pretrained(report.path),
        PeftModel.from_pretrained(base, tmp_path / "tuned" / "adapter"),
    ):
        with torch.no_grad():
            torch.testing.assert_close(theirs.eval()(torch.tensor([ids])).logits[0], want, atol=1e-3, rtol=0)
    record = json.loads((tmp_path / "tuned" / RECORD).read_text())
    assert record["data"]["sha256"] == report.data["sha256"]
    assert record["base"]["sha256"]["model.safetensors"] == sha256_file(folder / "model.safetensors")
    assert "tuned on records" in read_provenance(report.path)["source"]


def test_no_folder_of_another_kind_is_replaced(tmp_path):
    folder = write_tiny(tmp_path / "model")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    with pytest.raises(ParameterError, match="holds something else than a tuned model"):
        finetune(folder, EXAMPLES, tmp_path / "letters")
    assert (tmp_path / "letters" / "dear.txt").read_text() == "Dear"
