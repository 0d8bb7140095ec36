"""A server for the browsers' tests: one small bundle under many names, and each name has a fault of its own.

`/bundle/` is the bundle as it was exported, `/tests/` are the pages that test, and `/NAME/` for any name of `RULES` is the bundle with that fault.
"""
import contextlib
import hashlib
import json
import socket
import threading
import time
from pathlib import Path
from urllib.parse import unquote

from smollm_nb.bench.browsers import ReportHandler, ReportServer

VICTIM = "weights/001-" # the chunk that faults hit


def manifest(h) -> dict:
    "The bundle's manifest, to be changed"
    return json.loads((h.server.folder/"bundle"/"model_manifest.json").read_text(encoding="utf-8"))


def send(h, data:bytes, kind:str="application/octet-stream", cut:int=0) -> bool:
    "Answer with these bytes; hang up `cut` bytes before their end"
    h.close_connection = bool(cut)
    h.answer(200, {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store"})
    h.wfile.write(data[:len(data) - cut])
    return True


def send_manifest(h, changed:dict) -> bool: return send(h, json.dumps(changed).encode(), "application/json")
def hang_up(h) -> bool:
    h.close_connection = True
    return True


def flipped(h, path, times) -> bool:
    "One byte of a chunk is another"
    if not h.rest.startswith(VICTIM) or h.times() > times: return False
    data = bytearray(path.read_bytes())
    data[len(data)//2] ^= 1
    return send(h, bytes(data))


def dies(h, path, times) -> bool:
    "Hang up in the middle of a chunk"
    return h.rest.startswith(VICTIM) and h.times() <= times and send(h, path.read_bytes(), cut=1000)


def slow(h, path) -> bool:
    if h.rest.startswith("weights/"): time.sleep(0.6)
    return False


def wrong_hash(h, path) -> bool:
    if h.rest != "model_manifest.json": return False
    m = manifest(h)
    m["weights"][1]["sha256"] = "0"*64
    return send_manifest(h, m)


def miscomputes(h, path) -> bool:
    if h.rest != "model_manifest.json": return False
    m = manifest(h)
    m["self_test"]["logits_sha256"] = "0"*64
    return send_manifest(h, m)


def truncated(h, path) -> bool:
    return h.rest == "model_manifest.json" and send(h, path.read_bytes()[:1500], "application/json")


def webpage(h, path) -> bool:
    return h.rest == "model_manifest.json" and send(h, b"<!doctype html><title>Welcome</title>", "text/html")


def missing(h, path) -> bool:
    if not h.rest.startswith(VICTIM): return False
    h.refuse(404, "there is no such file")
    return True


def script(h, path, name:str, before:str="", after:str="") -> bool:
    "A script of the runtime, something added to it"
    return h.rest == name and send(h, before.encode() + path.read_bytes() + after.encode(), "text/javascript")


NO_ROOM = "Cache.prototype.put = () => Promise.reject(new DOMException('full', 'QuotaExceededError'));\n"
def quota(h, path) -> bool: return script(h, path, "worker.js", NO_ROOM) or script(h, path, "loader.js", NO_ROOM)
def no_threads(h, path) -> bool: return script(h, path, "compute.js", "throw new Error('no thread today');\n")


def renewed(h, path) -> bool:
    "Once the page has said so, there is a new version: its last chunk has another name"
    last = manifest(h)["weights"][-1]
    if h.rest == "weights/renewed.gz": return send(h, (h.server.folder/"bundle"/last["path"]).read_bytes())
    if h.rest != "model_manifest.json" or not h.told(): return False
    m = manifest(h) | dict(version="new")
    m["weights"][-1]["path"] = "weights/renewed.gz"
    return send_manifest(h, m)


def page(h, path) -> bool:
    "The bundle's own page with a visitor in it, who is part of the bundle"
    tests = {n: (h.server.folder/"tests"/n).read_bytes() for n in ("page.js", "check.js")}
    if h.rest in tests: return send(h, tests[h.rest], "text/javascript")
    if h.rest == "model_manifest.json":
        m = manifest(h)
        m["files"] += [dict(path=n, role="module", bytes=len(b), stored=len(b), sha256=hashlib.sha256(b).hexdigest()) for n, b in tests.items()]
        return send_manifest(h, m)
    return script(h, path, "app.js", after="\nimport('./page.js');\n")


RULES = {
    "fresh": lambda h, p: False, "tabs": lambda h, p: False, "slow": slow, "slow-reload": slow,
    "dies": lambda h, p: dies(h, p, 99), "dies-once": lambda h, p: dies(h, p, 1), "flipped": lambda h, p: flipped(h, p, 99), "flipped-once": lambda h, p: flipped(h, p, 1),
    "wrong-hash": wrong_hash, "miscomputes": miscomputes, "truncated": truncated, "webpage": webpage, "missing": missing, "quota": quota, "no-threads": no_threads, "renewed": renewed, "page": page,
    "gone": lambda h, p: hang_up(h), "leaves": lambda h, p: h.told() and hang_up(h),
}


class SiteHandler(ReportHandler):
    "Sends faults"
    rule = rest = ""
    def do_GET(self):
        if self.path.startswith("/say?"): # a page of another origin came here to say something
            self.server.reports.put(json.loads(unquote(self.path[5:])))
            return self.answer(204, {"Content-Length": "0"})
        self.rule, _, self.rest = self.path.partition("?")[0].removeprefix("/").partition("/")
        if self.rule in RULES: self.path = f"/bundle/{self.rest}"
        super().do_GET()
    do_HEAD = do_GET

    def do_POST(self):
        if self.path != "/control": return super().do_POST()
        self.server.state[json.loads(self.rfile.read(int(self.headers["Content-Length"])))["site"]] = True
        self.answer(204, {"Content-Length": "0"})

    def intercept(self, path) -> bool: return self.rule in RULES and RULES[self.rule](self, path)

    def told(self) -> bool:
        "Whether a page has said that it is time"
        return bool(self.server.state.get(self.rule))

    def times(self) -> int:
        "How often this was asked for, this time included"
        with self.server.lock: n = self.server.state[self.rule, self.rest] = self.server.state.get((self.rule, self.rest), 0) + 1
        return n

    def _known_host(self) -> bool: return super()._known_host() or self.headers.get("Host", "").startswith("lan.test:")


class SiteServer(ReportServer):
    "What the browsers talk to"
    def __init__(self, folder:Path, isolated:bool):
        self.state, self.lock, self.connections = {}, threading.Lock(), []
        super().__init__(folder, isolated, SiteHandler)

    def process_request(self, request, client_address):
        self.connections.append(request)
        super().process_request(request, client_address)

    def __exit__(self, *exc):
        "Gone at once, connections that browsers keep open included"
        super().__exit__(*exc)
        for c in self.connections:
            with contextlib.suppress(OSError): c.shutdown(socket.SHUT_RDWR)
