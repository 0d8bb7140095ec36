"Every runtime prints the same tokens"

import json
from pathlib import Path

import goldens
import pytest

from smollm_nb.api import Model
from smollm_nb.inference.generation import generate
from smollm_nb.text.tokenizer import LossyTextWarning, SmolLMTokenizer

TOKEN_IDS = json.loads((Path(__file__).parent / "data" / "token_ids.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("runtime", ["torch", "native", "wasm"])
def test_every_runtime_prints_the_golden_tokens(runtime, tiny_folder, tiny_q4):
    "The browsers' runtime is compared with the native engine by its own tests"
    tok = SmolLMTokenizer.load(tiny_folder)
    backend = Model(tiny_folder if runtime == "torch" else tiny_q4, backend=runtime).load().backend
    for case in goldens.load():
        assert tok.encode(case["prompt"]) == case["prompt_ids"]
        want = case["ids"] if runtime == "torch" else case["four_bit_ids"]
        g = generate(backend, tok, case["prompt"], max_tokens=len(want)).finish()
        assert g.ids == want[: len(g.ids)]
        assert len(g.ids) == len(want) or g.finish_reason == "eos"
    backend.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::smollm_nb.text.tokenizer.LossyTextWarning")
def test_token_ids_equal_those_of_llama_cpp(real_folder):
    tok = SmolLMTokenizer.load(real_folder)
    assert len(TOKEN_IDS["cases"]) >= 40
    for case in TOKEN_IDS["cases"]:
        assert tok.encode(case["text"]) == case["plain"], case["text"]
        assert tok.encode(case["text"], special=True) == case["special"], case["text"]


@pytest.mark.slow
def test_dropped_characters_are_announced(real_folder):
    with pytest.warns(LossyTextWarning, match=r"U\+0013"):
        SmolLMTokenizer.load(real_folder).encode("a\x13b")
