"""The tiny model's greedy answers: one golden for every runtime.

`python tests/goldens.py` writes tests/data/tiny_greedy.json anew with PyTorch. Do that only when the
tiny model itself changes.
"""

import json
import tempfile
from pathlib import Path

PATH = Path(__file__).parent / "data" / "tiny_greedy.json"
PROMPTS = ("The capital of France is", "Once upon a time", "def main():", "日本 👍 42", "What does that cost?")


def load() -> list[dict]:
    "Records of prompt, prompt_ids, ids, and the smallest lead of a first choice over the second, in logits"
    return json.loads(PATH.read_text(encoding="utf-8"))["cases"]


def make() -> list[dict]:
    "The same records, from PyTorch"
    import numpy as np

    from smollm_nb.inference.llama import load
    from smollm_nb.models.tiny import write_tiny
    from smollm_nb.text.tokenizer import SmolLMTokenizer

    with tempfile.TemporaryDirectory() as d:
        tok, backend = SmolLMTokenizer.load(write_tiny(d)), load(d, device="cpu")
    out = []
    for prompt in PROMPTS:
        seq, lead = tok.encode(prompt), []
        n = len(seq)
        for _ in range(32):
            top = np.sort(backend.logits(seq)[-1])[-2:]
            lead.append(float(top[1] - top[0]))
            seq.append(int(backend.logits(seq)[-1].argmax()))
        out.append(dict(prompt=prompt, prompt_ids=seq[:n], ids=seq[n:], lead=round(min(lead), 4)))
    return out


if __name__ == "__main__":
    cases = make()
    PATH.write_text('{"cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n", encoding="utf-8")
    print(*cases, sep="\n")
