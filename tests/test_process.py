"The command and the package as other processes see them"

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMOLLM = str(Path(sys.executable).with_name("smollm"))


def run(*args, input=b"", **kw):
    "The `smollm` command in a process of its own"
    return subprocess.run([SMOLLM, *args], input=input, capture_output=True, **kw)


def test_stdin_is_read_exactly(tiny_folder):
    out = run("tokenize", "-", "--model", str(tiny_folder), "--json", input="\r\n a\r\n\n".encode())
    assert "".join(json.loads(out.stdout)["pieces"]) == "\r\n a\r\n\n"


def test_json_is_alone_on_stdout(tiny_folder):
    out = run("generate", "Hi", "--model", str(tiny_folder), "--max-tokens", "3", "--json")
    assert len(json.loads(out.stdout)["ids"]) == 3
    assert out.stdout.count(b"\n") == 1


def test_wrong_usage_and_failure_have_their_codes(tmp_path):
    assert run("generate").returncode == 2
    assert run("registry", "no-such-model").returncode == 1
    out = run("validate", str(tmp_path / "nowhere"))
    assert out.returncode == 1
    assert b"no such folder" in out.stdout
    assert b"Traceback" not in out.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_keeps_the_answer_and_exits_130(tmp_path):
    from smollm_nb.core import LlamaConfig
    from smollm_nb.models.tiny import TINY, write_tiny

    slow = LlamaConfig(**{**TINY.__dict__, "max_position_embeddings": 100_000, "eos_token_ids": ()})
    folder = write_tiny(tmp_path / "slow", slow)
    p = subprocess.Popen(
        [SMOLLM, "generate", "Hi", "--model", str(folder), "--max-tokens", "90000", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert p.stdout.read(8), "it streams"
    p.send_signal(signal.SIGINT)
    start = time.perf_counter()
    out, err = p.communicate(timeout=20)
    assert p.returncode == 130, err
    assert b"cancelled" in err, err
    assert b"Traceback" not in err, err
    assert time.perf_counter() - start < 15


HEAVY = ("torch", "transformers", "matplotlib", "huggingface_hub", "gguf", "ipywidgets")
LIGHT = (
    "core models.registry models.checkpoint models.gguf models.hub text.tokenizer text.chat inference.generation "
    "engine.formats engine.q4file engine.build engine.native browser.vendor browser.bundle browser.serve api "
    "bench.worker bench.bench bench.history bench.llama_cpp cli.output cli.demo cli.commands"
)


@pytest.mark.parametrize("module", LIGHT.split())
def test_imports_stay_light(module):
    "Nothing but the model itself waits for PyTorch"
    code = f"import sys, smollm_nb.{module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (p.returncode, p.stdout.strip()) == (0, "[]"), p.stderr


def test_model_is_there_at_the_top():
    code = (
        "import sys, smollm_nb; assert 'smollm_nb.api' not in sys.modules; "
        "from smollm_nb import Model; print(Model('SmolLM-135M'), smollm_nb.__version__)"
    )
    assert (
        "not loaded" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
    import smollm_nb

    with pytest.raises(AttributeError, match="no attribute"):
        smollm_nb.Modle


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_serve_says_where_and_ends_with_a_word_and_130(tmp_path):
    import urllib.request

    (tmp_path / "index.html").write_text("<h1>hello</h1>")
    p = subprocess.Popen(
        [SMOLLM, "serve", str(tmp_path), "--port", "0", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    url = json.loads(p.stdout.readline())["url"]
    with urllib.request.urlopen(url, timeout=10) as r:
        assert r.read() == b"<h1>hello</h1>"
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=20)
    assert (p.returncode, out) == (130, b""), err
    assert b"ended" in err, err
    assert b"Traceback" not in err, err


POSIX = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
CLOSED = "closed: send it to a file or to the null device"


def redirected(redirect, *args, **env):
    "The `smollm` command with its streams redirected by a shell, and what is said of failures"
    cmd = ["sh", "-c", f'exec "$0" "$@" {redirect}', SMOLLM, *args]
    out = subprocess.run(cmd, capture_output=True, stdin=subprocess.DEVNULL, env=os.environ | env, timeout=120)
    err = out.stderr.decode(errors="replace")
    assert "Traceback" not in err, err
    assert "Exception ignored" not in err, err
    return out, [line for line in err.splitlines() if line.startswith("smollm: ")]


@POSIX
@pytest.mark.parametrize(
    "redirect, why",
    [(">/dev/full", "No space left on device"), (">&-", CLOSED), ("1</dev/null", "Bad file descriptor")],
)
def test_an_output_that_takes_nothing_is_one_line(tiny_q4, tmp_path, redirect, why):
    if "/dev/full" in redirect and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "index.html").write_text("")
    answer = ("generate", "Hello", "--max-tokens", "5", "--model", str(tiny_q4))
    site, names = ("serve", str(tmp_path), "--port", "0"), ("registry",)
    for args in (("--help",), *((*command, *more) for command in (names, answer, site) for more in ((), ("--json",)))):
        out, said = redirected(redirect, *args)
        assert (out.returncode, out.stdout, len(said)) == (1, b"", 1), (args, said, out.stderr)
        assert why in said[0], (args, said, out.stderr)


@POSIX
@pytest.mark.parametrize(
    "args, read",
    [
        (["registry"], 0),
        (["registry", "--json"], 0),
        (["--help"], 0),
        (["generate", "Hello", "--max-tokens", "200", "--model"], 1),
    ],
)
def test_a_reader_that_has_seen_enough(tiny_folder, args, read):
    "The other end of a pipe is closed: before anything is written, or in mid-answer"
    model = [str(tiny_folder)] if args[-1] == "--model" else []
    p = subprocess.Popen([SMOLLM, *args, *model], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert len(p.stdout.read(read)) == read
    p.stdout.close()
    err = p.stderr.read()
    assert p.wait(120) == 1, err
    assert b"Broken pipe" in err, err
    assert b"Traceback" not in err, err
    assert err.count(b"smollm: ") == 1, err


@POSIX
@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "2</dev/null", "<&-", "<&- 2>&-"])
def test_notes_that_nobody_can_read_stop_nothing(tiny_folder, tiny_q4, redirect):
    "The answer is given and the exit code is right all the same; progress bars are such notes"
    if "/dev/full" in redirect and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    out, _ = redirected(redirect, "generate", "Hi", "--max-tokens", "3", "--model", str(tiny_q4))
    assert out.returncode == 0
    assert out.stdout
    assert redirected(redirect, "registry", "no-such-model")[0].returncode == 1
    if redirect != "2>&-":
        return  # one command with bars is enough
    out, _ = redirected(
        redirect, "eval", "--model", str(tiny_q4), "--reference", str(tiny_folder), "--tokens", "64", "--json"
    )
    assert out.returncode == 0
    assert json.loads(out.stdout)["kl_mean"] > 0


@POSIX
def test_a_standard_input_that_cannot_be_read(tiny_folder):
    for redirect, why in (("<&-", "standard input is closed"), ("0>/dev/null", "standard input cannot be read")):
        out, said = redirected(redirect, "tokenize", "-", "--model", str(tiny_folder))
        assert out.returncode == 1, out
        assert len(said) == 1, out
        assert why in said[0], out


ENCODINGS = [dict(PYTHONIOENCODING=e) for e in ("cp1252", "ascii", "utf-16", "ascii:backslashreplace")]
C_LOCALE = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


@pytest.mark.parametrize("env", [*ENCODINGS, C_LOCALE, dict(PYTHONIOENCODING="cp1252", PYTHONUNBUFFERED="1")])
def test_json_is_utf8_whatever_the_locale(tiny_folder, env):
    "What an encoding lacks is replaced for people, and exact for scripts"
    text, args, env = "naïve → 日本 😀", ("tokenize", "-", "--model", str(tiny_folder)), os.environ | env
    for_scripts, for_people = (run(*args, *more, input=text.encode(), env=env) for more in (["--json"], []))
    assert (for_scripts.returncode, for_people.returncode) == (0, 0)
    assert b"Traceback" not in for_people.stderr
    pieces = json.loads(for_scripts.stdout.decode("utf-8"))["pieces"]
    # unfinished characters are written \xNN
    assert "".join(pieces).encode().decode("unicode_escape").encode("latin-1").decode() == text


def test_a_table_in_ascii(tiny_folder, tiny_q4):
    "Neither the figures nor the bars of this command are ASCII"
    out = run(
        "eval", "--model", str(tiny_q4), "--reference", str(tiny_folder), "--tokens", "600", env=os.environ | C_LOCALE
    )
    assert out.returncode == 0
    assert b"Traceback" not in out.stderr
    assert b" ? " in out.stdout
    assert out.stdout.isascii()


def test_main_in_this_process(monkeypatch, tmp_path):
    "What the script calls: streams that fail, and a fault of the package, as one line each"
    from smollm_nb.cli import commands as cli

    monkeypatch.chdir(tmp_path)

    def call(*argv, out=None):
        streams = {name: open(tmp_path / name, "w", encoding="ascii") for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)
        if out:
            monkeypatch.setattr(sys, "stdout", None)
        monkeypatch.setattr(sys, "argv", ["smollm", *argv])
        with pytest.raises(SystemExit) as e:
            cli.main()
        if not out:
            sys.stdout.flush()
        sys.stderr.flush()
        return e.value.code, (tmp_path / "stdout").read_text(), (tmp_path / "stderr").read_text()

    code, out, err = call("registry", "SmolLM-135M")
    assert code == 0
    assert "134515008" in out
    assert not err
    assert call("registry", out="closed") == (1, "", f"smollm: standard output is {CLOSED}\n")

    def fault(self):
        raise TypeError("a\nmistake")

    monkeypatch.setattr(cli.ModelRegistry, "rows", fault)
    code, out, err = call("registry")
    assert code == 1
    assert out == ""
    assert err.startswith("smollm: TypeError: a mistake. This is a fault of smollm; SMOLLM_TRACEBACK=1")
    assert err.count("\n") == 1
    monkeypatch.setattr(sys, "argv", ["smollm", "registry"])
    monkeypatch.setenv("SMOLLM_TRACEBACK", "1")
    with pytest.raises(TypeError):
        cli.main()


@POSIX
def test_modules_in_the_current_folder_are_not_run(tiny_q4, tmp_path):
    "A folder that somebody else filled: no module of that name there is imported"
    for name in ("json", "numpy", "torch", "typer", "tokenizers", "tqdm", "smollm_nb", "random", "socket"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run from the current folder')")
    # an empty entry would mean the current folder
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    here = str(Path(__file__).parent.parent)
    for args in (("registry",), ("generate", "Hi", "--max-tokens", "2", "--model", str(tiny_q4))):
        out = run(*args, cwd=tmp_path, env=env | dict(PYTHONPATH=here))
        assert out.returncode == 0, out.stderr
        assert b"current folder" not in out.stderr, out.stderr


def wait_until_it_reads(p):
    "Until a process has taken all that its standard input has, so that it is in the middle of its work"
    import fcntl
    import termios

    p.stdin.write(b"x")
    p.stdin.flush()
    for _ in range(6000):
        if not int.from_bytes(fcntl.ioctl(p.stdin, termios.FIONREAD, bytes(4)), sys.byteorder):
            return
        time.sleep(0.01)


@POSIX
def test_ctrl_c_while_working_is_130(tiny_folder, tmp_path):
    "Any command that is interrupted says so in one line"
    p = subprocess.Popen(
        [SMOLLM, "tokenize", "-", "--json", "--model", str(tiny_folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until_it_reads(p)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert (p.returncode, err) == (130, b"smollm: cancelled\n")
    assert json.loads(out) == dict(error="cancelled", type="Cancelled")


WRITER = """import sys
from smollm_nb.bench.history import append
figure = dict(case="decode", runner=sys.argv[2], threads=1, peer=False, unit="ms", median=1.0, min=1.0, max=1.0)
figure["samples"] = [1.0]*3000 # a line of many blocks
machine = dict(cpu="x", cores=1, system="y")
for i in range(int(sys.argv[3])):
    run = dict(date=str(i), rounds=1, cancelled=False, machine=machine, subjects=[], results=[figure], ratios=[])
    append(sys.argv[1], run)
    print(i, flush=True)
"""


def test_benchmarks_that_note_at_once_or_are_killed(tmp_path):
    "Every run that was noted is found again; at most the one that a killed process was writing is lost"
    from smollm_nb.bench.history import append, read_history

    history = tmp_path / "bench.jsonl"

    def start(name, n):
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, str(history), name, str(n)], stdout=subprocess.PIPE, text=True
        )

    both = [start(name, 40) for name in "ab"]
    for p in both:
        assert p.communicate(timeout=120)
        assert p.returncode == 0

    def who():
        return [r["results"][0]["runner"] for r in read_history(history)]

    assert sorted(who()) == ["a"] * 40 + ["b"] * 40
    p = start("killed", 100_000)
    for _ in range(5):
        p.stdout.readline()
    p.kill()
    noted = 5 + len(p.communicate()[0].splitlines())
    raw = history.read_bytes()
    history.write_bytes(raw[:-7])  # as a disk may keep it
    append(history, json.loads(raw.split(b"\n")[0]))
    with pytest.warns(UserWarning, match="not a run, skipped"):
        found = who()
    assert noted - 1 <= found.count("killed") <= noted + 1
    assert found[-1] in "ab"
