"""The tiny model's greedy answers: one golden file for every runtime.

`python tests/goldens.py` writes tests/data/tiny_greedy.json anew: `ids` with PyTorch in fp32, `four_bit_ids` with the
native engine on the same model in four bits. Do that only when the tiny model or a format changes.
"""

import json
import tempfile
from pathlib import Path

PATH = Path(__file__).parent / "data" / "tiny_greedy.json"
PROMPTS = ("The capital of France is", "Once upon a time", "def main():", "日本 👍 42", "What does that cost?")


def load() -> list[dict]:
    "Records of prompt, prompt_ids, ids, four_bit_ids, and the least lead of a first choice over the second, in logits"
    return json.loads(PATH.read_text(encoding="utf-8"))["cases"]


def four_bits():
    "A recipe of the engine's formats that takes no calibration"
    from smollm_nb.quant.recipes import Recipe

    return Recipe("four", "int4-book-g128-log8", "int4-book-g128-log8", "int8-row-f32", 128)


def make() -> list[dict]:
    "The same records, computed"
    import numpy as np

    from smollm_nb.engine import native
    from smollm_nb.inference.generation import generate
    from smollm_nb.inference.llama import load
    from smollm_nb.models.tiny import write_tiny
    from smollm_nb.quant.recipes import quantize
    from smollm_nb.text.tokenizer import SmolLMTokenizer

    with tempfile.TemporaryDirectory() as d:
        tok, backend = SmolLMTokenizer.load(write_tiny(d)), load(d, device="cpu")
        engine = native.load(quantize(d, Path(d) / "q4", four_bits())["path"])
    out = []
    for prompt in PROMPTS:
        seq, lead = tok.encode(prompt), []
        n = len(seq)
        for _ in range(32):
            top = np.sort(backend.logits(seq)[-1])[-2:]
            lead.append(float(top[1] - top[0]))
            seq.append(int(backend.logits(seq)[-1].argmax()))
        four = generate(engine, tok, prompt, max_tokens=32).finish().ids
        case = dict(prompt=prompt, prompt_ids=seq[:n], ids=seq[n:], four_bit_ids=four, lead=round(min(lead), 4))
        out.append(case)
    return out


if __name__ == "__main__":
    cases = make()
    PATH.write_text('{"cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n", encoding="utf-8")
    print(*cases, sep="\n")
