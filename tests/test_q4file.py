"A SMOLLM_Q4 file under fire: whatever its bytes are, it reads as what was written or is refused in one line"

import copy
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from smollm_nb.core import LlamaConfig, QuantFileError, peak_rss_bytes
from smollm_nb.engine.formats import Format, Quantized, pack, round_scales, unpack
from smollm_nb.engine.q4file import HEAD, MAGIC, MAX_HEADER, aligned, describe, read_q4, write_q4

CONFIG = LlamaConfig(
    vocab_size=32,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=16,
)
RECIPE, SOURCE = (
    dict(name="random", bits=[4, 8], kl=0.5, nested=dict(a=None)),
    dict(id="nowhere", sha256=None, note="größer"),
)


def packed(fmt, rows, cols, seed):
    "Random codes and scales in any format"
    rng, f = np.random.default_rng(seed), Format.parse(fmt)
    if f.kind == "float":
        return pack(Quantized(f, rng.standard_normal((rows, cols)).astype(f"f{f.bits // 8}")))
    codes = (
        rng.integers(-127, 128, (rows, cols)).astype(np.int8)
        if f.kind == "int8"
        else rng.integers(0, 16, (rows, cols)).astype(np.uint8)
    )
    scales, minima = rng.uniform(0.001, 0.01, (2, rows, f.groups(cols)))
    return pack(
        Quantized(
            f,
            codes,
            round_scales(scales, f.scale),
            round_scales(minima, "f16") if f.kind == "asym" else None,
            rng.integers(-127, 128, 16).astype(np.int8) if f.kind == "book" else None,
        )
    )


def tensors(seed=0, formats=("int4-book-g32-log8", "int4-asym-g32-f16", "int8-g32-f16", "f16")):
    "A tensor of every shape and format"
    for i, (name, shape) in enumerate(CONFIG.tensor_shapes().items()):
        rows, cols = shape if len(shape) == 2 else (1, shape[0])
        cuts = (
            {(0, 5): "int8-row-f32", (5, rows): formats[0]}
            if "embed" in name
            else {(0, rows): formats[i % len(formats)] if len(shape) == 2 else "f32"}
        )
        yield name, shape, [(r, Format.parse(f), packed(f, r[1] - r[0], cols, seed + i)) for r, f in cuts.items()]


@pytest.fixture(scope="module")
def spot(tmp_path_factory):
    "A sound file's bytes, and a place to put broken ones"
    folder = tmp_path_factory.mktemp("q4")
    good = write_q4(folder / "good.bin", CONFIG, tensors(), RECIPE, SOURCE)
    return good.read_bytes(), folder / "bad.bin"


def attempt(path, data, verify=True):
    "The tensors of these bytes as a file, or the message they are refused with; any other error is a failure"
    path.unlink(missing_ok=True)  # a new file is written ten times as fast as an old one is replaced
    path.write_bytes(data)
    try:
        with read_q4(path, verify) as q:
            return {n: (q.parts(n), q.tensor(n)) for n in q.names()}
    except QuantFileError as e:
        message = str(e)
        assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 310
        return message


GOOD = {
    name: np.concatenate([unpack(f, a, r[1] - r[0], shape[-1]).dequantize() for r, f, a in parts]).reshape(shape)
    for name, shape, parts in tensors()
}


def is_good(out):
    "Whether what was read is what was written"
    return out.keys() == GOOD.keys() and all((out[n][1] == GOOD[n]).all() for n in GOOD)


def split(data):
    "A sound file's header as a record, and its parts"
    n = HEAD.unpack_from(data)[2]
    return json.loads(data[HEAD.size : HEAD.size + n]), data[aligned(HEAD.size + n) :]


def joined(raw, body):
    "A file of this header, correctly hashed and padded"
    return (HEAD.pack(MAGIC, 1, len(raw), hashlib.sha256(raw).digest()) + raw).ljust(
        aligned(HEAD.size + len(raw)), b"\0"
    ) + body


FUZZ = int(os.environ.get("SMOLLM_FUZZ", "1"))
fuzz = settings(max_examples=1500 * FUZZ, suppress_health_check=[HealthCheck.too_slow], database=None)
where = st.one_of(st.integers(0, 60), st.integers(0, 1 << 14))  # the first bytes more often
raw_bytes = st.binary(min_size=1, max_size=80)
damage = st.one_of(
    st.tuples(st.just("flip"), where, st.integers(1, 255)),
    st.tuples(st.just("cut"), where, st.none()),
    st.tuples(st.just("insert"), where, raw_bytes),
    st.tuples(st.just("overwrite"), where, raw_bytes),
    st.tuples(st.just("copy"), where, where),
    st.tuples(st.just("delete"), where, st.integers(1, 200)),
)


def damaged(data, kind, at, what):
    "One damage done to a file's bytes"
    at %= len(data) + (kind == "insert")  # also behind the last byte
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ what]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "insert":
        return data[:at] + what + data[at:]
    if kind == "overwrite":
        return data[:at] + what + data[at + len(what) :]
    if kind == "copy":
        return data[:at] + data[what % len(data) :][:64] + data[at + 64 :]
    return data[:at] + data[at + what :]


@pytest.mark.fuzz
@fuzz
@given(st.lists(damage, min_size=1, max_size=3))
def test_any_damage_is_noticed(spot, steps):
    data, path = spot
    bad = data
    for step in steps:
        bad = damaged(bad or b"\0", *step)
    out = attempt(path, bad)
    if bad == data:
        assert is_good(out)
    else:
        assert isinstance(out, str), "one changed bit anywhere is enough"


def test_every_byte_counts(spot):
    """A bit of each byte before the parts is flipped, and the structure shows it;
    of every third byte of the parts, and the hashes show it"""
    data, path = spot
    start = len(data) - len(split(data)[1])
    for at in [*range(start), *range(start, len(data), 3)]:
        assert isinstance(attempt(path, damaged(data, "flip", at, 1 << at % 8), verify=at >= start), str), at
    for n in [1, 63, 64, 4096]:
        assert "something was added" in attempt(path, data + bytes(n), verify=False)
        assert "cut short" in attempt(path, data[:-n], verify=False)


def paths(v, at=()):
    "Every place in a JSON value"
    yield at
    for k, x in v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else ():
        yield from paths(x, (*at, k))


odd = st.one_of(
    st.integers(-2, 70),
    st.sampled_from(
        [
            1 << 24,
            (1 << 24) + 1,
            1 << 31,
            1 << 32,
            1 << 63,
            (1 << 64) - 1,
            1 << 70,
            -(1 << 63),
            10**400,
            32,
            32.0,
            1e308,
            0.5,
            -0.0,
            True,
            False,
            None,
            "",
            "f32",
            "f16",
            "int8-row-f32",
            "int8-row-f32 ",
            "int4-book-g32-log8",
            "int4-sym-g032-f16",
            "int8-g٦٤-f16",
            "int8-g" + "9" * 5000 + "-f16",
            "model.norm.weight",
            "lm_head.weight",
            "0" * 64,
            "\ud800",
            "\n",
            "x" * 2000,
        ]
    ),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-1, 40), max_size=3),
    st.just({}),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@pytest.fixture(scope="module")
def roomy(spot):
    "The same file with 600 blanks behind its JSON, so that a header can grow and offsets stay right"
    header, body = split(spot[0])
    start = aligned(HEAD.size + len(json.dumps(header)) + 600)
    for p in (p for e in header["tensors"] for p in e["parts"]):
        p["offset"] += start - (len(spot[0]) - len(body))
    return header, start - HEAD.size, body, spot[1]


def test_blanks_do_no_harm(roomy):
    header, room, body, path = roomy
    assert is_good(attempt(path, joined(json.dumps(header).encode().ljust(room), body)))


def mutated(header, draw):
    "The header with one value replaced, removed or copied"
    header = at = copy.deepcopy(header)
    place = draw(st.sampled_from([p for p in paths(header) if p]))
    for k in place[:-1]:
        at = at[k]
    what = draw(st.sampled_from(["put", "put", "put", "remove", "copy"]))
    if what == "put":
        at[place[-1]] = copy.deepcopy(draw(odd))
    elif what == "remove":
        del at[place[-1]]
    elif isinstance(at, list):
        at.insert(place[-1], copy.deepcopy(at[place[-1]]))
    else:
        at[place[-1] + draw(st.text(max_size=2))] = at[place[-1]]
    return header


@pytest.mark.fuzz
@fuzz
@given(st.data())
def test_any_header_is_refused_or_harmless(roomy, data):
    "Values of the header replaced, removed or copied, under a correct hash"
    header, room, body, path = roomy
    for _ in range(data.draw(st.integers(1, 2))):
        header = mutated(header, data.draw)
    out = attempt(path, joined(json.dumps(header).encode().ljust(room), body))
    if not isinstance(out, str):
        assert is_good(out), "what is read has the shapes, formats and bytes that were written"


@pytest.mark.fuzz
@fuzz
@given(
    raw=st.binary(max_size=400),
    version=st.sampled_from([1, 1, 1, 0, 2, 255]),
    length=st.one_of(st.none(), st.integers(0, 500), st.integers(0, (1 << 64) - 1)),
    honest=st.booleans(),
)
@example(raw=b"", version=1, length=0, honest=True)
def test_any_bytes_behind_the_magic(spot, raw, version, length, honest):
    n = len(raw) if length is None else length
    digest = hashlib.sha256(raw[:n]).digest() if honest else raw[:32].ljust(32, b"\0")
    assert isinstance(attempt(spot[1], HEAD.pack(MAGIC, version, n, digest) + raw), str)
    assert isinstance(attempt(spot[1], MAGIC + raw), str)


json_text = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda x: st.one_of(
        st.lists(x, max_size=4),
        st.dictionaries(
            st.sampled_from(["config", "recipe", "source", "tool", "format", "tensors", "name", "a"]), x, max_size=6
        ),
    ),
    max_leaves=12,
)


@pytest.mark.fuzz
@settings(fuzz, max_examples=600 * FUZZ)
@given(json_text)
def test_any_json_as_a_header(spot, value):
    assert isinstance(attempt(spot[1], joined(json.dumps(value).encode(), b"")), str)


def bombs():
    "Headers of the largest size that is read, made to cost as much as they can"

    def fill(start, item, end=b""):
        return start + item * ((MAX_HEADER - len(start) - len(end)) // len(item)) + end

    def facts(layers):
        return (
            b'{"recipe":{},"source":{},"tool":"","format":"","config":%s,"tensors":['
            % json.dumps(CONFIG.to_dict() | dict(num_hidden_layers=layers)).encode()
        )

    for item in (b"[],", b'{"a":1},', b'{"name":"","shape":[],"parts":[]},'):
        yield fill(facts(1), item, b"0]}")
    for layers in (4096, 100_000, 1 << 24):
        yield fill(facts(layers), b'"%s",' % (b"x" * 126), b"0]}")
    yield fill(facts(1) + b'{"name":"model.embed_tokens.weight","shape":[32,32],"parts":[', b"{},", b"0]}]}")
    yield fill(b"[", b"[[[[[[[[]]]]]]]],", b"0]")
    yield fill(b"[", b"1234567890" * 400 + b",", b"0]")
    yield fill(b"[", b"1e999,", b"0]")
    yield fill(b'["', b"\\ud800", b'"]')
    for item in (b"[", b'{"a":', b"1", b'\\"'):
        yield fill(b"", item)


def test_no_header_takes_much_memory_or_time(spot):
    worst = peak = 0
    for i, raw in enumerate(bombs()):
        assert len(raw) <= MAX_HEADER
        start = time.perf_counter()
        assert isinstance(attempt(spot[1], joined(raw, b"")), str)
        worst = max(worst, time.perf_counter() - start)
        if i in (0, 1, 3):  # slow under the eyes of tracemalloc
            tracemalloc.start()
            with pytest.raises(QuantFileError):
                read_q4(spot[1])
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    print(f"slowest refusal {1e3 * worst:.0f} ms, most memory {peak / 1e6:.0f} MB")
    assert peak < 100e6


def test_length_is_believed_only_after_a_look(spot):
    "A header of ten gigabytes, in a file that has them (sparse), costs nothing"
    with open(spot[1], "wb") as f:
        f.write(HEAD.pack(MAGIC, 1, 10**10, bytes(32)))
        f.truncate(2 * 10**10)
    before = peak_rss_bytes()
    with pytest.raises(QuantFileError, match="header length"):
        read_q4(spot[1])
    spot[1].write_bytes(spot[0])
    with open(spot[1], "r+b") as f:
        f.truncate(10**12)
    with pytest.raises(QuantFileError, match="something was added"):
        read_q4(spot[1])
    spot[1].unlink()
    assert peak_rss_bytes() - before < 20e6


def test_odd_places(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(QuantFileError, match=str(path)):
            read_q4(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        # opening it would wait for ever
        with pytest.raises(QuantFileError, match="not a file"):
            read_q4(tmp_path / "pipe")
    if os.name != "nt":
        with pytest.raises(QuantFileError, match="not a file"):
            read_q4("/dev/zero")


@pytest.mark.parametrize(
    "fmt",
    [
        "f32",
        "f16",
        "int8-row-f32",
        "int8-g32-f16",
        "int8-g64-log8",
        "int4-sym-g32-f16",
        "int4-asym-g128-f16",
        "int4-book-g32-log8",
        "int4-book-g128-f16",
    ],
)
def test_every_format_comes_back(tmp_path, fmt):
    want = list(tensors(3, (fmt,)))
    path = write_q4(tmp_path / "x.bin", CONFIG, iter(want), {}, {})
    with read_q4(path) as q:
        for name, shape, parts in want:
            assert [(p.rows, p.format) for p in q.parts(name)] == [(r, f) for r, f, _ in parts]
            assert all((p.data == a).all() for p, (_, _, a) in zip(q.parts(name), parts))
    assert fmt in {f["format"] for f in describe(path)["formats"]}


def test_tensors_are_taken_one_at_a_time(tmp_path):
    "The writer holds one tensor, not the model"
    config = LlamaConfig(
        **{**CONFIG.__dict__, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 12, "head_dim": 256}
    )

    def stream():
        for name, shape in config.tensor_shapes().items():
            rows, cols = shape if len(shape) == 2 else (1, shape[0])
            yield name, shape, [((0, rows), Format.parse("f32"), np.ones(rows * cols, np.float32).view(np.uint8))]

    tracemalloc.start()
    path = write_q4(tmp_path / "x.bin", config, stream(), {}, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 100e6 and peak < 10e6
    tracemalloc.start()
    with read_q4(path) as q:
        assert q.tensor("model.norm.weight").sum() == 512
    assert tracemalloc.get_traced_memory()[1] < 3e6
    tracemalloc.stop()


def test_an_error_of_the_quantizer_passes_and_leaves_nothing(tmp_path):
    def stream():
        yield next(tensors())
        raise OSError("the checkpoint went away")

    (tmp_path / "x.bin").write_bytes(b"old")
    with pytest.raises(OSError, match="went away"):
        write_q4(tmp_path / "x.bin", CONFIG, stream(), {}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"] and (tmp_path / "x.bin").read_bytes() == b"old"


CHILD = f"""
import sys, time, resource
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_q4file import *
"""


def child(code, *args, **kw):
    "Python in a process of its own, this file's names at hand"
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kw,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="nameless temporary files")
def test_a_killed_writer_leaves_nothing(tmp_path):
    p = child(
        """
def slow():
    for i, t in enumerate(tensors()):
        if i == 5: print("half", flush=True); time.sleep(60)
        yield t
write_q4(sys.argv[1], CONFIG, slow(), {}, {})
""",
        tmp_path / "x.bin",
    )
    assert p.stdout.readline() == "half\n"
    p.send_signal(signal.SIGKILL)
    p.communicate(timeout=20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="limits on file sizes")
@pytest.mark.parametrize("room", [0, 3000, 9000])
def test_a_full_disk(tmp_path, spot, room):
    "While the parts are written, and while the file is put together"
    assert len(split(spot[0])[1]) < 9000 < len(spot[0])
    p = child(
        """
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),)*2)
try: write_q4(sys.argv[1], CONFIG, tensors(), {}, {})
except QuantFileError as e: print(e)
""",
        tmp_path / "x.bin",
        room,
    )
    out, err = p.communicate(timeout=60)
    assert (
        not err and out.startswith(f"{tmp_path / 'x.bin'}: cannot be written (File too large)") and out.count("\n") == 1
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_without_rights(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(QuantFileError, match="cannot be written"):
        write_q4(tmp_path / "x.bin", CONFIG, tensors(), {}, {})
    tmp_path.chmod(0o700)


def test_readers_see_one_file_or_the_other(tmp_path):
    "Two writers replace a file while it is read; who mapped an old one keeps it"
    path, seen, stop = write_q4(tmp_path / "x.bin", CONFIG, tensors(0), {}, {}), set(), threading.Event()
    first = read_q4(path)

    def write(seed):
        while not stop.is_set():
            write_q4(path, CONFIG, tensors(seed), {}, {})

    writers = [threading.Thread(target=write, args=(s,)) for s in (0, 50)]
    for w in writers:
        w.start()
    for _ in range(100):
        with read_q4(path) as q:
            seen.add(q.file_sha256)
    stop.set()
    for w in writers:
        w.join()
    assert len(seen) <= 2 and first.file_sha256 in seen
    assert (first.tensor("model.embed_tokens.weight") == GOOD["model.embed_tokens.weight"]).all()
    first.close()
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
