"GGUF files: every type of tensor comes back, and whatever the bytes are, reading ends soon, small, and in one line"

import json
import os
import random
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from smollm_nb.core import CheckpointError, ParameterError
from smollm_nb.models.gguf import (
    FULL,
    MAX_HEADER,
    MAX_ITEMS,
    TYPES,
    gguf_name,
    import_gguf,
    permute,
    read_gguf,
    unpermute,
)
from smollm_nb.models.tiny import TINY, random_tensors, tiny_tokenizer

SMALL = replace(TINY, hidden_size=256, num_attention_heads=4, num_hidden_layers=1)


def write_gguf(path, kind="F32", **change):
    "A GGUF of a random Llama of one layer, its matrices of any type; `change` overrides metadata, None leaves out"
    w, tok = gguf.GGUFWriter(path, "llama"), tiny_tokenizer()
    q, rng = gguf.GGMLQuantizationType[kind], np.random.default_rng(0)
    merges = [" ".join(m) for m in json.loads(tok.to_str())["model"]["merges"]]
    meta = {
        "llama.context_length": 256,
        "llama.embedding_length": 256,
        "llama.block_count": 1,
        "llama.feed_forward_length": 512,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 1,
        "llama.rope.freq_base": 1e5,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.tokens": [tok.id_to_token(i) for i in range(512)],
        "tokenizer.ggml.token_type": [3] * 17 + [1] * 495,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    } | change
    put = {bool: w.add_bool, int: w.add_uint32, float: w.add_float32, str: w.add_string, list: w.add_array}
    for k, v in meta.items():
        if v is not None:
            put[type(v)](k, v)
    for name, a in random_tensors(SMALL):
        if ".q_proj." in name:
            a = permute(a, 4)
        if a.ndim == 1:
            w.add_tensor(gguf_name(name), a)
        elif kind in FULL:
            w.add_tensor(gguf_name(name), gguf.quantize(a, q), raw_dtype=q)
        else:  # bytes below 60 make fp16 numbers below 1, whatever the type does with them
            raw = rng.integers(0, 60, gguf.quant_shape_to_byte_shape(a.shape, q), np.uint8)
            w.add_tensor(gguf_name(name), raw, raw_dtype=q)
    for step in (w.write_header_to_file, w.write_kv_data_to_file, w.write_tensors_to_file, w.close):
        step()
    return Path(path)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_comes_back(tmp_path, kind):
    "As the `gguf` package reads and dequantizes it"
    path = write_gguf(tmp_path / "x.gguf", kind)
    got = load_file(import_gguf(path, tmp_path / "x", on_progress=lambda done, total: None) / "model.safetensors")
    want = {t.name: (np.asarray(t.data), t.tensor_type, t.shape[::-1]) for t in gguf.GGUFReader(path).tensors}
    for name, shape in SMALL.tensor_shapes().items():
        data, q, there = want[gguf_name(name)]
        assert tuple(there) == shape
        assert q.name == kind or len(shape) == 1
        w = gguf.quants.dequantize(data, q).reshape(shape)
        if ".q_proj." in name:
            w = unpermute(w, 4)
        if ".k_proj." in name:
            w = unpermute(w, 1)
        assert (got[name] == w).all(), name


def test_types_are_those_of_the_package():
    "All types that the package can dequantize, and no other"
    can = set()
    for q in gguf.GGMLQuantizationType:
        block, size = gguf.GGML_QUANT_SIZES[q]
        try:
            gguf.quants.dequantize(np.zeros((1, size * (256 // block if block < 256 else 1)), np.uint8), q)
        except NotImplementedError:
            continue
        can.add(q.name)
    assert can == set(TYPES)


def test_metadata_is_that_of_the_package(tmp_path):
    lists = {"general.languages": ["en", "日本"], "x.floats": [0.5, 1.5], "x.bools": [True, False]}
    path = write_gguf(tmp_path / "x.gguf", **lists)
    theirs = {k: f.contents() for k, f in gguf.GGUFReader(path).fields.items() if not k.startswith("GGUF.")}
    assert read_gguf(path)[0] == theirs


# ---- hostile files


def text(s):
    return struct.pack("<Q", len(s)) + s


def items(kind, n, rest, key=b"a"):
    return text(key) + struct.pack("<IIQ", 9, kind, n) + rest


def header(*keys, tensors=(), counts=None, rest=b""):
    "A GGUF of packed keys and values, packed tensor records, and what follows"
    counts = counts or (len(tensors), len(keys))
    return b"GGUF" + struct.pack("<IQQ", 3, *counts) + b"".join(keys) + b"".join(tensors) + rest


def bombs():
    "Headers made to cost as much as they can"
    yield header(counts=(1 << 63, 1 << 63))
    yield header(counts=((1 << 64) - 1, 0), rest=bytes(64))
    yield header(text(b"a") + struct.pack("<IIQ", 9, 8, 1 << 24), rest=bytes(25))  # 49 bytes and more
    for kind in (0, 6, 10, 12):
        yield header(items(kind, MAX_ITEMS, b"\x3f" * 8 * MAX_ITEMS))
    yield header(items(8, MAX_ITEMS, bytes(8 * MAX_ITEMS)))
    yield header(items(8, MAX_ITEMS, text(b"abcdef") * MAX_ITEMS))
    yield header(items(8, 1000, text("😀".encode() + b"a" * 16000) * 1000))
    yield header(text(b"a") + struct.pack("<I", 8) + text("😀".encode() + b"a" * (MAX_HEADER - 100)))
    yield header(*[text(b"%d" % i) + struct.pack("<IQ", 10, 1 << 60) for i in range(1 << 16)])
    yield header(*[items(0, 1, b"\1", b"%d" % i) for i in range(1 << 16)])
    record = struct.pack("<IQQQQIQ", 4, 1, 1, 1, 32, 0, 0)
    # all at one place
    yield header(tensors=[text(b"%d" % i) + record for i in range(1 << 16)], rest=bytes(1 << 20))
    apart = [text(b"%d" % i) + record[:-8] + struct.pack("<Q", 128 * i) for i in range(1 << 16)]
    yield header(tensors=apart, rest=bytes(1 << 24))
    yield header(items(9, 1 << 20, struct.pack("<IQ", 9, 1) * 100_000))


CHILD = f"""
import os, random, sys, time
from pathlib import Path
from smollm_nb.core import CheckpointError, TokenizerError, peak_rss_bytes
from smollm_nb.models.gguf import import_gguf, read_gguf
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_gguf import bombs, mutated
"""
MEASURE = (
    CHILD
    + """
for data in bombs():
    path = Path(sys.argv[1])/"x.gguf"
    path.write_bytes(data)
    size = len(data)
    del data
    if os.fork() == 0: # a process of its own, whose peak is known
        before, start = peak_rss_bytes(), time.perf_counter()
        try: read_gguf(path)
        except CheckpointError: pass
        print(size, peak_rss_bytes() - before, time.perf_counter() - start, flush=True)
        os._exit(0)
    os.wait()
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="counts the memory of forked processes")
def test_no_header_takes_much_memory_or_time(tmp_path):
    cmd = [sys.executable, "-c", MEASURE, tmp_path]
    done = subprocess.run(cmd, capture_output=True, text=True, timeout=300, check=True)
    figures = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]
    assert len(figures) == len(list(bombs()))
    for i, (size, memory, seconds) in enumerate(figures):
        assert memory - size < 100e6, f"header {i} of {size:,} bytes takes {memory:,}"
        assert seconds < 30, f"header {i} takes {seconds:.1f} s, a deadline against hangs"


INTERESTING = [
    0,
    1,
    2,
    8,
    9,
    12,
    13,
    31,
    32,
    255,
    1 << 16,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    1 << 40,
    1 << 62,
    1 << 63,
    (1 << 64) - 1,
]


def mutated(data, end, rng):
    "One to four damages within the first `end` bytes"
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, other, kind = rng.randrange(min(end, len(data)) or 1), rng.randrange(len(data) or 1), rng.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", rng.choice(INTERESTING))
        elif kind == 2:
            data[at : at + 4] = struct.pack("<I", rng.choice(INTERESTING) & 0xFFFFFFFF)
        elif kind == 3:
            del data[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            data[at:at] = data[other : other + rng.randrange(1, 80)]
        else:
            data = data[:at] if rng.random() < 0.2 else data
    return bytes(data)


def rich():
    "A small header with a value and a list of every type, and two tensors"
    scalars = [text(b"v%d" % k) + struct.pack("<I", k) + b"\1" * n for k, n in enumerate((1, 1, 2, 2, 4, 4, 4, 1))]
    wide = [text(b"w%d" % k) + struct.pack("<I", k) + b"\1" * 8 for k in (10, 11, 12)]
    lists = [items(k, 3, b"\1" * 3 * n, b"l%d" % k) for k, n in enumerate((1, 1, 2, 2, 4, 4, 4, 1))]
    texts = [
        items(8, 3, text(b"one") + text("zwei ½".encode()) + text(b""), b"t"),
        text(b"s") + struct.pack("<I", 8) + text(b"a text"),
    ]
    align = [text(b"general.alignment") + struct.pack("<II", 4, 32)]
    records = [
        text(b"one") + struct.pack("<IQQIQ", 2, 64, 4, 0, 0),
        text(b"two") + struct.pack("<IQIQ", 1, 32, 1, 1024),
    ]
    head = header(*scalars, *wide, *lists, *texts, *align, tensors=records)
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + bytes(2048), len(head)


def test_the_rich_header_is_sound(tmp_path):
    (tmp_path / "x.gguf").write_bytes(rich()[0])
    meta, tensors = read_gguf(tmp_path / "x.gguf")
    assert len(meta) == 22
    assert meta["t"] == ["one", "zwei ½", ""]
    assert {n: t.shape for n, t in tensors.items()} == {"one": (4, 64), "two": (32,)}


@pytest.mark.fuzz
def test_mutated_headers_end_in_one_line(tmp_path, fuzz):
    data, end = rich()
    rng, path, worst, read = random.Random(0), tmp_path / "x.gguf", 0.0, 0
    for i in range(3000 * fuzz):
        path.write_bytes(bad := mutated(data, end, rng))
        start = time.perf_counter()
        try:
            meta, tensors = read_gguf(path)
            read += 1
            assert sum(t.data.nbytes for t in tensors.values()) <= len(bad)
        except CheckpointError as e:
            assert "\n" not in str(e)
            assert len(str(e)) < 700
        worst = max(worst, time.perf_counter() - start)
        path.unlink()
    assert 0 < read < 3000 * fuzz, "a deadline against hangs: most take a tenth of a millisecond"
    assert worst < 10, "a deadline against hangs: most take a tenth of a millisecond"


@pytest.mark.fuzz
def test_mutated_files_are_imported_or_refused(tmp_path, fuzz):
    "The whole way, tokenizer included; in a process whose memory is limited"
    write_gguf(tmp_path / "good.gguf", "Q8_0")
    cmd = [sys.executable, "-c", IMPORT, tmp_path, str(60 * fuzz)]
    done = subprocess.run(cmd, capture_output=True, text=True, timeout=120 + 20 * fuzz)
    assert done.returncode == 0, done.stderr[-2000:]
    imported, refused = map(int, done.stdout.split())
    assert refused > 10
    assert imported + refused == 60 * fuzz


IMPORT = (
    CHILD
    + """
import resource
folder, rng, made, refused = Path(sys.argv[1]), random.Random(1), 0, 0
resource.setrlimit(resource.RLIMIT_AS, (4 << 30,)*2)
good = (folder/"good.gguf").read_bytes()
end = good.index(b"output_norm.weight")
words = b"llama.", b"tokenizer.ggml.tokens", b"tokenizer.ggml.merges", b"token_type", b"bos_token_id", b"token_embd"
keys = [good.index(k) for k in words]
for i in range(int(sys.argv[2])):
    at = rng.choice(keys) # near a key, so that more than the vocabulary's letters are hit
    bad = good[:at] + mutated(good[at:at + 200], 200, rng) + good[at + 200:] if i % 2 else mutated(good, end, rng)
    (folder/"x.gguf").write_bytes(bad)
    try:
        import_gguf(folder/"x.gguf", folder/"x", on_progress=lambda done, total: None)
        made += 1
    except (CheckpointError, TokenizerError) as e:
        assert chr(10) not in str(e)
        refused += 1
print(made, refused)
"""
)


def test_arguments(tmp_path):
    for wrong in (None, 3, b"x", ""):
        with pytest.raises(ParameterError):
            read_gguf(wrong)
        with pytest.raises(ParameterError):
            import_gguf(tmp_path / "x", wrong)


@pytest.mark.parametrize("bos", ["a b", "a:0", "$A"])
def test_any_token_may_begin_a_text(tmp_path, bos):
    "Whatever it means in the language of templates"
    tokens = [tiny_tokenizer().id_to_token(i) for i in range(512)]
    tokens[1] = bos
    path = write_gguf(tmp_path / "x.gguf", **{"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.add_bos_token": True})
    folder = import_gguf(path, tmp_path / "x", on_progress=lambda done, total: None)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("Hello").ids[0] == 1
