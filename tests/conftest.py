"Shared fixtures: a tiny model for everyone, the real one for tests marked slow"
import pytest
from hypothesis import settings

from smollm_nb.tiny import write_tiny

settings.register_profile("steady", deadline=None) # no test fails on a timing
settings.load_profile("steady")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    "A checkpoint of the tiny random model; not to be changed"
    return write_tiny(tmp_path_factory.mktemp("tiny")/"tiny")


@pytest.fixture(scope="session")
def real_folder():
    "The real model's checkpoint, prepared once and kept in the user's cache"
    from smollm_nb.hub import fetch
    return fetch("SmolLM2-135M-Instruct")


@pytest.fixture(autouse=True)
def own_cache(request, tmp_path, monkeypatch):
    "Fast tests never see the user's cache or settings of the hub client"
    if "slow" in request.keywords: return
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path/"cache"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"): monkeypatch.delenv(name, raising=False)
