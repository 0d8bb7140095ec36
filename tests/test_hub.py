"""hub.fetch with the real client against a local server that behaves like the hub, and against one that does not"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hub_server import HubServer, closed_port, fails, served, world  # noqa: F401, fixtures

from smollm_nb.models import hub
from smollm_nb.models.checkpoint import PROVENANCE, find_problems, read_provenance, validate
from smollm_nb.models.tiny import TINY, write_tiny

REPO, WEIGHTS = "HuggingFaceTB/SmolLM-135M", "model.safetensors"


def nothing_left(root):
    "No folder under `root` looks like a finished checkpoint"
    return not [p for p in Path(root).rglob(PROVENANCE)]


# ---- the straight way


def test_download(served, tiny_folder, tmp_path, capfd):
    folder = hub.fetch("SmolLM-135M")
    assert folder == tmp_path / "cache" / "models" / "HuggingFaceTB--SmolLM-135M" / "main"
    assert validate(folder) == TINY
    assert (folder / WEIGHTS).read_bytes() == (tiny_folder / WEIGHTS).read_bytes()
    record = read_provenance(folder)
    assert (record["source"], record["revision"]) == (f"hub:{REPO}", served.commit)
    assert not [p for p in folder.parent.iterdir() if p != folder]
    assert not list(folder.glob(".*"))
    out, err = capfd.readouterr()
    assert out == ""
    assert "the hub copy" in err
    asked = len(served.log)
    assert hub.fetch(REPO, quiet=True) == folder, "a cached model costs no request"
    assert len(served.log) == asked, "a cached model costs no request"
    assert capfd.readouterr() == ("", "")


def test_only_what_is_needed(served):
    served.files |= {
        "README.md": b"x",
        "onnx/model.onnx": b"x",
        "pytorch_model.bin": b"x",
        "chat_template.jinja": b"{{ messages }}",
    }
    folder = hub.fetch()
    assert (folder / "chat_template.jinja").exists()
    assert not any(served.gets(n) for n in ("README.md", "model.onnx", "pytorch_model.bin"))


def test_sharded(tiny_folder, tmp_path, monkeypatch):
    with HubServer(write_tiny(tmp_path / "shards", max_shard=2_000_000)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        folder = hub.fetch()
        assert len(list(folder.glob("model-*.safetensors"))) > 2
        assert validate(folder) == TINY


def test_a_single_file_comes_before_an_index(tiny_folder, tmp_path, monkeypatch):
    "As in transformers: the shards are not fetched at all"
    with HubServer(write_tiny(tmp_path / "shards", seed=5, max_shard=2_000_000)) as served:
        served.files[WEIGHTS] = (tiny_folder / WEIGHTS).read_bytes()
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        folder = hub.fetch()
        assert (folder / WEIGHTS).read_bytes() == served.files[WEIGHTS]
        assert not list(folder.glob("model-*"))
        assert not served.gets(hub.INDEX)


def test_index_that_lies(tmp_path, monkeypatch):
    with HubServer(write_tiny(tmp_path / "shards", max_shard=2_000_000)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        shard = next(n for n in served.files if n.startswith("model-"))
        lost = served.files.pop(shard)
        fails(f"names {shard}, which the hub does not have")
        served.files[shard], served.commit = lost, "d" * 40
        good = served.files[hub.INDEX]
        served.files[hub.INDEX] = good.replace(shard.encode(), b"../../" + shard.encode())
        fails("not the name of a file")
        served.files[hub.INDEX], served.commit = b"?", "e" * 40
        fails("index of shards is damaged")
    assert nothing_left(tmp_path / "cache")


def test_other_owner_and_revision(served):
    served.repo, served.branches = "someone/else", ["refs/pr/1", "main"]
    folder = hub.fetch("someone/else", revision="refs/pr/1")
    assert folder.parts[-2:] == ("someone--else", "refs--pr--1")
    assert hub.fetch("someone/else", revision=served.commit) != folder


def test_token_is_sent(served, monkeypatch):
    served.faults.token = "hf_made_up"
    fails("gated")
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    assert hub.fetch()


# ---- connections that break


def test_cut_once(served):
    served.faults.cut_after, served.faults.cuts = 1_000_000, 1
    assert validate(hub.fetch()) == TINY
    first, second = served.gets(WEIGHTS)
    assert first is None
    assert int(second.removeprefix("bytes=").rstrip("-")) > 0


def test_cut_again_and_again(served):
    served.faults.cut_after, served.faults.cuts = 500_000, 1000
    assert validate(hub.fetch()) == TINY
    assert len(served.gets(WEIGHTS)) > len(hub.WAITS) + 2, "tries that bring something do not count"


def test_cut_before_anything_comes(served, tmp_path):
    served.faults.cuts = 1000
    fails("no connection to")
    assert nothing_left(tmp_path)
    served.faults.cuts = 0
    assert validate(hub.fetch()) == TINY


def test_redirected(served):
    served.faults.redirect, served.faults.cut_after, served.faults.cuts = True, 1_000_000, 1
    assert validate(hub.fetch()) == TINY
    first, second = [r for m, path, r in served.log if path == f"/cdn/{WEIGHTS}"]
    assert first is None
    assert second.startswith("bytes=")


def test_server_without_ranges(served):
    served.faults.cut_after, served.faults.cuts, served.faults.no_ranges = 3_000_000, 2, True
    assert validate(hub.fetch()) == TINY


CHILD = "import sys; from smollm_nb.models import hub; print(hub.fetch(sys.argv[1], quiet=True))"


def child(*args):
    "fetch in a process of its own"
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *(args or (REPO,))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_killed_and_resumed(served, tmp_path):
    served.faults.pause = 0.03
    process = child()
    wait_until(lambda: served.sent.get(WEIGHTS, 0) > 1_000_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert nothing_left(tmp_path), "the killed one left nothing that could be taken for a model"
    target = tmp_path / "cache" / "models" / "HuggingFaceTB--SmolLM-135M" / "main"
    assert not target.exists()
    assert find_problems(target) == ["no such folder"]
    served.faults.pause = 0
    second = child()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert validate(Path(out.strip())) == TINY
    start = int(served.gets(WEIGHTS)[-1].removeprefix("bytes=").rstrip("-"))
    assert start > 500_000, "the second went on where the first was"
    assert len(served.gets("tokenizer.json")) == 1, "finished files are not fetched again"


def test_resume_only_the_same_commit(served, tmp_path):
    staged = tmp_path / "cache" / "models" / "HuggingFaceTB--SmolLM-135M" / ".main.part"
    staged.mkdir(parents=True)
    (staged / hub.MARK).write_text(json.dumps(dict(repo=REPO, commit="an older one")))
    (staged / f"{WEIGHTS}.part").write_bytes(b"x" * 1000)
    assert validate(hub.fetch()) == TINY
    assert served.gets(WEIGHTS)[0] is None


def test_part_that_is_too_long(served, tmp_path):
    staged = tmp_path / "cache" / "models" / "HuggingFaceTB--SmolLM-135M" / ".main.part"
    staged.mkdir(parents=True)
    (staged / hub.MARK).write_text(json.dumps(dict(repo=REPO, commit=served.commit)))
    (staged / "config.json.part").write_bytes(b"x" * 100_000)
    (staged / "tokenizer.json").write_text("damaged meanwhile")
    assert validate(hub.fetch()) == TINY


def test_two_processes_at_once(served):
    served.faults.pause = 0.005
    processes = [child(), child()]
    outs = [p.communicate(timeout=60) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outs
    assert outs[0][0] == outs[1][0]
    assert len(served.gets(WEIGHTS)) == 1


def test_two_threads_at_once(served, capfd):
    served.faults.pause, got = 0.005, []
    threads = [threading.Thread(target=lambda: got.append(hub.fetch())) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(got)) == 1
    assert len(got) == 2
    assert len(served.gets(WEIGHTS)) == 1
    assert "waiting for it" in capfd.readouterr().err


# ---- wrong bytes


def test_wrong_byte_once(served):
    served.faults.flip = {WEIGHTS: 1, "config.json": 1}
    assert validate(hub.fetch()) == TINY
    assert len(served.gets(WEIGHTS)) == 2 == len(served.gets("config.json"))


@pytest.mark.parametrize("name, kind", [(WEIGHTS, "SHA-256"), ("config.json", "git SHA-1")])
def test_wrong_bytes(served, tmp_path, name, kind):
    served.faults.flip = {name: 100}
    message = fails(f"{name} from .* has {kind} .*, not .*, twice")
    assert message.count("from")
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("fault", ["cut_short", "pad"])
@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_wrong_size(served, tmp_path, fault, name):
    setattr(served.faults, fault, {name: 100})
    fails(f"{name} .* bytes, not {len(served.files[name]):,}")
    assert nothing_left(tmp_path)


def test_part_longer_than_what_the_server_has(served, tmp_path):
    served.faults.cut_short = {WEIGHTS: 5000}
    staged = tmp_path / "cache" / "models" / "HuggingFaceTB--SmolLM-135M" / ".main.part"
    staged.mkdir(parents=True)
    (staged / hub.MARK).write_text(json.dumps(dict(repo=REPO, commit=served.commit)))
    (staged / f"{WEIGHTS}.part").write_bytes(served.files[WEIGHTS][:-100])
    fails("bytes, not")


def test_fetched_but_unusable(served, tmp_path):
    config = json.loads(served.files["config.json"])
    served.files["config.json"] = json.dumps(config | dict(hidden_act="gelu")).encode()
    assert "gelu" in fails("cannot be used")
    assert nothing_left(tmp_path)
    assert not list((tmp_path / "cache" / "models").rglob("*.safetensors"))


def test_empty_file(served):
    served.files["chat_template.jinja"] = b""
    assert hub.fetch()


# ---- a listing that cannot be followed


@pytest.mark.parametrize("name", ["../evil.json", "a/../../evil", "/etc/evil", "..\\evil", "C:evil"])
def test_traversal(served, tmp_path, name):
    served.faults.extra_names = [name]
    fails("outside its folder")
    assert nothing_left(tmp_path)
    assert not served.gets("config.json")


def test_pickles_only(served):
    served.files["pytorch_model.bin"] = served.files.pop(WEIGHTS)
    fails("pickle")
    assert not served.gets("pytorch_model.bin")


def test_no_tokenizer(served):
    del served.files["tokenizer.json"]
    fails("has no tokenizer.json")


def test_mirror_without_hashes(served):
    served.faults.bare = True
    assert validate(hub.fetch()) == TINY
    assert [m for m, _, _ in served.log].count("HEAD") >= 4


def test_mirror_without_sizes(served):
    served.faults.bare = served.faults.sizeless = True
    fails("does not state the size")


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b"{}", b'{"id": "x", "siblings": [{}]}'])
def test_not_a_hub(served, body):
    served.faults.body = body
    fails("not that of a hub|no commit")


def test_no_commit(served):
    served.faults.no_commit = True
    fails("no commit")


# ---- refusals


@pytest.mark.parametrize(
    "status, match",
    [
        ((401, None), "check the name.*hf auth login"),
        ((404, "RepoNotFound"), "check the name"),
        ((404, None), "check the name"),
        ((401, "GatedRepo"), "gated: accept its licence"),
        ((403, "GatedRepo"), "gated"),
        ((403, None), "refuses access.*403.*hf auth login"),
        ((404, "RevisionNotFound"), "no revision 'main'"),
        ((418, None), "HTTP 418"),
    ],
)
def test_refused(served, tmp_path, status, match):
    served.faults.status = status
    fails(match)
    assert len(served.log) == 1
    assert nothing_left(tmp_path)


def test_refused_file(served, tmp_path):
    served.faults.file_status = (403, "GatedRepo")
    fails("gated: accept its licence")
    served.faults.file_status = (404, "EntryNotFound")
    fails("lists a file that it does not have .*config.json")
    assert nothing_left(tmp_path)


def test_missing_model_and_revision(served):
    fails("has no model HuggingFaceTB/SmolLM-360M", "SmolLM-360M")
    fails("no revision 'v9'", revision="v9")
    fails("cannot be the id", "a--b/c..d")


def test_busy_then_fine(served):
    served.faults.refuse, served.faults.refuse_file = [(503, None), (429, None)], [(502, None), (500, None)]
    assert validate(hub.fetch()) == TINY


def test_busy_for_good(served, tmp_path):
    served.faults.status = (503, None)
    fails("HTTP 503.*try again later")
    assert len(served.log) == len(hub.WAITS) + 1
    served.faults.status, served.faults.file_status = None, (500, None)
    fails("HTTP 500")
    assert nothing_left(tmp_path)


def test_endpoint_is_no_address(monkeypatch):
    for bad in ("huggingface.co", "http://", "http://[::1", "http://x:y", "http://x:0"):
        monkeypatch.setenv("HF_ENDPOINT", bad)
        fails("is not a web address")


# ---- no network


def test_dead_network():
    start = time.monotonic()
    message = fails("no connection to", "SmolLM-360M")
    assert "HF_ENDPOINT" in message
    assert "--source bundled" in message
    assert "folder" in message
    assert time.monotonic() - start < 3


def test_silent_network(served, monkeypatch):
    monkeypatch.setattr(hub, "PATIENCE", dict(auto=0.3, hub=0.3))
    served.faults.silent = 1.5
    start = time.monotonic()
    fails("no answer in 0.3 s")
    assert time.monotonic() - start < 1.2


def test_stalled_download(served, monkeypatch):
    monkeypatch.setattr(hub, "TIMEOUT", 0.1)
    served.faults.pause = 0.4
    fails("no connection")


def test_cached_model_needs_no_network(served, monkeypatch):
    folder = hub.fetch()
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    assert hub.fetch() == folder == hub.fetch(via="hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.fetch() == folder


def test_offline_mode(served, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fails("HF_HUB_OFFLINE rules out the network")
    assert served.log == []


def test_refresh(served, tiny_folder, tmp_path, monkeypatch, capfd):
    folder = hub.fetch()
    asked = len(served.log)
    assert hub.fetch(refresh=True) == folder, "one question, the commit is the same"
    assert len(served.log) == asked + 1, "one question, the commit is the same"
    served.commit = "d" * 40
    served.files["generation_config.json"] = b'{"eos_token_id": [2, 0]}'
    assert read_provenance(hub.fetch())["revision"] != served.commit
    assert validate(hub.fetch(refresh=True)).eos_token_ids == (2, 0)
    assert read_provenance(folder)["revision"] == served.commit
    assert len(served.gets(WEIGHTS)) == 1, "the weights are the same in both commits"
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    capfd.readouterr()
    assert hub.fetch(refresh=True) == folder
    assert "no connection" in capfd.readouterr().err
    fails("no connection", via="hub", refresh=True)


# ---- the cache and other places


def test_damaged_cache_is_repaired(served, capfd):
    folder = hub.fetch()
    with open(folder / WEIGHTS, "rb+") as f:
        f.seek(-9, os.SEEK_END)
        f.write(b"\xff")
    assert find_problems(folder)
    capfd.readouterr()
    assert hub.fetch() == folder
    assert find_problems(folder) == []
    err = capfd.readouterr().err
    assert "damaged" in err
    assert WEIGHTS in err
    assert len(served.gets(WEIGHTS)) == 2, "only the damaged file is fetched again"
    assert len(served.gets("tokenizer.json")) == 1, "only the damaged file is fetched again"
    shutil.rmtree(folder)
    folder.mkdir()
    assert validate(hub.fetch()) == TINY


def test_output(served, tmp_path):
    out = tmp_path / "models" / "mine"
    assert hub.fetch(output=out) == out
    assert validate(out) == TINY
    assert not (tmp_path / "cache" / "models").exists()
    asked = len(served.log)
    assert hub.fetch(output=str(out)) == out == hub.fetch(output=out, revision=served.commit)
    assert len(served.log) == asked
    fails("holds something else", "SmolLM-360M", output=out)
    fails("holds something else", output=out, revision="v2")
    served.commit = "d" * 40
    assert read_provenance(hub.fetch(output=out, refresh=True))["revision"] == served.commit
    (out / "config.json").write_text("{}")
    fails("it is your folder", output=out)


def test_output_is_taken(served, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("dear diary")
    fails("holds something else", output=tmp_path / "full")
    fails("holds something else", output=tmp_path / "full" / "diary.txt")
    (tmp_path / "full" / PROVENANCE).write_text("?")
    fails("holds something else", output=tmp_path / "full")
    assert (tmp_path / "full" / "diary.txt").read_text() == "dear diary"
    assert served.log == []
    (tmp_path / "empty").mkdir()
    assert hub.fetch(output=tmp_path / "empty") == tmp_path / "empty"


def test_disk_is_full(served, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(hub, "_stream", full)
        assert "bytes are needed" in fails("too full")
    with monkeypatch.context() as m:
        m.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10, 10, 0))
        assert f"{sum(len(v) for k, v in served.files.items()):,} bytes are needed" in fails("too full")

    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as m:
        m.setattr(hub, "_stream", broken)
        fails("cannot be written")
    assert nothing_left(tmp_path)


# ---- a model that another program has fetched


def fetch_with_another_program(served, cache) -> Path:  # the snapshot's folder
    "Put the model into a cache of Hugging Face's, with their own client"
    from huggingface_hub import hf_hub_download

    for name in served.files:
        path = hf_hub_download(REPO, name, endpoint=served.url, cache_dir=cache)
    return Path(path).parent


@pytest.fixture
def hf_copy(served, tmp_path):
    "The model in Hugging Face's own cache; the snapshot's folder"
    cache = tmp_path / "hf" / "hub"
    folder = fetch_with_another_program(served, cache)
    assert folder == cache / "models--HuggingFaceTB--SmolLM-135M" / "snapshots" / served.commit
    served.log.clear()
    return folder


def test_cache_of_hugging_face(served, hf_copy, monkeypatch, capfd):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = hub.fetch()
    assert "taken from Hugging Face's cache" in capfd.readouterr().err
    assert validate(folder) == TINY
    record = read_provenance(folder)
    assert (record["source"], record["revision"], record["note"]) == (
        f"hf-cache:{REPO}",
        served.commit,
        "revision main",
    )
    assert (folder / WEIGHTS).samefile(hf_copy / WEIGHTS), "no bytes are copied"
    assert not (hf_copy / PROVENANCE).exists()
    assert hub.fetch(quiet=True) == folder
    assert hub.fetch(revision=served.commit, quiet=True) != folder
    assert not served.log
    shutil.rmtree(hf_copy.parent.parent)
    assert validate(hub.fetch(quiet=True)) == TINY, "it outlives the other cache"
    assert not served.log


def test_cache_of_hugging_face_elsewhere(served, hf_copy, monkeypatch, tmp_path):
    (tmp_path / "hf" / "hub").rename(tmp_path / "other")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other"))
    assert read_provenance(hub.fetch())["source"] == f"hf-cache:{REPO}"
    assert not served.log


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer_config.json"])
def test_cache_of_hugging_face_is_damaged(served, hf_copy, capfd, name):
    blob = (hf_copy / name).resolve()
    data = blob.read_bytes()
    bad = data[:-1] + bytes([data[-1] ^ 1])
    blob.write_bytes(bad)
    folder = hub.fetch()
    err = capfd.readouterr().err
    assert f"{name} has " in err
    assert "fetching it" in err
    assert read_provenance(folder)["source"] == f"hub:{REPO}"
    assert (folder / name).read_bytes() == data
    assert blob.read_bytes() == bad, "what belongs to others is left alone"
    assert [n for n in served.files if served.gets(n)] == [name], "the other files are good"


def test_cache_of_hugging_face_lacks_a_file(served, hf_copy, monkeypatch):
    (hf_copy / "tokenizer.json").unlink()
    (hf_copy / WEIGHTS).unlink()
    folder = hub.fetch()
    assert read_provenance(folder)["source"] == f"hub:{REPO}"
    assert not served.gets(WEIGHTS), "its blob is there"


def test_cache_of_hugging_face_of_another_revision(served, hf_copy):
    served.branches.append("v1")
    assert read_provenance(hub.fetch(revision="v1"))["source"] == f"hub:{REPO}"
    fails("has no revision", revision="a/../../refs/main")
    assert read_provenance(hub.fetch(refresh=True))["source"] == f"hub:{REPO}"


def test_cache_of_hugging_face_is_copied_where_it_must(served, hf_copy, tmp_path, monkeypatch):
    "Into a folder of the user's, from files that may not be written, and where there are no links"
    own = hub.fetch(output=tmp_path / "own")
    assert read_provenance(own)["source"] == f"hf-cache:{REPO}"
    assert not (own / WEIGHTS).samefile(hf_copy / WEIGHTS)
    assert hub.fetch(output=tmp_path / "own") == own, "the same model"
    assert not served.log
    monkeypatch.setattr(hub, "_link", lambda old, new: False)
    folder = hub.fetch()
    assert not (folder / WEIGHTS).samefile(hf_copy / WEIGHTS)
    assert (folder / WEIGHTS).read_bytes() == served.files[WEIGHTS]
    assert not served.log


def test_cache_of_hugging_face_without_links(served, hf_copy):
    "As on Windows: the snapshot holds the files themselves, and no hash is known"
    for p in list(hf_copy.iterdir()):
        data = p.read_bytes()
        p.unlink()
        p.write_bytes(data)
    shutil.rmtree(hf_copy.parent.parent / "blobs")
    assert read_provenance(hub.fetch())["source"] == f"hf-cache:{REPO}"
    assert not served.log


def test_cache_of_hugging_face_with_shards(tmp_path, monkeypatch):
    with HubServer(write_tiny(tmp_path / "shards", max_shard=2_000_000)) as served:
        fetch_with_another_program(served, tmp_path / "hf" / "hub")
    folder = hub.fetch()
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert validate(folder) == TINY
    assert read_provenance(folder)["source"] == f"hf-cache:{REPO}"
