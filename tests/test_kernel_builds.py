"The kernel compiled for every system, run under sanitizers and under an emulated ARM processor"
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smollm_nb import engine, kernel
from smollm_nb.q4file import read_q4

DRIVE = Path(__file__).parent/"c"/"drive.c"
SOURCES = [*sorted(map(str, kernel.CSRC.glob("*.c"))), str(DRIVE)]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", "-DSMOLLM_THREADS", f"-I{kernel.CSRC}"]
SEEDS, CALLS = (1, 2, 3), 120


def tool(name:str) -> str:
    "A program that CI has; elsewhere the test is skipped without it"
    if path := shutil.which(name): return path
    if os.environ.get("CI"): pytest.fail(f"CI must have {name}")
    pytest.skip(f"needs {name}")


@pytest.fixture(scope="module")
def case(tiny_q4, tmp_path_factory):
    "The tiny model as drive.c reads it"
    path = tmp_path_factory.mktemp("case")/"case.bin"
    with read_q4(tiny_q4) as f:
        c, parts, raw = f.config, engine._table(f), tiny_q4.read_bytes()
        shape = engine._Shape(c.vocab_size, c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads, c.head_dim, 200, 1, 1, 64, c.rope_theta, c.rms_norm_eps)
    path.write_bytes(bytes(shape) + len(parts).to_bytes(4, "little") + len(raw).to_bytes(8, "little") + bytes(parts) + raw)
    return path


def drive(cmd:list[str], case:Path, seed:int, threads:int, calls:int=CALLS) -> list[str]: # variant, hash
    "What the driver prints; a failure shows what a sanitizer says"
    done = subprocess.run([*cmd, str(case), str(seed), str(calls), str(threads)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr[:3000]
    return done.stdout.split()


@pytest.fixture(scope="module")
def hashes(case, tmp_path_factory):
    "Seed → hash, from a plain build for this machine; one and three threads agree"
    exe, v = tmp_path_factory.mktemp("plain")/"drive", kernel.VARIANTS[kernel.choose().variant]
    subprocess.run([sys.executable, "-m", "ziglang", "cc", f"-mcpu={v.cpu}", *kernel.FAST, *FLAGS, *SOURCES, "-o", str(exe)], check=True)
    out = {seed: drive([str(exe)], case, seed, 1) for seed in SEEDS}
    assert {seed: drive([str(exe)], case, seed, 3) for seed in SEEDS} == out and len({h for _, h in out.values()}) == len(SEEDS)
    return {seed: h for seed, (_, h) in out.items()}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
@pytest.mark.parametrize("march", ["x86-64", "x86-64-v3"])
def test_no_misstep_under_address_and_undefined_behaviour_sanitizers(march, case, hashes, tmp_path):
    "Every buffer of the driver has exactly the size it needs; every call, right or wrong, must stay inside; nothing may leak"
    clang = tool("clang")
    if march == "x86-64-v3" and "avx2" not in Path("/proc/cpuinfo").read_text(): pytest.skip("this processor has no AVX2")
    subprocess.run([clang, "-g", "-O1", f"-march={march}", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *FLAGS, *SOURCES, "-lpthread", "-o", str(tmp_path/"drive")], check=True)
    for seed in SEEDS:
        for threads in (1, 2): assert drive([str(tmp_path/"drive")], case, seed, threads)[1] == hashes[seed]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
def test_no_race_under_the_thread_sanitizer(case, hashes, tmp_path):
    clang = tool("clang")
    subprocess.run([clang, "-g", "-O1", "-march=x86-64-v2", "-fsanitize=thread", *FLAGS, *SOURCES, "-lpthread", "-o", str(tmp_path/"drive")], check=True)
    assert drive([str(tmp_path/"drive")], case, SEEDS[0], 3)[1] == hashes[SEEDS[0]]


@pytest.mark.parametrize("name", ["neon", "dotprod"])
def test_arm_gives_the_same_bits(name, case, hashes, tmp_path):
    "An emulated processor runs the ARM build; what is linked is one C library for both"
    qemu, extra = tool("qemu-aarch64"), ["-Xclang", "-target-feature", "-Xclang", "+dotprod"]*(name == "dotprod")
    subprocess.run([sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-mcpu=generic", "-O2", *extra, *FLAGS, *SOURCES, "-o", str(tmp_path/"drive")], check=True)
    for seed, threads in ((1, 2), (2, 1)): assert drive([qemu, str(tmp_path/"drive")], case, seed, threads) == [name, hashes[seed]]


@pytest.mark.parametrize("system", [s for s in kernel.TARGETS if s not in (kernel.this_system(), "wasm32")])
def test_compiles_for_every_other_system(system, tmp_path):
    "Compiled, linked, of the right kind; a warning would fail it"
    made = kernel.build(tmp_path, [system], level=("-O1", "-DNDEBUG"))
    starts = dict(linux=b"\x7fELF", macos=b"\xcf\xfa\xed\xfe", windows=b"MZ")
    assert len(made) == len(kernel.variants(system)) >= 2
    for p in made: assert p.read_bytes().startswith(starts[system.split("-")[1]]) and p.stat().st_size > 20_000


def test_asks_for_no_young_glibc(kernel_built):
    "What the Linux libraries need was there in 2012"
    if not kernel.this_system().endswith("linux"): pytest.skip("Linux only")
    for p in kernel_built:
        if p.suffix != ".so": continue
        wanted = {tuple(map(int, w.split(b"."))) for part in p.read_bytes().split(b"GLIBC_")[1:] if (w := part.split(b"\0")[0]).replace(b".", b"").isdigit()}
        assert max(wanted, default=(2, 17)) <= (2, 17), (p.name, wanted)


def test_systems_that_are_unknown_are_named(monkeypatch):
    for machine, system, want in (("AMD64", "Windows", "x86_64-windows"), ("arm64", "Darwin", "aarch64-macos"), ("aarch64", "Linux", "aarch64-linux")):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(platform, "system", lambda: system)
        assert kernel.this_system() == want
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(kernel.KernelError, match="no kernel for s390x-linux"): kernel.this_system()


def test_without_a_compiler(monkeypatch, kernel_built, tiny_q4, tmp_path):
    "What is built goes on working; what is not says what is missing"
    monkeypatch.setattr(kernel, "compiler_version", lambda: "")
    with engine.load(tiny_q4) as e: assert e.decode(1, 0).shape == (512,)
    with pytest.raises(kernel.KernelError, match="pip install ziglang"): kernel.build(tmp_path)


def test_a_build_that_computes_something_else_is_passed_over(kernel_built, tmp_path, monkeypatch):
    "Each variant's self-test in turn is made to fail"
    system, passed, real = kernel.this_system(), [], kernel.check_library
    def fails(lib):
        if lib.sm_variant().decode() not in passed: raise kernel.KernelError("fails its self-test")
        real(lib)
    monkeypatch.setattr(kernel, "check_library", fails)
    with pytest.raises(kernel.KernelError, match="no build of the kernel runs here.*self-test"): kernel.choose()
    passed.append(kernel.variants(system)[-1].name)
    c = kernel.choose()
    assert c.variant == passed[0] and all(why for _, why in c.passed) and len(c.passed) == len(kernel.variants(system)) - 1
