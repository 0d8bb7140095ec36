"Shared fixtures: a tiny model for everyone, the real one for tests marked slow"
import signal

import pytest
from hypothesis import settings

from smollm_nb.kernel import build
from smollm_nb.tiny import write_tiny

settings.register_profile("steady", deadline=None) # no test fails on a timing
settings.load_profile("steady")
signal.signal(signal.SIGINT, signal.default_int_handler) # a shell that starts this in the background has it ignored, and so would every process that the tests interrupt


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    "A checkpoint of the tiny random model; not to be changed"
    return write_tiny(tmp_path_factory.mktemp("tiny")/"tiny")


@pytest.fixture(scope="session")
def real_folder():
    "The real model's checkpoint, prepared once and kept in the user's cache"
    from smollm_nb.hub import fetch
    return fetch("SmolLM2-135M-Instruct")


@pytest.fixture(scope="session")
def kernel_built():
    "The kernel's libraries; compiled if a source changed"
    return build()


@pytest.fixture(scope="session")
def four_bits():
    "A recipe of the engine's formats that takes no calibration"
    from smollm_nb.recipes import Recipe
    return Recipe("four", "int4-book-g128-log8", "int4-book-g128-log8", "int8-row-f32", 2048)


@pytest.fixture(scope="session")
def tiny_q4(tiny_folder, tmp_path_factory, four_bits, kernel_built):
    "The tiny model in four bits, its embedding partly in eight; not to be changed"
    from dataclasses import replace
    from pathlib import Path
    from smollm_nb.recipes import quantize
    return Path(quantize(tiny_folder, tmp_path_factory.mktemp("tiny_q4"), replace(four_bits, frequent_rows=128))["path"])


@pytest.fixture(scope="session")
def real_q4(real_folder, tmp_path_factory, four_bits, kernel_built):
    "The real model in four bits, rounded to nearest"
    from pathlib import Path
    from smollm_nb.recipes import quantize
    return Path(quantize(real_folder, tmp_path_factory.mktemp("real_q4"), four_bits)["path"])


@pytest.fixture(autouse=True)
def own_cache(request, tmp_path, monkeypatch):
    "Fast tests never see the user's cache or settings of the hub client"
    if "slow" in request.keywords: return
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path/"cache"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"): monkeypatch.delenv(name, raising=False)
