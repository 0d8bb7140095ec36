"Texts of the hub: fetched once, held against their hashes; and the windows in which other programs read them"

import hashlib
import zipfile

import numpy as np
import pytest
from hub_server import HubServer, closed_port, world  # noqa: F401, fixtures

from smollm_nb.core import FetchError, ParameterError
from smollm_nb.fidelity.evaluate import evaluate, read_text
from smollm_nb.inference.llama import load
from smollm_nb.models import texts
from smollm_nb.models.texts import HubText, hub_text

STORY = "The sea was calm, and the ship sailed on. É\n" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A hub that has a dataset of one zip file, known as `story`"
    folder = tmp_path / "hub-files"
    folder.mkdir()
    with zipfile.ZipFile(folder / "story.zip", "w") as z:
        z.writestr("raw/story.txt", STORY.encode())
    sha256 = hashlib.sha256((folder / "story.zip").read_bytes()).hexdigest()
    own = HubText("owner/texts", "story.zip", sha256, "raw/story.txt", hashlib.sha256(STORY.encode()).hexdigest(), 9999)
    monkeypatch.setitem(texts.TEXTS, "story", own)
    with HubServer(folder, "owner/texts") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_text_is_fetched_once(hub, monkeypatch):
    assert read_text("story") == (STORY, "story")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert read_text("story") == (STORY, "story")
    assert len(hub.gets("story.zip")) == 1


def test_a_damaged_copy_is_fetched_again(hub):
    hub_text("story").write_text("another story")
    assert hub_text("story").read_text(encoding="utf-8") == STORY


def test_another_text_is_an_error(hub, monkeypatch):
    hub.files["story.zip"] += b"more"
    with pytest.raises(FetchError, match="its SHA-256 differs"):
        hub_text("story")
    own = texts.TEXTS["story"]
    monkeypatch.setitem(texts.TEXTS, "story", HubText(*[*vars(own).values()][:4], own.member_sha256, 10))
    hub.files["story.zip"] = hub.files["story.zip"][: -len(b"more")]
    with pytest.raises(FetchError, match="another text"):
        hub_text("story")


def test_without_a_network_the_message_says_what_to_do(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    with pytest.raises(FetchError, match="cannot be fetched from .* give it as a file"):
        hub_text("story")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE"):
        hub_text("story")
    hub.faults.file_status = (404, "EntryNotFound")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    with pytest.raises(FetchError, match="story.zip of the dataset owner/texts"):
        hub_text("story")


def test_a_file_of_that_name_comes_first(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story").write_text("my own")
    assert read_text("story")[0] == "my own"


def test_perplexity_is_that_of_windows_read_one_by_one(tiny_folder):
    "As llama-perplexity takes them: windows of 64 with their second half scored, and overlapping ones"
    backend = load(tiny_folder)
    ids = [int(i) for i in np.random.default_rng(0).integers(1, 200, 300)]

    def surprise(window, first):  # of the tokens from `first` on, nats
        logits = backend.logits(window).astype(np.float64)
        p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return [-p[i - 1, window[i]] for i in range(first, len(window))]

    halves = [x for i in range(0, 256, 64) for x in surprise(ids[i : i + 64], 33)]
    found = evaluate(backend, backend, ids[:256], 64, 32)
    assert found.tokens == len(halves) == 4 * 31
    assert found.ppl_reference == pytest.approx(np.exp(np.mean(halves)), rel=1e-5)

    strides = [x for i in range(0, 300 - 63, 16) for x in surprise(ids[i : i + 64], 48)]
    found = evaluate(backend, backend, ids, 64, stride=16)
    assert (found.tokens, found.windows) == (len(strides), 15)
    assert found.ppl_reference == pytest.approx(np.exp(np.mean(strides)), rel=1e-5)


def test_windows_side_by_side_leave_out_what_is_left_over(tiny_folder):
    "As llama-perplexity does"
    backend, ids = load(tiny_folder), [int(i) for i in np.random.default_rng(0).integers(1, 200, 300)]
    found, whole = evaluate(backend, backend, ids, 64, 32, 64), evaluate(backend, backend, ids[:256], 64, 32)
    assert (found.windows, found.ppl_reference) == (4, whole.ppl_reference)
    assert evaluate(backend, backend, ids, 64, 32).windows == 5
    assert evaluate(backend, backend, ids, 64, stride=64).tokens == 4 * 63


@pytest.mark.parametrize("stride", [0, 65, 1.5])
def test_a_stride_lies_within_the_window(tiny_folder, stride):
    backend = load(tiny_folder)
    with pytest.raises(ParameterError, match="stride"):
        evaluate(backend, backend, range(1, 200), 64, stride=stride)
