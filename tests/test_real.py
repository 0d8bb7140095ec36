"The real model against `transformers`: the same tokens, the same text"

import subprocess
import sys
from pathlib import Path

import pytest

from smollm_nb.inference.generation import generate
from smollm_nb.inference.llama import load
from smollm_nb.text.chat import encode_chat
from smollm_nb.text.tokenizer import SmolLMTokenizer

pytestmark = pytest.mark.slow
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n",
    "Q: What is 17 + 25?\nA:",
    "Es war einmal",
    "The three laws of thermodynamics are",
    "1, 1, 2, 3, 5, 8,",
)


@pytest.fixture(scope="module")
def reference(real_folder):
    "The same checkpoint in `transformers`: model and tokenizer"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(real_folder).float().eval(), AutoTokenizer.from_pretrained(real_folder)


def test_greedy_tokens_equal_those_of_transformers(real_folder, reference):
    model, hf_tok = reference
    backend, tok = load(real_folder), SmolLMTokenizer.load(real_folder)
    for prompt in PROMPTS:
        inputs = hf_tok(prompt, return_tensors="pt")
        want = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0][inputs["input_ids"].shape[1] :].tolist()
        g = generate(backend, tok, prompt, max_tokens=32).finish()
        assert tok.encode(prompt) == inputs["input_ids"][0].tolist(), prompt
        assert g.ids == want, prompt


def test_chat_ids_equal_those_of_transformers(real_folder, reference):
    tok = SmolLMTokenizer.load(real_folder)
    for messages in (
        [dict(role="user", content="Hi there!")],
        [
            dict(role="system", content="Be brief."),
            dict(role="user", content="1+1?\n"),
            dict(role="assistant", content=" 2"),
            dict(role="user", content="Sure?"),
        ],
    ):
        want = reference[1].apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert encode_chat(tok, messages) == list(want)


def test_half_precision_still_knows_the_capital(real_folder):
    tok = SmolLMTokenizer.load(real_folder)
    assert "Paris" in generate(load(real_folder, dtype="bfloat16"), tok, PROMPTS[0], max_tokens=8).finish().text


def test_a_new_process_answers(real_folder):
    command = [str(Path(sys.executable).with_name("smollm")), "generate", PROMPTS[0], "--max-tokens", "1"]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "Paris"
