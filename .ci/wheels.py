"Build the wheels of all systems on this machine; each is unpacked and checked, this machine's is installed"

import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from smollm_nb.engine.build import TARGETS, library, this_system, variants

ROOT = Path(__file__).parent.parent
SYSTEMS = [s for s in TARGETS if s != "wasm32"]
UNSHIPPED = (".git", ".venv", "_native", "_vendor", "build", "dist", "*.egg-info", "__pycache__", "nbs", "tests")
# file format and processor, from the first bytes of a library
ELF, MACH_O, PE = (
    {62: "x86_64", 183: "aarch64"},
    {0x01000007: "x86_64", 0x0100000C: "aarch64"},
    {0x8664: "x86_64", 0xAA64: "aarch64"},
)


def build(system: str, sources: Path, output: Path) -> Path:
    "The wheel of one system, from a copy of the sources in which nothing is compiled"
    shutil.rmtree(sources / "smollm_nb" / "engine" / "_native", ignore_errors=True)
    shutil.rmtree(sources / "build", ignore_errors=True)
    before = set(output.glob("*.whl"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(output),
        str(sources),
    ]
    subprocess.run(command, check=True, env=os.environ | {"SMOLLM_SYSTEM": system})
    (wheel,) = set(output.glob("*.whl")) - before
    return wheel


def system_of(data: bytes) -> str:
    "The system that a library's first bytes name"
    if data[:4] == b"\x7fELF":
        return ELF[struct.unpack_from("<H", data, 18)[0]] + "-linux"
    if data[:4] == b"\xcf\xfa\xed\xfe":
        return MACH_O[struct.unpack_from("<I", data, 4)[0]] + "-macos"
    if data[:2] == b"MZ":
        header = struct.unpack_from("<I", data, 60)[0]
        return PE[struct.unpack_from("<H", data, header + 4)[0]] + "-windows"
    raise SystemExit(f"a library begins with {data[:4]!r}")


def macos_version(data: bytes) -> tuple[int, int]:
    "The oldest macOS that a library runs on: the command LC_BUILD_VERSION of its header"
    (commands,), at = struct.unpack_from("<I", data, 16), 32
    for _ in range(commands):
        kind, size = struct.unpack_from("<II", data, at)
        if kind == 0x32:
            version = struct.unpack_from("<I", data, at + 12)[0]
            return version >> 16, version >> 8 & 255
        at += size
    raise SystemExit("a library does not say which macOS it needs")


def check(wheel: Path, system: str) -> None:
    "Each variant of the system is in the wheel, made for it, and no other system's library"
    with zipfile.ZipFile(wheel) as z:
        native = {Path(n).name: z.read(n) for n in z.namelist() if "/engine/_native/" in n}
        names = z.namelist()
    wanted = {library(v, system) for v in variants(system)}
    wanted |= {library(v, "wasm32") for v in variants("wasm32")}
    have = {n for n in native if n != "build.json"}
    if have != wanted:
        raise SystemExit(f"{wheel.name}: holds {sorted(have)} instead of {sorted(wanted)}")
    for name in wanted:
        if not name.endswith(".wasm") and system_of(native[name]) != system:
            raise SystemExit(f"{wheel.name}: {name} was made for {system_of(native[name])}")
        if name.endswith(".dylib") and "macosx_{}_{}".format(*macos_version(native[name])) not in wheel.name:
            raise SystemExit(f"{wheel.name}: {name} needs macOS {macos_version(native[name])}")
    for part in ("browser/runtime/smollm.js", "browser/_vendor/tokenizers.js", "lab/widgets/common.js"):
        if f"smollm_nb/{part}" not in names:
            raise SystemExit(f"{wheel.name}: lacks {part}")


def try_out(wheel: Path) -> None:
    "Install this machine's wheel into an empty environment and run its kernel's self-test"
    with tempfile.TemporaryDirectory() as d:
        venv.create(d, with_pip=True)
        python = str(Path(d, "Scripts/python.exe" if os.name == "nt" else "bin/python"))
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), "numpy", "psutil"], check=True)
        subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
        code = "from smollm_nb.engine.build import choose; print('runs here with', choose().variant)"
        subprocess.run([python, "-P", "-c", code], check=True, cwd=d)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=SYSTEMS, action="append", help="only this one; may be given several times")
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "wheels")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for old in args.output.glob("*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as d:
        sources = Path(d, "src")
        shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(*UNSHIPPED))
        for system in args.system or SYSTEMS:
            wheel = build(system, sources, args.output)
            check(wheel, system)
            print(f"{wheel.stat().st_size / 1e6:5.2f} MB  {wheel.name}", flush=True)
            if system == this_system():
                try_out(wheel)


if __name__ == "__main__":
    main()
