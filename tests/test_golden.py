"Every runtime prints the same tokens"

import json
from pathlib import Path

import goldens
import pytest

from smollm_nb.inference.generation import generate
from smollm_nb.inference.llama import load
from smollm_nb.text.tokenizer import LossyTextWarning, SmolLMTokenizer

TOKEN_IDS = json.loads((Path(__file__).parent / "data" / "token_ids.json").read_text(encoding="utf-8"))


def test_torch_prints_the_golden_tokens(tiny_folder):
    tok, backend = SmolLMTokenizer.load(tiny_folder), load(tiny_folder, device="cpu")
    for case in goldens.load():
        assert tok.encode(case["prompt"]) == case["prompt_ids"]
        g = generate(backend, tok, case["prompt"], max_tokens=len(case["ids"])).finish()
        n = len(g.ids)
        assert g.ids == case["ids"][:n]
        assert n == len(case["ids"]) or g.finish_reason == "eos"


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
