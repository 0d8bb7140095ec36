"The command with hostile arguments, in this process: one line and a code, whatever is named"

import json
import random
import shutil
import time

import pytest
from typer.testing import CliRunner

from smollm_nb.cli.commands import app


@pytest.fixture(scope="module")
def places(tiny_folder, tiny_q4, tmp_path_factory):
    "Sound models, and things that are none"
    d, junk = tmp_path_factory.mktemp("places"), random.Random(1).randbytes(5000)
    (d / "folder.gguf").mkdir()
    (d / "empty folder").mkdir()
    for name, data in {
        "empty.bin": b"",
        "junk.bin": junk,
        "cut.gguf": b"GGUF",
        "junk.txt": junk,
        "empty.txt": b"",
        "prose.txt": b"The quick brown fox. " * 200,
    }.items():
        (d / name).write_bytes(data)
    damage = {
        "config": ("config.json", b"{"),
        "tokenizer": ("tokenizer.json", junk),
        "weights": ("model.safetensors", junk),
        "record": ("provenance.json", b"[]"),
        "record of files": ("provenance.json", b'{"files": "x", "note": [1], "source": NaN}'),
        "index": ("model.safetensors.index.json", b'{"weight_map": {"x": "no-such-file"}}'),
    }
    for what, (name, data) in damage.items():
        broken = d / f"broken {what}"
        shutil.copytree(tiny_folder, broken)
        if not what.startswith("record"):
            (broken / "provenance.json").unlink()
        (broken / name).write_bytes(data)
    shutil.copytree(tiny_q4.parent, d / "cut")
    (d / "cut" / tiny_q4.name).write_bytes(tiny_q4.read_bytes()[:9000])
    (d / "alone").mkdir()
    shutil.copy(tiny_q4, d / "alone")
    for name in ("config.json", "index.html", "tokenizer.json", "model.safetensors", "model_q4.bin"):
        (d / "folders" / name).mkdir(parents=True)
    damaged = [
        *sorted(d.iterdir()),
        *sorted((d / "folders").iterdir()),
        d / "cut" / tiny_q4.name,
        d / "alone" / tiny_q4.name,
    ]
    found = [str(p) for p in (tiny_folder, tiny_q4, tiny_q4.parent, *damaged, d / "missing")]
    return [
        *found,
        "",
        "-",
        ".",
        "/",
        "/dev/null",
        "/dev/full",
        "~nobody/x",
        "two\nlines",
        "a\0b",
        "x" * 5000,
        "no/such",
        "no-such",
        "SmolLM-153M",
        "é\udcff",
    ]


TEXTS = ["", "-", "Hello", "<|im_end|>", "\udcff", "a\0b", "two\nlines", "😀" * 50, "x " * 20_000]
NUMBERS = ["0", "1", "5", "-1", "64", "1.5", "nan", "inf", "-inf", "1e400", "9" * 25, "x", "", "0x10", "٣"]
COMMANDS = {
    "download": ["PLACE"],
    "validate": ["PLACE"],
    "info": ["PLACE"],
    "registry": ["PLACE"],
    "tokenize": ["TEXT", "--model", "PLACE"],
    "generate": ["TEXT", "--max-tokens", "NUMBER", "--model", "PLACE"],
    "export-wasm": ["--recipe", "minmax-g128", "--model", "PLACE", "--output", "NEW"],
    "export-gguf": ["--type", "f16", "--model", "PLACE", "--output", "NEW"],
    "quantize": ["--recipe", "minmax-g128", "--model-path", "PLACE", "--output-path", "NEW"],
    "eval": ["--reference", "PLACE", "--model", "PLACE", "--tokens", "64"],
    "serve": ["PLACE", "--host", "NUMBER"],
}
MORE = {
    "generate": [
        "--temperature",
        "--top-k",
        "--top-p",
        "--min-p",
        "--repetition-penalty",
        "--seed",
        "--threads",
        "--overflow",
        "--backend",
        "--device",
        "--dtype",
        "--stop",
    ],
    "export-gguf": ["--text"],
    "export-wasm": ["--measured"],
    "quantize": ["--text", "--budget", "--format"],
    "eval": ["--text", "--threads", "--backend"],
    "tokenize": ["--special"],
    "serve": ["--frame-ancestors"],
}
FLAGS = {"--special", "--chat"}
RARE = {"quantize", "eval", "export-wasm"}  # they take half a second where they succeed


@pytest.mark.fuzz
def test_hostile_command_lines(places, tmp_path, fuzz, monkeypatch):
    "No traceback, one line for a failure, strict JSON alone on standard output, in bounded time"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    rng, codes, runner = random.Random(23), [], CliRunner()

    def value(kind):
        # the first are sound
        if kind == "PLACE":
            return rng.choice(places[:3] if rng.random() < 0.5 else places)
        if kind == "TEXT":
            return rng.choice(TEXTS)
        if kind == "NUMBER":
            return rng.choice(NUMBERS)
        return str(tmp_path / f"new{len(codes)}") if kind == "NEW" else kind

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    for _ in range(120 * fuzz):
        name = rng.choice(list(COMMANDS))
        if name in RARE and rng.random() < 0.7:
            continue
        args = [name, *map(value, COMMANDS[name])]
        for option in rng.sample(MORE.get(name, []), min(rng.randrange(3), len(MORE.get(name, [])))):
            args += [option] if option in FLAGS else [option, value(rng.choice(["PLACE", "NUMBER", "TEXT"]))]
        args += ["--json"] * (rng.random() < 0.5)
        start = time.perf_counter()
        r = runner.invoke(app, args, input=rng.choice([b"", b"Hello", b"\xff"]))
        assert time.perf_counter() - start < 300, args  # a guard against what never ends
        assert r.exception is None or isinstance(r.exception, SystemExit), (args, r.exception)
        assert r.exit_code in (0, 1, 2), (args, r.exit_code)
        codes.append(r.exit_code)
        said = [line for line in r.stderr.splitlines() if line.startswith("smollm: ")]
        if r.exit_code == 1 and name != "validate":
            assert len(said) == 1, (args, r.stderr)
        if r.exit_code != 2 and args[-1] == "--json":
            record = json.loads(r.stdout, parse_constant=refuse)
            assert r.stdout.count("\n") == 1, (args, r.stdout)
            if r.exit_code == 1 and name != "validate":
                assert record["error"].encode("utf-8", "backslashreplace").decode() in said[0], (args, r.stdout)
    assert min(map(codes.count, (0, 1, 2))) > len(codes) // 40, "each kind of end is there"
