"Package facts come from settings.ini, which nbdev reads too; a build compiles the kernel and fetches libraries"

import os
import runpy
from configparser import ConfigParser
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(ROOT / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]


def module(path: str) -> dict:
    "The names of engine/build.py or browser/vendor.py, which need no package but ziglang and Node's"
    return runpy.run_path(str(ROOT / "smollm_nb" / path))


build, vendor = module("engine/build.py"), module("browser/vendor.py")
# another one for a wheel that is made elsewhere
SYSTEM = os.environ.get("SMOLLM_SYSTEM") or build["this_system"]()
EXTRAS = ("tune", "scale", "eval")  # what few users need; the developers' extra has them all
TAGS = {  # the age of glibc and of macOS that the compiler links against
    "x86_64-linux": "manylinux_2_17_x86_64",
    "aarch64-linux": "manylinux_2_17_aarch64",
    "x86_64-macos": "macosx_11_0_x86_64",
    "aarch64-macos": "macosx_11_0_arm64",
    "x86_64-windows": "win_amd64",
    "aarch64-windows": "win_arm64",
}


class BuildWithKernel(build_py):
    "Compile the kernel and fetch the libraries before the files are collected; an error there stops the build"

    def run(self):
        build["build"](systems=(SYSTEM, "wasm32"))
        vendor["build"]()
        super().run()


class PlatformWheel(bdist_wheel):
    "The libraries serve one system and any Python"

    def get_tag(self):
        return "py3", "none", TAGS[SYSTEM]


class BinaryDistribution(Distribution):
    "Holds machine code, though no Python extension"

    def has_ext_modules(self):
        return True


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    url=cfg["git_url"],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["smollm_nb", "smollm_nb.*"]),
    package_data={
        "smollm_nb": [
            "engine/csrc/*",
            "engine/_native/*",
            "browser/runtime/*",
            "browser/runtime/**/*",
            "browser/_vendor/*",
            "browser/_vendor/own/*",
            "lab/widgets/*",
            "bench/peer_pages/*",
            "bench/peer_builds/*",
            "tune/examples/*",
            "scale/examples/*",
        ]
    },
    install_requires=cfg["requirements"].split(),
    extras_require={
        **{name: cfg[f"{name}_requirements"].split() for name in EXTRAS},
        "dev": " ".join(cfg[f"{name}_requirements"] for name in ("dev", *EXTRAS)).split(),
    },
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
    },
    cmdclass={"build_py": BuildWithKernel, "bdist_wheel": PlatformWheel},
    distclass=BinaryDistribution,
    zip_safe=False,
)
