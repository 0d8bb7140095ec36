"Tokenizers of every kind: the ids and texts of transformers, streams that add up, damage that ends in one typed error"

import copy
import json
import random
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers import decoders as d

from smollm_nb.core import SmolLMError, TokenizerError
from smollm_nb.models.checkpoint import find_problems
from smollm_nb.models.tiny import TINY, tiny_tokenizer, write_tiny
from smollm_nb.text.tokenizer import SmolLMTokenizer, StreamDecoder

ROOT = Path(__file__).parent.parent
TINY_JSON = json.loads(tiny_tokenizer().to_str())
LETTERS = [chr(i) for i in range(33, 127)]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
NAMES = ("<s>", "</s>", "<|im_end|>", "<|im_start|>", "<new>", "<pad>", "The")
WORDS = ["Hi", "the cat ", " ", "  ", "\n", *NAMES, "é", "👍", "user", "a", "123"]


def sentencepiece(rng) -> Tokenizer:
    "In the manner of Llama 2 and its kin: white space as ▁, bytes as <0xNN>"
    tokens = ["<unk>", "<s>", "</s>", *BYTES, "▁", *LETTERS, *("▁" + c for c in LETTERS), "th", "▁th", "the"]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    merges = [("▁", c) for c in LETTERS] + [("t", "h"), ("▁", "th"), ("th", "e")]
    tok = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    spaces, scheme = normalizers.Replace(" ", "▁"), rng.choice(("first", "always", "never"))
    kind = rng.randrange(3)
    if kind == 0:
        tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    if kind == 1:
        tok.normalizer = spaces
    if kind == 2:
        tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=rng.random() < 0.5)
    tok.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])
    for t in rng.sample(NAMES[:2] + ("<unk>",), rng.randrange(4)):
        flags = {k: rng.random() < 0.2 for k in ("lstrip", "rstrip")}
        tok.add_special_tokens([AddedToken(t, special=True, normalized=False, **flags)])
    return tok


def byte_level(rng) -> Tokenizer:
    "The tiny tokenizer with other flags, and rules before it"
    j = json.loads(json.dumps(TINY_JSON))
    for t in j["added_tokens"]:
        t.update({k: rng.random() < 0.2 for k in ("lstrip", "rstrip")} | dict(special=rng.random() < 0.9))
    if rng.random() < 0.2:
        j["added_tokens"] = []
    if rng.random() < 0.2:
        j["normalizer"] = dict(type=rng.choice(("NFC", "Lowercase")))
    if rng.random() < 0.2:
        j["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
    return Tokenizer.from_str(json.dumps(j))


def random_folder(folder, rng) -> None:
    "Files of a tokenizer that ask for this and that"
    tok = rng.choice((sentencepiece, byte_level))(rng)
    ids = [(t, tok.token_to_id(t)) for t in (*NAMES, "a") if tok.token_to_id(t) is not None]
    wanted = rng.choice((None, "X $A", "$A X", "X $A X"))
    if wanted:
        single = wanted.replace("X", ids[0][0])
        tok.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids[:1])
    elif rng.random() < 0.3:
        tok.post_processor = processors.RobertaProcessing(ids[0], ids[-1])
    if rng.random() < 0.3:
        tok.enable_truncation(3)
    tok.save(str(folder / "tokenizer.json"))

    def record(t):
        flags = dict(lstrip=False, rstrip=rng.random() < 0.5, normalized=False, single_word=False)
        return rng.choice((None, t, dict(content=t, __type="AddedToken") | flags))

    keys = ("bos_token", "eos_token", "unk_token", "pad_token")
    config = {k: record(t) for k, t in zip(keys, rng.sample(NAMES, 4)) if rng.random() < 0.6}
    for k, values in dict(
        tokenizer_class=("LlamaTokenizer", "PreTrainedTokenizerFast"),
        legacy=(True, False, None),
        add_prefix_space=(True, False),
        add_bos_token=(True,),
    ).items():
        if rng.random() < 0.4:
            config[k] = rng.choice(values)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    named = {k: t for k, t in zip(keys, rng.sample(NAMES, 2)) if rng.random() < 0.5}
    if rng.random() < 0.3:
        named["additional_special_tokens"] = [rng.choice(NAMES)]
    (folder / "special_tokens_map.json").write_text(json.dumps(named))


@pytest.mark.fuzz
def test_ids_and_texts_are_those_of_transformers(fuzz, tmp_path):
    "Special tokens from three files, tokens around every text, truncation saved by somebody, the class LlamaTokenizer"
    from transformers import AutoTokenizer

    warnings.simplefilter("ignore")  # characters that a vocabulary lacks
    rng, folder = random.Random(0), write_tiny(tmp_path / "tiny")
    roomy = TINY.to_dict() | dict(vocab_size=600)  # rows for tokens that are only named
    (folder / "config.json").write_text(json.dumps(roomy))
    for _ in range(8 * fuzz):
        random_folder(folder, rng)
        theirs, ours = AutoTokenizer.from_pretrained(str(folder)), SmolLMTokenizer.load(folder)
        assert ours.special_tokens == theirs.special_tokens_map
        for _ in range(8):
            text = "".join(rng.choice(WORDS) for _ in range(rng.randrange(7)))
            ids = ours.prompt_ids(text, special=True)
            assert ids == theirs(text).input_ids, text
            assert ours.encode(text, special=True) == theirs(text, add_special_tokens=False).input_ids, text
            for skip in (False, True):
                assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


DECODERS = (
    None,
    d.Fuse(),
    d.Metaspace(),
    d.Metaspace(prepend_scheme="never"),
    d.WordPiece(),
    d.WordPiece(cleanup=False),
    d.BPEDecoder(),
    d.ByteFallback(),
    d.ByteLevel(),
    d.Sequence([d.ByteLevel()]),
    d.Replace("▁", " "),
    d.Strip(" ", 1, 0),
    d.Sequence([d.ByteFallback(), d.Metaspace()]),
    d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)]),
    d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse()]),
    d.Sequence([d.Fuse(), d.Replace("▁", " ")]),
    d.Sequence([d.Replace("▁", " "), d.Fuse(), d.Strip(" ", 3, 0)]),
    d.Sequence([d.Strip("a", 1, 0), d.Replace("b", "<0x41>"), d.ByteFallback()]),
    d.Sequence([d.ByteFallback(), d.Fuse(), d.Strip("a", 2, 0), d.Strip(" ", 1, 0)]),
    d.Sequence([d.ByteFallback(), d.WordPiece()]),
)
ODD_TOKENS = [
    "▁",
    "▁▁",
    "a",
    "b",
    "▁a",
    "▁b",
    "ab",
    "##a",
    "##ing",
    "a</w>",
    "</w>",
    "'s",
    "n't",
    "▁'",
    ".",
    "▁.",
    "é",
    "▁é",
    "👍",
    "##",
    "Ġ",
    "<0xZZ>",
    "<0x+F>",
    "  ",
    " a",
]


@pytest.mark.fuzz
def test_streams_add_up_to_decode(fuzz):
    "Every decoder, ids in any order, holes among them, special tokens kept or left out"
    rng = random.Random(0)
    for _ in range(60 * fuzz):
        gap = rng.choice((0, 0, 40))
        vocab = {t: i + gap * (i > 250) for i, t in enumerate(["<unk>", "<s>", "</s>", *BYTES, *ODD_TOKENS])}
        model = models.WordLevel(vocab, unk_token="<unk>")
        if rng.random() < 0.5:
            model = models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True)
        tok, decoder = Tokenizer(model), rng.choice(DECODERS)
        if decoder:
            tok.decoder = decoder
        tok.add_special_tokens(["<unk>", "<s>", "</s>"])
        more = [AddedToken("é", normalized=False), AddedToken(" new "), AddedToken("<x>")]
        if rng.random() < 0.3:
            tok.add_tokens(more)
        ours, ids = SmolLMTokenizer(tok, rows=rng.choice((None, 700))), list(vocab.values())
        for _ in range(20):

            def one():
                return rng.choice(
                    (
                        rng.choice(ids),
                        rng.choice(ids[3:259]),
                        rng.choice(ids[259:]),
                        rng.randrange(ours._end),
                        0xC3 + 3,
                        0xA9 + 3,
                        ids[259],
                    )
                )

            some, skip = [one() for _ in range(rng.randrange(12))], rng.random() < 0.5
            stream = StreamDecoder(ours, skip_special=skip)
            text = "".join(map(stream.push, some)) + stream.flush()
            assert text == ours.decode(some, skip), (decoder, [tok.id_to_token(i) for i in some])
            assert all(isinstance(ours.token_bytes(i), bytes) for i in some)


PARTS = json.loads((Path(__file__).parent / "data" / "tokenizer_parts.json").read_text(encoding="utf-8"))
ODD = [None, True, 0, -1, 2**31, 2**63, 1.5, "", "a", "▁", [], {}, ["a"], {"a": 1}, {"String": ""}, {"Regex": "("}]


def mutated(rng) -> str:
    "`tokenizer.json` with other parts, or damaged, or cut"
    j = json.loads(json.dumps(TINY_JSON))
    for _ in range(rng.choice((0, 1, 1, 2))):
        k = rng.choice(list(PARTS))
        j[k] = copy.deepcopy(rng.choice(PARTS[k]))
    for _ in range(rng.choice((0, 0, 1, 3))):
        at, key = j, rng.choice(list(j))
        while isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.7:
            at = at[key]
            key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        if rng.random() < 0.3:
            del at[key]
        else:
            at[key] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(j)
    return text[: rng.randrange(len(text))] if rng.random() < 0.05 else text


@pytest.mark.fuzz
def test_damaged_tokenizers_end_in_one_typed_error(fuzz, tmp_path):
    "From `validate` and from every method, panics of the library included; what loads also works"
    rng, folder, loaded = random.Random(0), write_tiny(tmp_path / "tiny"), 0
    (folder / "provenance.json").unlink()
    warnings.simplefilter("ignore")  # characters that a vocabulary lacks
    for _ in range(100 * fuzz):
        (folder / "tokenizer.json").write_text(mutated(rng))
        assert all(isinstance(p, str) and "\n" not in p for p in find_problems(folder))
        try:
            tok = SmolLMTokenizer.load(folder)
        except TokenizerError:
            continue
        loaded += 1
        for text in ("Hello world  é 👍 <|im_end|>x", "a", "", "\x04\0", "▁▁ a b"):
            try:
                tok.decode(tok.prompt_ids(text) + tok.encode(text, special=True))
            except SmolLMError:
                continue
            stream, ids = StreamDecoder(tok), [rng.randrange(tok._end) for _ in range(9)]
            assert "".join(map(stream.push, ids)) + stream.flush() == tok.decode(ids, skip_special=True)
    assert loaded > 15 * fuzz


@pytest.mark.parametrize(
    "part, n", [("normalizer", 0), ("normalizer", 1), ("pre_tokenizer", 0), ("model", 0), ("post_processor", 0)]
)
def test_a_panic_is_an_error_like_others(part, n, tmp_path):
    "The library's own exception is no `Exception`, and would end the program"
    folder = write_tiny(tmp_path / "tiny")
    (folder / "provenance.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(TINY_JSON | {part: PARTS[part][n]}))
    problems = find_problems(folder)
    try:
        tok = SmolLMTokenizer.load(folder)
        assert problems == []
        with pytest.raises(TokenizerError):
            tok.prompt_ids("Hello")
    except TokenizerError as e:
        assert "is damaged" in str(e)
        assert len(problems) == 1
        assert "is damaged" in problems[0]


def test_ctrl_c_passes_through():
    "What turns panics into errors leaves KeyboardInterrupt and SystemExit alone"
    code = (
        "from smollm_nb.models.checkpoint import library_errors\n"
        "for e in (KeyboardInterrupt, SystemExit):\n"
        "    try:\n        with library_errors('x'): raise e\n    except e: print(e.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["KeyboardInterrupt", "SystemExit"]


def test_ids_above_the_tokenizer(tmp_path):
    "An embedding with more rows than tokens, and a token beyond it"
    from smollm_nb.inference.generation import generate
    from smollm_nb.inference.llama import load

    folder = write_tiny(tmp_path / "wide", replace(TINY, vocab_size=640, num_hidden_layers=1))
    (folder / "provenance.json").unlink()
    tok = SmolLMTokenizer.load(folder)
    assert tok.decode([639, 2]) == "<|im_end|>"
    assert tok.pieces([639]) == [""]
    g = generate(load(folder), tok, "Hello", max_tokens=40, temperature=3.0).finish()
    assert g.text == tok.decode(g.ids, skip_special=True)
    model = TINY_JSON["model"]
    last = max(model["vocab"], key=model["vocab"].get)
    for id, problems in ((639, 0), (640, 1)):
        changed = TINY_JSON | dict(model=model | dict(vocab=model["vocab"] | {last: id}))
        (folder / "tokenizer.json").write_text(json.dumps(changed))
        assert len(find_problems(folder)) == problems


def test_a_chat_template_that_is_no_text(tmp_path):
    folder = write_tiny(tmp_path / "tiny")
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenizerError, match="chat template cannot be read"):
        SmolLMTokenizer.load(folder)
