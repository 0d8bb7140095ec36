"Shared fixtures: a tiny model for everyone, the real one for tests marked slow"

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from workers import group_of, place_of

from smollm_nb.engine.build import build
from smollm_nb.models.tiny import write_tiny

# how many times as many cases as in `make test` the tests marked fuzz try
FUZZ = int(os.environ.get("SMOLLM_FUZZ", "1"))
settings.register_profile("steady", deadline=None)  # no test fails on a timing
settings.load_profile("steady")
# a shell that starts this in the background has it ignored, and so would every process that the tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def fuzz():
    "A factor for the number of cases: 1 in `make test`, more in `make fuzz`"
    return FUZZ


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    "A checkpoint of the tiny random model; not to be changed"
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="session")
def real_folder():
    "The real model's checkpoint, prepared once and kept in the user's cache"
    from smollm_nb.models.hub import fetch

    return fetch("SmolLM2-135M-Instruct")


@pytest.fixture(scope="session")
def kernel_built():
    "The kernel's libraries; compiled if a source changed"
    return build()


@pytest.fixture(scope="session")
def four_bits():
    "A recipe of the engine's formats that takes no calibration"
    from dataclasses import replace

    import goldens

    return replace(goldens.four_bits(), frequent_rows=2048)


@pytest.fixture(scope="session")
def tiny_q4(tiny_folder, tmp_path_factory, four_bits, kernel_built):
    "The tiny model in four bits, its embedding partly in eight; not to be changed"
    from dataclasses import replace

    from smollm_nb.quant.recipes import quantize

    return Path(
        quantize(tiny_folder, tmp_path_factory.mktemp("tiny_q4"), replace(four_bits, frequent_rows=128))["path"]
    )


@pytest.fixture(scope="session")
def real_q4(real_folder, tmp_path_factory, four_bits, kernel_built):
    "The real model in four bits, rounded to nearest"
    from smollm_nb.quant.recipes import quantize

    return Path(quantize(real_folder, tmp_path_factory.mktemp("real_q4"), four_bits)["path"])


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    "Where screenshots go"
    d = Path(os.environ.get("SMOLLM_SHOTS") or tmp_path_factory.mktemp("shots"))
    d.mkdir(parents=True, exist_ok=True)
    return d


@pytest.fixture(scope="module")
def browser():
    "Chromium; one for each file of tests, since its driver's event loop lives as long"
    from lab_page import ARGS, CHROMIUM

    if not CHROMIUM:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "there is no Chromium here (Debian: apt-get install chromium)"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield b
        b.close()


@pytest.fixture(autouse=True)
def own_cache(request, tmp_path, monkeypatch):
    "Fast tests never see the user's cache or settings of the hub client"
    if "slow" in request.keywords:
        return
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config, log):
    "`pytest -n 2`: whole groups, in the order that the workers collect them"
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        # the marks that xdist has for this, `xdist_group`, have no effect with pytest 9.2
        def _split_scope(self, nodeid):
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


def pytest_collection_modifyitems(config, items):
    "`pytest -n 2`: what begins first"
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: place_of(item.nodeid))


def pytest_terminal_summary(terminalreporter):
    "What a test has recorded to be read is shown, whichever worker ran it"
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            terminalreporter.section(name)
            terminalreporter.write_line(text)
