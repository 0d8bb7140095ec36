"A small local server that speaks the Hugging Face hub's protocol, and misbehaves on request"

import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from smollm_nb.core import FetchError
from smollm_nb.models import hub

LARGE = 100_000  # bytes: files from here on are in LFS, with a SHA-256 instead of git's hash


def is_lfs(name: str, data: bytes) -> bool:
    "Whether the hub would keep a file in LFS"
    return name.endswith(".safetensors") or len(data) >= LARGE


def digest(name: str, data: bytes) -> str:
    "The hash that the hub states for a file"
    return (
        hashlib.sha256(data).hexdigest()
        if is_lfs(name, data)
        else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    )


@dataclass
class Faults:
    "What goes wrong; all of it off at first"

    cut_after: int = 0  # bytes of a body after which the connection is cut
    cuts: int = 0  # how many bodies are cut
    refuse: list = field(default_factory=list)  # (status, X-Error-Code) of the next answers to /api
    refuse_file: list = field(default_factory=list)  # the same for files
    status: tuple | None = None  # (status, X-Error-Code) of every answer to /api
    file_status: tuple | None = None  # of every answer to a file
    flip: dict = field(default_factory=dict)  # name → how many times it is sent with a changed byte
    cut_short: dict = field(default_factory=dict)  # name → bytes left out at its end, the listing unchanged
    pad: dict = field(default_factory=dict)  # name → bytes added at its end, the listing unchanged
    pause: float = 0  # seconds before each 64 KiB of a body
    silent: float = 0  # seconds before any answer to /api
    redirect: bool = False  # large files are answered with the address of another place
    bare: bool = False  # the listing states no sizes and hashes
    sizeless: bool = False  # nor does the head of a file
    no_ranges: bool = False  # ranges are ignored
    extra_names: list = field(default_factory=list)  # further names in the listing
    body: bytes | None = None  # sent instead of the listing
    no_commit: bool = False  # the listing names no commit
    token: str | None = None  # wanted in the Authorization header


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        with hub.lock:
            hub.log.append((self.command, path, self.headers.get("Range")))
        with contextlib.suppress(ConnectionError):
            if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
                return self.listing(hub, *m.groups())
            if m := re.fullmatch(r"/cdn/(.+)", path):
                return self.body(hub, m[1])
            if m := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.file(hub, *m.groups())
            self.refuse(404, "EntryNotFound")

    def refuse(self, status, code=None, after=None):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if after is not None:
            self.send_header("Retry-After", str(after))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def listing(self, hub, repo, revision):
        faults = hub.faults
        time.sleep(faults.silent)
        if faults.refuse:
            return self.refuse(*faults.refuse.pop(0))
        if faults.status:
            return self.refuse(*faults.status)
        if faults.token and self.headers.get("Authorization") != f"Bearer {faults.token}":
            return self.refuse(401, "GatedRepo")
        if repo != hub.repo:
            return self.refuse(401, "RepoNotFound")
        if revision not in (*hub.branches, hub.commit):
            return self.refuse(404, "RevisionNotFound")
        body = faults.body
        if body is None:
            body = json.dumps(self.model_info(hub)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def model_info(self, hub):
        siblings = []
        for name, data in hub.files.items():
            entry = dict(rfilename=name)
            if not hub.faults.bare:
                entry |= dict(size=len(data), blobId="0" * 40 if is_lfs(name, data) else digest(name, data))
                if is_lfs(name, data):
                    entry["lfs"] = dict(sha256=digest(name, data), size=len(data), pointerSize=134)
            siblings.append(entry)
        siblings += [dict(rfilename=n) for n in hub.faults.extra_names]
        return dict(id=hub.repo, modelId=hub.repo, private=False, tags=[], siblings=siblings) | (
            {} if hub.faults.no_commit else dict(sha=hub.commit)
        )

    def file(self, hub, repo, commit, name):
        faults = hub.faults
        if faults.refuse_file:
            return self.refuse(*faults.refuse_file.pop(0))
        if faults.file_status:
            return self.refuse(*faults.file_status)
        if repo != hub.repo or commit not in (hub.commit, *hub.branches) or name not in hub.files:
            return self.refuse(404, "EntryNotFound")
        if not (faults.redirect and is_lfs(name, hub.files[name])):
            return self.body(hub, name)
        self.send_response(302)
        self.send_header("Location", f"{hub.url}/cdn/{name}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def body(self, hub, name):
        faults, data = hub.faults, hub.files[name]
        etag = digest(name, data)
        data = data[: len(data) - faults.cut_short.get(name, 0)] + b"\0" * faults.pad.get(name, 0)
        if self.command == "GET" and faults.flip.get(name):
            faults.flip[name] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = 0
        if (m := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and not faults.no_ranges:
            start = int(m[1])
            if start >= len(data):
                return self.refuse(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", hub.commit)
        if not faults.sizeless:
            if is_lfs(name, data):
                self.send_header("X-Linked-Etag", f'"{etag}"')
                self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("Content-Length", str(len(data) - start))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            self.send_body(hub, name, data[start:])

    def send_body(self, hub, name, data):
        end = len(data)
        with hub.lock:
            if hub.faults.cuts and hub.faults.cut_after < end:
                hub.faults.cuts -= 1
                end, self.close_connection = hub.faults.cut_after, True
        for i in range(0, end, 1 << 16):
            time.sleep(hub.faults.pause)
            self.wfile.write(data[i : min(end, i + (1 << 16))])
            with hub.lock:
                hub.sent[name] = hub.sent.get(name, 0) + min(end - i, 1 << 16)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients that go away are part of the tests


class HubServer:
    "Serves the files of a folder as one model; a context manager"

    def __init__(
        self,
        folder,  # a checkpoint folder
        repo="HuggingFaceTB/SmolLM-135M",
        commit="c0ffee" * 6 + "beef",
    ):
        self.files = {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir()) if p.name != "provenance.json"}
        self.repo, self.commit, self.branches = repo, commit, ["main"]
        self.faults, self.log, self.sent, self.lock = Faults(), [], {}, threading.Lock()
        self.httpd = Server(("127.0.0.1", 0), Handler)
        self.httpd.hub = self
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.httpd.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.httpd.shutdown()
        self.httpd.server_close()

    def gets(self, name):
        "The Range headers of every GET of a file, in order"
        return [r for method, path, r in self.log if method == "GET" and path.endswith("/" + name)]


# ---- for the tests of hub.fetch


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    "A cache of its own, no credentials, short waits, and no network unless a test gives one"
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_OFFLINE",
        "HF_HUB_CACHE",
        "TRANSFORMERS_OFFLINE",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    monkeypatch.setattr(hub, "WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(hub, "PATIENCE", dict(auto=2.0, hub=3.0))


@pytest.fixture
def served(tiny_folder, monkeypatch):
    with HubServer(tiny_folder) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def closed_port():
    "An address where nobody listens"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}"


def fails(match, *args, error=FetchError, **kw):
    "The message of the one-line error that fetch must raise"
    with pytest.raises(error, match=match) as e:
        hub.fetch(*args, **kw)
    assert "\n" not in str(e.value)
    return str(e.value)
