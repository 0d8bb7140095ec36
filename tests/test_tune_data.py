"Training data: whatever stands in a file, every example is used or left out by name"

import json
import random
import re
import subprocess
import sys
import tracemalloc

import pytest
from chat_cases import FAMILIES, SPECIAL
from tokenizers import AddedToken

from smollm_nb.core import SmolLMError
from smollm_nb.models.tiny import tiny_tokenizer, write_tiny
from smollm_nb.text.chat import encode_chat
from smollm_nb.text.tokenizer import SmolLMTokenizer
from smollm_nb.tune.data import IGNORED, encode_record, load_data
from smollm_nb.tune.records import read_records

LINES = b"""{"prompt": "a b", "answer": "c"}
{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
{"text": "hello there"}
{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]}
"""
FILES = {
    "x.jsonl": LINES,
    "x.csv": b'prompt,answer,system\r\n"a, ""b""\nc",d,e\r\nx,y,\r\n',
    "x.json": b'[{"instruction": "a", "input": "b", "output": "c"}, ["p", "q"], "text"]',
    "x.txt": b"one two\n\nthree\r\nfour\n\n\nfive",
    "x.tsv": b"question\tanswer\na\tb\n",
}
PIECES = [b'"', b"\n", b"\r", b"\0", b"{", b"[", b",", b"null", b"1e999", b"NaN", b"\\ud800", b"\xff", b"<|im_end|>"]
PIECES += [b"\xef\xbb\xbf", b'{"a":1},', b"true", b'""', "\u2028é👍".encode()]


def damaged(rng, content: bytes) -> bytes:
    "The file with a few changes"
    b = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        i, j = sorted(rng.randrange(len(b) + 1) for _ in range(2))
        change = rng.randrange(4)
        if change == 0:
            b[i : i + 1] = bytes([rng.randrange(256)])
        elif change == 1:
            del b[i : i + rng.randint(1, 9)]
        elif change == 2:
            b[i:i] = rng.choice(PIECES)
        else:
            b[i:i] = b[i:j]
    return bytes(b)


def check(data, tokenizer) -> None:
    "What holds for all data"
    r, both = data.report, data.train + data.held_out
    assert r.records == len({e.record.where for e in both}) + len(r.problems)
    assert json.loads(json.dumps(r.to_dict()))["train"] == len(data.train)
    assert str(r) and r._repr_markdown_() and data.preview()._repr_html_() and str(data.preview())
    assert {e.record.question for e in data.train}.isdisjoint(e.record.question for e in data.held_out)
    for e in both:
        assert 2 <= e.tokens == len(e.labels) <= 64
        assert ((e.labels == e.ids) | (e.labels == IGNORED)).all()
        assert e.trained
        if len(e.record.messages) == 2:
            said = tokenizer.decode([i for i in e.labels.tolist() if i != IGNORED])
            assert said == e.record.answer + "<|im_end|>"


@pytest.mark.fuzz
def test_damaged_files(fuzz, tmp_path):
    rng, used, refused = random.Random(fuzz), 0, 0
    tokenizer = SmolLMTokenizer.load(write_tiny(tmp_path / "tiny"))
    for _ in range(300 * fuzz):
        name = rng.choice(list(FILES))
        (tmp_path / name).write_bytes(damaged(rng, FILES[name]))
        held_out, too_long = rng.choice([0, 0.3, 1]), rng.choice(["leave out", "split"])
        try:
            data = load_data(tmp_path / name, tokenizer, held_out, context=64, too_long=too_long)
        except SmolLMError as e:
            refused += 1
            assert "\n" not in str(e)
            assert "; " in str(e), "it says what to do"
        else:
            used += 1
            check(data, tokenizer)
    assert min(used, refused) > 60 * fuzz


def test_a_line_without_end_takes_no_memory(tmp_path):
    "A file of one line that is larger than any example"
    (tmp_path / "x.jsonl").write_bytes(b"x" * (64 << 20) + b"\n" + LINES)
    tracemalloc.start()
    records, problems = read_records(tmp_path / "x.jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    assert [r.line for r in records] == [2, 3, 4, 5]
    assert [p.line for p in problems] == [1]


def test_needs_no_torch():
    code = "import sys, smollm_nb.tune.data; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_families_train_on_answers_alone(tmp_path):
    "Twenty templates, their special tokens known: the words of the answers, each with an end token, and nothing else"
    talk = [("user", "What is 1?"), ("assistant", "one one"), ("user", "And 2?<|end|>"), ("assistant", "two 👍")]
    record = read_records([dict(messages=[dict(role=r, content=c) for r, c in talk])])[0][0]
    endless = set()
    for name, source in FAMILIES.items():
        tokens = tiny_tokenizer()
        marks = sorted(set(re.findall(r"<[|/]?\w+\|?>|\[/?INST\]", source)))
        tokens.add_tokens([AddedToken(m, special=True) for m in marks])
        tokenizer = SmolLMTokenizer(tokens, dict(chat_template=source) | SPECIAL)
        e = encode_record(tokenizer, record)
        assert e.ids.tolist() == encode_chat(tokenizer, record.messages, add_generation_prompt=False)
        trained = [i for i in e.labels.tolist() if i != IGNORED]
        ends = [i for i in trained if i in tokenizer.special_ids.values()]
        words = tokenizer.decode([i for i in trained if i not in ends])
        assert "".join(words.casefold().split()) == "oneonetwo👍", (name, words)
        assert e.ends == (len(ends) == 2), (name, ends)
        if not e.ends:
            endless.add(name)
    assert endless == {"alpaca", "functionary", "glm"}, "these end an answer by the next turn, or not at all"
