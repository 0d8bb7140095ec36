"Tokenizers of every kind: the ids and texts of transformers, streams that add up, and damage that ends in one typed error"
import json
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers import decoders as d

from smollm_nb.models.checkpoint import find_problems
from smollm_nb.core import SmolLMError, TokenizerError
from smollm_nb.models.tiny import tiny_tokenizer, write_tiny
from smollm_nb.text.tokenizer import SmolLMTokenizer, StreamDecoder

TINY_JSON = json.loads(tiny_tokenizer().to_str())
LETTERS = [chr(i) for i in range(33, 127)]
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def sentencepiece(rng) -> Tokenizer:
    "In the manner of Llama 2 and its kin: white space as ▁, bytes as <0xNN>"
    tokens = ["<unk>", "<s>", "</s>", *BYTES, "▁", *LETTERS, *("▁" + c for c in LETTERS), "th", "▁th", "the"]
    merges = [("▁", c) for c in LETTERS] + [("t", "h"), ("▁", "th"), ("th", "e")]
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(dict.fromkeys(tokens))}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    kind = rng.randrange(3)
    if kind == 0: tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    if kind == 1: tok.normalizer = normalizers.Replace(" ", "▁")
    if kind == 2: tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=rng.choice(("first", "always", "never")), split=rng.random() < 0.5)
    tok.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])
    for t in rng.sample(("<unk>", "<s>", "</s>"), rng.randrange(4)):
        tok.add_special_tokens([AddedToken(t, special=True, normalized=False, lstrip=rng.random() < 0.2, rstrip=rng.random() < 0.2)])
    return tok


def byte_level(rng) -> Tokenizer:
    "The tiny tokenizer with other flags, and rules before it"
    j = json.loads(json.dumps(TINY_JSON))
    for t in j["added_tokens"]:
        t.update({k: rng.random() < 0.2 for k in ("lstrip", "rstrip")} | dict(special=rng.random() < 0.9))
    if rng.random() < 0.2: j["added_tokens"] = []
    if rng.random() < 0.2: j["normalizer"] = dict(type=rng.choice(("NFC", "Lowercase")))
    if rng.random() < 0.2: j["pre_tokenizer"] = dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True)
    return Tokenizer.from_str(json.dumps(j))


NAMES = ("<s>", "</s>", "<|im_end|>", "<|im_start|>", "<new>", "<pad>", "The")
WORDS = ["Hi", "the cat ", " ", "  ", "\n", *NAMES, "é", "👍", "user", "a", "123"]


def random_folder(folder, rng) -> None:
    "Files of a tokenizer that ask for this and that"
    tok = rng.choice((sentencepiece, byte_level))(rng)
    known = [t for t in NAMES if tok.token_to_id(t) is not None] or ["a"]
    ids = [(t, tok.token_to_id(t)) for t in known]
    wanted = rng.choice((None, "X $A", "$A X", "X $A X"))
    if wanted: tok.post_processor = processors.TemplateProcessing(single=wanted.replace("X", known[0]), special_tokens=ids[:1])
    elif rng.random() < 0.3: tok.post_processor = processors.RobertaProcessing(ids[0], ids[-1])
    if rng.random() < 0.3: tok.enable_truncation(3)
    tok.save(str(folder/"tokenizer.json"))
    def record(t): return rng.choice((t, dict(content=t, lstrip=False, rstrip=rng.random() < 0.5, normalized=False, single_word=False, __type="AddedToken")))
    config = {k: rng.choice((None, record(t))) for k, t in zip(("bos_token", "eos_token", "unk_token", "pad_token"), rng.sample(NAMES, 4)) if rng.random() < 0.6}
    for k, values in dict(tokenizer_class=("LlamaTokenizer", "PreTrainedTokenizerFast"), legacy=(True, False, None), add_prefix_space=(True, False), add_bos_token=(True,)).items():
        if rng.random() < 0.4: config[k] = rng.choice(values)
    (folder/"tokenizer_config.json").write_text(json.dumps(config))
    named = {k: t for k, t in zip(("bos_token", "eos_token"), rng.sample(NAMES, 2)) if rng.random() < 0.5}
    if rng.random() < 0.3: named["additional_special_tokens"] = [rng.choice(NAMES)]
    (folder/"special_tokens_map.json").write_text(json.dumps(named))


@pytest.mark.fuzz
def test_ids_and_texts_are_those_of_transformers(fuzz, tmp_path):
    "Special tokens from three files, tokens around every text, truncation saved by somebody, the class LlamaTokenizer"
    from transformers import AutoTokenizer
    rng, folder = random.Random(0), write_tiny(tmp_path/"tiny")
    for _ in range(25*fuzz):
        random_folder(folder, rng)
        theirs, ours = AutoTokenizer.from_pretrained(str(folder)), SmolLMTokenizer.load(folder)
        ours._rows = None # ids that no row of the tiny embedding belongs to are as good as others here
        assert ours.special_tokens == theirs.special_tokens_map
        for _ in range(8):
            text = "".join(rng.choice(WORDS) for _ in range(rng.randrange(7)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore") # characters that a vocabulary lacks
                ids = ours.prompt_ids(text, special=True)
                assert ids == theirs(text).input_ids, text
                assert ours.encode(text, special=True) == theirs(text, add_special_tokens=False).input_ids, text
            for skip in (False, True): assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


DECODERS = (None, d.Fuse(), d.Metaspace(), d.Metaspace(prepend_scheme="never"), d.WordPiece(), d.WordPiece(cleanup=False), d.BPEDecoder(), d.ByteFallback(),
    d.ByteLevel(), d.Sequence([d.ByteLevel()]), d.Replace("▁", " "), d.Strip(" ", 1, 0), d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)]),
    d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse()]), d.Sequence([d.ByteFallback(), d.Metaspace()]), d.Sequence([d.Fuse(), d.Replace("▁", " ")]),
    d.Sequence([d.Replace("▁", " "), d.Fuse(), d.Strip(" ", 3, 0)]), d.Sequence([d.Strip("a", 1, 0), d.Replace("b", "<0x41>"), d.ByteFallback()]),
    d.Sequence([d.ByteFallback(), d.Fuse(), d.Strip("a", 2, 0), d.Strip(" ", 1, 0)]), d.Sequence([d.ByteFallback(), d.BPEDecoder()]), d.Sequence([d.ByteFallback(), d.WordPiece()]))
ODD_TOKENS = ["▁", "▁▁", "a", "b", "▁a", "▁b", "ab", "##a", "##ing", "a</w>", "</w>", "'s", "n't", "▁'", ".", "▁.", "é", "▁é", "👍", "##", "Ġ", "<0xZZ>", "<0x+F>", "  ", " a"]


@pytest.mark.fuzz
def test_streams_add_up_to_decode(fuzz):
    "Every decoder, ids in any order, holes among them, special tokens kept or left out"
    rng = random.Random(0)
    for _ in range(60*fuzz):
        gap = rng.choice((0, 0, 40))
        vocab = {t: i + gap*(i > 250) for i, t in enumerate(["<unk>", "<s>", "</s>", *BYTES, *ODD_TOKENS])}
        tok = Tokenizer(rng.choice((models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True), models.WordLevel(vocab, unk_token="<unk>"))))
        if decoder := rng.choice(DECODERS): tok.decoder = decoder
        tok.add_special_tokens(["<unk>", "<s>", "</s>"])
        if rng.random() < 0.3: tok.add_tokens([AddedToken("é", normalized=False), AddedToken(" new "), AddedToken("<x>")])
        ours, ids = SmolLMTokenizer(tok, rows=rng.choice((None, 700))), list(vocab.values())
        for _ in range(20):
            few = (rng.choice(ids), rng.choice(ids[3:259]), rng.choice(ids[259:]), rng.randrange(ours._end), 0xc3 + 3, 0xa9 + 3, ids[259])
            some, skip = [rng.choice(few) for _ in range(rng.randrange(12))], rng.random() < 0.5
            stream = StreamDecoder(ours, skip_special=skip)
            assert "".join(map(stream.push, some)) + stream.flush() == ours.decode(some, skip), (decoder, [tok.id_to_token(i) for i in some])
            assert all(isinstance(ours.token_bytes(i), bytes) for i in some)


PARTS = dict(
    normalizer=[dict(type="Prepend", prepend=""), dict(type="Replace", pattern=dict(String=""), content="x"), dict(type="Precompiled", precompiled_charsmap="////////"),
        dict(type="Precompiled", precompiled_charsmap="AAAA"), dict(type="NFKC"), dict(type="Sequence", normalizers=[])],
    pre_tokenizer=[dict(type="FixedLength", length=0), dict(type="Split", pattern=dict(Regex=""), behavior="Isolated", invert=False), dict(type="Whitespace"),
        dict(type="Metaspace", replacement="▁", prepend_scheme="first", split=True)],
    decoder=[dict(type="Strip", content="a", start=10**9, stop=10**9), dict(type="Strip", content="a", start=0, stop=10), dict(type="CTC", pad_token="", word_delimiter_token="", cleanup=True),
        dict(type="WordPiece", prefix="", cleanup=True), dict(type="Replace", pattern=dict(String=""), content="b"), dict(type="Fuse"), dict(type="Sequence", decoders=[])],
    model=[dict(type="Unigram", unk_id=None, vocab=[["a", 0.0]], byte_fallback=False), dict(type="Unigram", unk_id=0, vocab=[["a", -1e308], ["ab", -5]], byte_fallback=True),
        dict(type="WordLevel", vocab={"a": 4294967295}, unk_token="x"), dict(type="BPE", vocab={"a": 0, "b": 1}, merges=[["a", "b"]]),
        dict(type="BPE", vocab={"a": 0, "b": 1, "é": 7}, merges=[["é", "b"]], continuing_subword_prefix="é"), dict(type="BPE", vocab={"a": 0, "b": 1, "ab": 2}, merges=[["a", "b"]], dropout=0.5)],
    post_processor=[dict(type="TemplateProcessing", single=[dict(SpecialToken=dict(id="q", type_id=0))], pair=[], special_tokens={}), dict(type="Sequence", processors=[]),
        dict(type="TemplateProcessing", single=[], pair=[], special_tokens={}), dict(type="BertProcessing", sep=["a", 1], cls=["b", 2])],
    truncation=[dict(direction="Left", max_length=0, strategy="OnlySecond", stride=0), dict(direction="Right", max_length=2, strategy="LongestFirst", stride=5)],
    padding=[dict(strategy=dict(Fixed=10**12), direction="Left", pad_to_multiple_of=0, pad_id=0, pad_type_id=0, pad_token="x")])
ODD = [None, True, 0, -1, 2**31, 2**63, 1.5, "", "a", "▁", [], {}, ["a"], {"a": 1}, {"String": ""}, {"Regex": "("}]


def mutated(rng) -> str:
    "`tokenizer.json` with other parts, or damaged, or cut"
    j = json.loads(json.dumps(TINY_JSON))
    for _ in range(rng.choice((0, 1, 1, 2))):
        k = rng.choice(list(PARTS))
        j[k] = rng.choice(PARTS[k])
    for _ in range(rng.choice((0, 0, 1, 3))):
        at, key = j, rng.choice(list(j))
        while isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.7:
            at = at[key]
            key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        if rng.random() < 0.3: del at[key]
        else: at[key] = rng.choice(ODD)
    text = json.dumps(j)
    return text[:rng.randrange(len(text))] if rng.random() < 0.05 else text


@pytest.mark.fuzz
def test_damaged_tokenizers_end_in_one_typed_error(fuzz, tmp_path):
    "From `validate` and from every method, panics of the library included; what loads also works"
    rng, folder, loaded = random.Random(0), write_tiny(tmp_path/"tiny"), 0
    (folder/"provenance.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore") # characters that a vocabulary lacks
        for _ in range(150*fuzz):
            (folder/"tokenizer.json").write_text(mutated(rng))
            assert all(isinstance(p, str) and "\n" not in p for p in find_problems(folder))
            try: tok = SmolLMTokenizer.load(folder)
            except TokenizerError: continue
            loaded += 1
            for text in ("Hello world  é 👍 <|im_end|>x", "a", "", "\x04\0", "▁▁ a b"):
                try: tok.decode(tok.prompt_ids(text) + tok.encode(text, special=True))
                except SmolLMError: continue
                stream = StreamDecoder(tok)
                ids = [rng.randrange(tok._end) for _ in range(9)] if tok._end < 2**31 else []
                assert "".join(map(stream.push, ids)) + stream.flush() == tok.decode(ids, skip_special=True)
    assert loaded > 20*fuzz


PANICS = (dict(normalizer=PARTS["normalizer"][2]), dict(pre_tokenizer=PARTS["pre_tokenizer"][0]), dict(model=PARTS["model"][3]), dict(post_processor=PARTS["post_processor"][0]),
    dict(normalizer=PARTS["normalizer"][0]))


@pytest.mark.parametrize("change", PANICS, ids=lambda c: next(iter(c)))
def test_a_panic_is_an_error_like_others(change, tmp_path):
    "The library's own exception is no `Exception`, and would end the program"
    folder = write_tiny(tmp_path/"tiny")
    (folder/"provenance.json").unlink()
    (folder/"tokenizer.json").write_text(json.dumps(TINY_JSON | change))
    problems = find_problems(folder)
    try:
        tok = SmolLMTokenizer.load(folder)
        assert problems == []
        with pytest.raises(TokenizerError): tok.prompt_ids("Hello") or tok.encode("")
    except TokenizerError as e: assert "is damaged" in str(e) and len(problems) == 1 and "is damaged" in problems[0]


def test_ctrl_c_passes_through(tmp_path):
    "What turns panics into errors leaves KeyboardInterrupt and SystemExit alone"
    code = ("from smollm_nb.models.checkpoint import library_errors\n"
        "for e in (KeyboardInterrupt, SystemExit):\n    try:\n        with library_errors('x'): raise e\n    except e: print(e.__name__)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.split() == ["KeyboardInterrupt", "SystemExit"]


def test_ids_above_the_tokenizer(tmp_path):
    "An embedding with more rows than tokens, and a token beyond it"
    from dataclasses import replace
    from smollm_nb.inference.generation import generate
    from smollm_nb.inference.llama import load
    from smollm_nb.models.tiny import TINY
    folder = write_tiny(tmp_path/"wide", replace(TINY, vocab_size=640, num_hidden_layers=1))
    (folder/"provenance.json").unlink()
    tok = SmolLMTokenizer.load(folder)
    assert tok.decode([639, 2]) == "<|im_end|>" and tok.pieces([639]) == [""]
    g = generate(load(folder), tok, "Hello", max_tokens=40, temperature=3.0).finish()
    assert g.text == tok.decode(g.ids, skip_special=True)
    vocab = TINY_JSON["model"]["vocab"]
    for id, problems in ((639, 0), (640, 1)):
        last = max(vocab, key=vocab.get)
        (folder/"tokenizer.json").write_text(json.dumps(TINY_JSON | dict(model=TINY_JSON["model"] | dict(vocab=vocab | {last: id}))))
        assert len(find_problems(folder)) == problems
