"The kernel compiled for every system, run under sanitizers and under an emulated ARM processor"

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smollm_nb.engine import build as kernel
from smollm_nb.engine import native as engine
from smollm_nb.engine.q4file import read_q4

DRIVE = Path(__file__).parent / "c" / "drive.c"
SOURCES = [*sorted(map(str, kernel.CSRC.glob("*.c"))), str(DRIVE)]
FLAGS = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wno-psabi",
    "-DSMOLLM_THREADS",
    f"-I{kernel.CSRC}",
]
SEEDS, CALLS, RANDOM = (1, 2, 3), 120, "-"  # RANDOM: the driver makes up models of its own
_ZIG, _ARM = [sys.executable, "-m", "ziglang", "cc"], ["-target", "aarch64-linux-musl", "-mcpu=generic", "-O2"]
_CLANG, _ADDRESS = ["clang", "-g", "-O1", "-lpthread"], ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# name → how drive.c and the kernel are compiled; for ARM all is linked in, so that an emulator needs no library
DRIVERS = dict(
    plain=[*_ZIG, *kernel.FAST],
    address=[*_CLANG, "-march=x86-64", *_ADDRESS],
    address_avx2=[*_CLANG, "-march=x86-64-v3", *_ADDRESS],
    address_tiles=[*_CLANG, "-march=x86-64-v3", "-DSMOLLM_EMULATE", "-DSMOLLM_EMULATE_TILES", *_ADDRESS],
    thread=[*_CLANG, "-march=x86-64-v2", "-fsanitize=thread"],
    neon=[*_ZIG, *_ARM],
    dotprod=[*_ZIG, *_ARM, "-Xclang", "-target-feature", "-Xclang", "+dotprod"],
)


def tool(name: str) -> str:
    "A program that CI has; elsewhere the test is skipped without it"
    if path := shutil.which(name):
        return path
    if os.environ.get("CI"):
        pytest.fail(f"CI must have {name}")
    pytest.skip(f"needs {name}")


@pytest.fixture(scope="module")
def case(tiny_q4, tmp_path_factory):
    "The tiny model as drive.c reads it"
    path = tmp_path_factory.mktemp("case") / "case.bin"
    with read_q4(tiny_q4) as f:
        c, parts, raw = f.config, engine._table(f), tiny_q4.read_bytes()
        shape = engine.ShapeRecord(
            c.vocab_size,
            c.hidden_size,
            c.intermediate_size,
            c.num_hidden_layers,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            200,
            1,
            1,
            64,
            3,
            c.rope_theta,
            c.rms_norm_eps,
        )
    path.write_bytes(
        bytes(shape) + len(parts).to_bytes(4, "little") + len(raw).to_bytes(8, "little") + bytes(parts) + raw
    )
    return path


def drive(cmd: list[str], case, seed: int, threads: int, calls: int = CALLS) -> list[str]:  # variant, hash
    "What the driver prints; a failure shows what a sanitizer says"
    done = subprocess.run(
        [*cmd, str(case), str(seed), str(calls), str(threads)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[:3000]
    assert not done.stderr, done.stderr[:3000]
    return done.stdout.split()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    "The path of a driver, by name; the first question starts all compilers, two at a time"
    folder, pool = tmp_path_factory.mktemp("drivers"), ThreadPoolExecutor(2)
    own = dict(plain=[f"-mcpu={kernel.VARIANTS[kernel.choose().variant].cpu}"])  # what the engine would choose
    here = [
        n
        for n, cmd in DRIVERS.items()
        if n in ("plain", "neon", "dotprod") or platform.machine() == "x86_64" and shutil.which(cmd[0])
    ]
    jobs = {
        n: pool.submit(
            subprocess.run,
            [*DRIVERS[n], *own.get(n, []), *FLAGS, *SOURCES, "-o", str(folder / n)],
            capture_output=True,
            text=True,
        )
        for n in here
    }

    def path(name):
        done = jobs[name].result()
        assert not done.returncode, done.stderr
        return str(folder / name)

    yield path
    pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def hashes(case, driver):
    "(case, seed) → hash, from a plain build for this machine; one and three threads agree"
    exe, todo = driver("plain"), [(c, seed) for c in (case, RANDOM) for seed in SEEDS]
    out = {k: drive([exe], *k, 1) for k in todo}
    assert {k: drive([exe], *k, 3) for k in todo} == out
    assert len({h for _, h in out.values()}) == len(todo)
    return {k: h for k, (_, h) in out.items()}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
@pytest.mark.parametrize("name", ["address", "address_avx2", "address_tiles"])
def test_no_misstep_under_address_and_undefined_behaviour_sanitizers(name, case, driver, hashes):
    "Every buffer of the driver has exactly the size it needs; every call, right or wrong, stays inside; nothing leaks"
    tool("clang")
    if name != "address" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    for (c, seed), want in hashes.items():
        if name == "address_tiles" and c != RANDOM:
            continue  # plain C in place of vectors is slow
        for threads in (1, 2):
            assert drive([driver(name)], c, seed, threads)[1] == want


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
def test_no_race_under_the_thread_sanitizer(case, driver, hashes):
    tool("clang")
    for c in (case, RANDOM):
        assert drive([driver("thread")], c, SEEDS[0], 3)[1] == hashes[c, SEEDS[0]]


@pytest.mark.parametrize("name", ["neon", "dotprod"])
def test_arm_gives_the_same_bits(name, case, driver, hashes):
    "An emulated processor runs the ARM build"
    qemu = tool("qemu-aarch64")
    for k, threads in ((case, 1), 2), ((case, 2), 1), ((RANDOM, 1), 2):
        assert drive([qemu, driver(name)], *k, threads) == [name, hashes[k]]


@pytest.mark.parametrize("system", [s for s in kernel.TARGETS if s not in (kernel.this_system(), "wasm32")])
def test_compiles_for_every_other_system(system, tmp_path):
    "Compiled, linked, of the right kind; a warning would fail it"
    made = kernel.build(tmp_path, [system], level=("-O1", "-DNDEBUG"))
    starts = dict(linux=b"\x7fELF", macos=b"\xcf\xfa\xed\xfe", windows=b"MZ")
    assert len(made) == len(kernel.variants(system)) >= 2
    for p in made:
        assert p.read_bytes().startswith(starts[system.split("-")[1]])
        assert p.stat().st_size > 20_000


def test_asks_for_no_young_glibc(kernel_built):
    "What the Linux libraries need was there in 2012"
    if not kernel.this_system().endswith("linux"):
        pytest.skip("Linux only")
    for p in kernel_built:
        if p.suffix != ".so":
            continue
        wanted = {
            tuple(map(int, w.split(b".")))
            for part in p.read_bytes().split(b"GLIBC_")[1:]
            if (w := part.split(b"\0")[0]).replace(b".", b"").isdigit()
        }
        assert max(wanted, default=(2, 17)) <= (2, 17), (p.name, wanted)


def test_systems_that_are_unknown_are_named(monkeypatch):
    for machine, system, want in (
        ("AMD64", "Windows", "x86_64-windows"),
        ("arm64", "Darwin", "aarch64-macos"),
        ("aarch64", "Linux", "aarch64-linux"),
    ):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(platform, "system", lambda: system)
        assert kernel.this_system() == want
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(kernel.KernelError, match="no kernel for s390x-linux"):
        kernel.this_system()


def test_without_a_compiler(monkeypatch, kernel_built, tiny_q4, tmp_path):
    "What is built goes on working; what is not says what is missing"
    monkeypatch.setattr(kernel, "compiler_version", lambda: "")
    with engine.load(tiny_q4) as e:
        assert e.decode(1, 0).shape == (512,)
    with pytest.raises(kernel.KernelError, match="pip install ziglang"):
        kernel.build(tmp_path)


def test_a_build_that_computes_something_else_is_passed_over(kernel_built, tmp_path, monkeypatch):
    "Each variant's self-test in turn is made to fail"
    system, passed, real = kernel.this_system(), [], kernel.check_library

    def fails(lib):
        if lib.sm_variant().decode() not in passed:
            raise kernel.KernelError("fails its self-test")
        real(lib)

    monkeypatch.setattr(kernel, "check_library", fails)
    with pytest.raises(kernel.KernelError, match="no build of the kernel runs here.*self-test"):
        kernel.choose()
    passed.append(kernel.variants(system)[-1].name)
    c = kernel.choose()
    assert c.variant == passed[0]
    assert all(why for _, why in c.passed)
    assert len(c.passed) == len(kernel.variants(system)) - 1
