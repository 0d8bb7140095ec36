"A checkpoint folder as `transformers` reads it; and whatever stands in its files, each ends in a line"

import copy
import json
import random
import shutil
import struct

import numpy as np
import pytest

from smollm_nb.core import CheckpointError, ConfigError, LlamaConfig, ParameterError, SmolLMError
from smollm_nb.inference.llama import load, read_model
from smollm_nb.models.checkpoint import (
    INDEX,
    PROVENANCE,
    SINGLE,
    find_problems,
    read_provenance,
    save_tensors,
    validate,
    weight_files,
)
from smollm_nb.models.tiny import random_tensors, write_tiny
from smollm_nb.quant.recipes import source_of


@pytest.fixture
def folder(tmp_path):
    "A checkpoint as anyone's: without a record of ours"
    made = write_tiny(tmp_path / "model")
    (made / PROVENANCE).unlink()
    return made


def change_config(folder, drop=(), **change):
    "Change keys of `config.json`, and drop others"
    d = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps({k: v for k, v in d.items() if k not in drop}))


# ---- transformers is the reference

SHARED = (
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "bos_token_id",
)
MISSING = (*SHARED, "eos_token_id", "rope_theta", "hidden_act", "attention_bias", "mlp_bias", "rope_scaling")
NULL = ("num_key_value_heads", "head_dim", "bos_token_id", "eos_token_id", "rope_scaling", "rope_parameters")
DEFAULTS = dict(rms_norm_eps=1e-6, rope_theta=1e4, max_position_embeddings=2048, tie_word_embeddings=False)
ROPES = (
    dict(rope_parameters=dict(rope_theta=5e3)),
    dict(rope_scaling=dict(rope_theta=5e3)),
    dict(rope_parameters={}),
    dict(rope_scaling=dict(type="default")),
    dict(rope_scaling=dict(rope_theta=3e3), rope_parameters=dict(rope_theta=5e3)),
)


def theirs(folder):
    "What `transformers` reads"
    from transformers import AutoConfig

    c = AutoConfig.from_pretrained(folder)
    eos = () if c.eos_token_id is None else (c.eos_token_id,)
    return {k: getattr(c, k) for k in SHARED} | dict(rope_theta=c.rope_parameters["rope_theta"], eos_token_ids=eos)


@pytest.mark.parametrize("key", MISSING)
def test_a_missing_key_is_the_default(folder, key):
    change_config(folder, drop=[key])
    want, got = theirs(folder), LlamaConfig.from_folder(folder)
    assert {k: getattr(got, k) for k in want} == want


@pytest.mark.parametrize("key", NULL)
def test_null_is_what_it_is_there(folder, key):
    change_config(folder, **{key: None})
    want, got = theirs(folder), LlamaConfig.from_folder(folder)
    assert {k: getattr(got, k) for k in want} == want


@pytest.mark.parametrize("key, default", DEFAULTS.items())
def test_null_is_the_default_where_transformers_takes_none(folder, key, default):
    change_config(folder, **{key: None})
    assert getattr(LlamaConfig.from_folder(folder), key) == default


@pytest.mark.parametrize("rope", ROPES)
def test_every_spelling_of_the_rope_base(folder, rope):
    change_config(folder, **rope)
    assert LlamaConfig.from_folder(folder).rope_theta == theirs(folder)["rope_theta"]


def both_logits(folder):
    "After five tokens: ours and those of `transformers`"
    import torch
    from transformers import AutoModelForCausalLM

    ids = [5, 60, 300, 7, 8]
    with torch.no_grad():
        want = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits[0, -1].numpy()
    return load(folder).prefill(ids), want


def test_a_single_file_comes_before_an_index(folder):
    "Both know only one set of weights, and it is the same"
    single = (folder / SINGLE).read_bytes()
    save_tensors(folder, random_tensors(seed=5), max_shard=2_000_000)
    (folder / SINGLE).write_bytes(single)
    assert list(weight_files(folder)) == [folder / SINGLE]
    assert list(source_of(folder)["sha256"]) == [SINGLE]
    ours, want = both_logits(folder)
    assert np.abs(ours - want).max() < 1e-3
    (folder / SINGLE).unlink()
    ours, other = both_logits(folder)
    assert np.abs(ours - other).max() < 1e-3 < np.abs(want - other).max()
    next(folder.glob("model-00002*")).unlink()
    for f in (weight_files, source_of, read_model, load, validate):
        with pytest.raises(CheckpointError, match="model-00002-of-.* is missing"):
            f(folder)


def test_leftovers_change_nothing(folder):
    "A tied head that is the embedding, tables of the rotary embedding: accepted by both"
    tensors = dict(random_tensors())
    extra = {
        "lm_head.weight": tensors["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(32, np.float32),
    }
    before = load(folder).prefill([5, 60, 300, 7, 8])
    save_tensors(folder, (tensors | extra).items())
    ours, want = both_logits(folder)
    assert (ours == before).all()
    assert np.abs(ours - want).max() < 1e-3


# ---- arguments


def test_arguments(folder):
    for f in (validate, find_problems, weight_files, read_provenance, LlamaConfig.from_folder, source_of):
        for wrong in (None, b"x", 3, [], "", "a\0b"):
            with pytest.raises(ParameterError, match="folder"):
                f(wrong)
        f(str(folder))


# ---- hostile files


def places(v, at=()):
    "Every place in a JSON value, the whole left out"
    for k, x in v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else ():
        yield (*at, k)
        yield from places(x, (*at, k))


ODD = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    10**30,
    10**4000,
    1 << 24,
    "",
    "x",
    "x" * 300,
    "../x",
    "a/b",
    "\0",
    "\n",
    "\ud800",
    "nul",
    ".",
    "\x1b[2J",
    [],
    [1],
    ["a"],
    [[]],
    [None],
    {},
    {"a": 1},
    {"": None},
    [{}],
]
KEYS = ["files", "weight_map", "tool", "rope_scaling", "x\n", "head_dim"]
FILES = ["config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json", PROVENANCE, INDEX]
LENGTHS = [0, 1, 1 << 20, 1 << 32, 1 << 63, (1 << 64) - 1]


def damaged_json(d, rng):
    "The text of a JSON file with one to three values replaced, removed or copied, or with broken bytes"
    d = copy.deepcopy(d)
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice(list(places(d)) or [()]) or (None,)
        at = d
        for k in way:
            at = at[k]
        what = rng.randrange(5)
        if what == 0 and last is not None:
            del at[last]
        elif what == 1 and isinstance(at, dict):
            at[rng.choice(KEYS)] = copy.deepcopy(rng.choice(ODD))
        elif last is not None:
            at[last] = copy.deepcopy(rng.choice(ODD))
    raw = bytearray(json.dumps(d).encode())
    if rng.random() < 0.2:
        begin = rng.randrange(len(raw))
        raw[begin : begin + rng.randrange(20)] = rng.choice([b"\xff", b"[", b'"', b"}", b"", b"\\u"])
    if rng.random() < 0.1:
        raw = bytearray(b"[" * 100_000)
    return bytes(raw)


def endings(folder):
    "Ask everything that reads a folder; a value, or an error of ours in one line"
    for f in (find_problems, validate, weight_files, read_provenance, LlamaConfig.from_folder, source_of):
        try:
            f(folder)
        except SmolLMError as e:
            assert "\n" not in str(e), f.__name__
            assert len(str(e)) < 3000, f.__name__
            assert str(e).isprintable(), f.__name__
    problems = find_problems(folder)
    assert all(p.isprintable() and len(p) <= 300 for p in problems)
    assert len(set(problems)) == len(problems)
    return not problems


@pytest.mark.fuzz
@pytest.mark.parametrize("name", FILES)
def test_damaged_json(tmp_path, fuzz, name):
    rng, sound = random.Random(name), 0
    folder = write_tiny(tmp_path / "model", max_shard=2_000_000 if name == INDEX else 1 << 30)
    (folder / "generation_config.json").write_text(json.dumps(dict(eos_token_id=[2, 0], bos_token_id=1)))
    if name != PROVENANCE:
        (folder / PROVENANCE).unlink()
    good = json.loads((folder / name).read_text())
    assert endings(folder)
    for _ in range(40 * fuzz):
        (folder / name).write_bytes(damaged_json(good, rng))
        sound += endings(folder)
    assert sound < 40 * fuzz


@pytest.mark.fuzz
def test_damaged_safetensors(tmp_path, fuzz):
    "The header's JSON, its length, and the file cut anywhere"
    folder, rng = write_tiny(tmp_path / "model"), random.Random(3)
    (folder / PROVENANCE).unlink()
    path = folder / SINGLE
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    good = json.loads(raw[8 : 8 + n])
    for i in range(100 * fuzz):
        kind = rng.randrange(4)
        if kind == 0:
            path.write_bytes(struct.pack("<Q", rng.choice([*LENGTHS, n - 1, n + 1])) + raw[8:])
        elif kind == 1:
            cut = rng.choice([0, 1, 7, 8, 9, n, n + 8, n + 9, len(raw) - 1, rng.randrange(len(raw))])
            path.write_bytes(raw[:cut])
        else:
            head = damaged_json(good, rng)
            path.write_bytes(struct.pack("<Q", len(head)) + head + raw[8 + n :])
        endings(folder)


def test_deep_and_wide_json_costs_little(folder):
    "A config of millions of layers, an index of many files, a record of many"
    change_config(folder, num_hidden_layers=4096)
    assert len(find_problems(folder)) == 9 * 4092
    with pytest.raises(CheckpointError, match=f"{9 * 4092} problems: .* and {9 * 4092 - 5} more") as e:
        validate(folder)
    assert len(str(e.value)) < 2000
    change_config(folder, num_hidden_layers=1 << 24)
    with pytest.raises(ConfigError, match="in 1..4096"):
        LlamaConfig.from_folder(folder)
    change_config(folder, num_hidden_layers=4)
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps(dict(weight_map={f"t{i}": f"f{i}" for i in range(100_000)})))
    assert len(find_problems(folder)) == 100_000
    shutil.rmtree(folder)
