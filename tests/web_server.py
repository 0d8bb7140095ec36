"""A server for the browsers' tests: one small bundle under many names, and each name has a fault of its own.

`/bundle/` is the bundle as it was exported, `/tests/` are the pages that test, and `/NAME/` for any name of `RULES` is
the bundle with that fault.
"""

import contextlib
import gzip
import hashlib
import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from smollm_nb.bench.browsers import ReportHandler, ReportServer
from smollm_nb.browser.serve import TYPES

VICTIM = "weights/001-"  # the chunk that faults hit


def manifest(h) -> dict:
    "The bundle's manifest, to be changed"
    return json.loads((h.server.folder / "bundle" / "model_manifest.json").read_text(encoding="utf-8"))


def send(h, data: bytes, kind: str = "application/octet-stream", cut: int = 0, code: int = 200, **headers: str) -> bool:
    "Answer with these bytes; hang up `cut` bytes before their end"
    h.close_connection = bool(cut)
    h.answer(code, {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store"} | headers)
    h.wfile.write(data[: len(data) - cut])
    return True


def send_manifest(h, changed: dict) -> bool:
    return send(h, json.dumps(changed).encode(), "application/json")


def hang_up(h) -> bool:
    h.close_connection = True
    return True


def flipped(h, path, times) -> bool:
    "One byte of a chunk is another"
    if not h.rest.startswith(VICTIM) or h.times() > times:
        return False
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    return send(h, bytes(data))


def dies(h, path, times) -> bool:
    "Hang up in the middle of a chunk"
    return h.rest.startswith(VICTIM) and h.times() <= times and send(h, path.read_bytes(), cut=1000)


def slow(h, path) -> bool:
    if h.rest.startswith("weights/"):
        time.sleep(0.6)
    return False


def wrong_hash(h, path) -> bool:
    if h.rest != "model_manifest.json":
        return False
    m = manifest(h)
    m["weights"][1]["sha256"] = "0" * 64
    return send_manifest(h, m)


def miscomputes(h, path) -> bool:
    if h.rest != "model_manifest.json":
        return False
    m = manifest(h)
    m["self_test"]["logits_sha256"] = "0" * 64
    return send_manifest(h, m)


def truncated(h, path) -> bool:
    return h.rest == "model_manifest.json" and send(h, path.read_bytes()[:1500], "application/json")


def webpage(h, path) -> bool:
    return h.rest == "model_manifest.json" and send(h, b"<!doctype html><title>Welcome</title>", "text/html")


def unsound(h, change) -> bool:
    "A manifest that something was done to"
    if h.rest != "model_manifest.json":
        return False
    m = manifest(h)
    change(m)
    return send_manifest(h, m)


def null_entry(m: dict) -> None:
    m["weights"][0] = None


def huge(m: dict) -> None:
    m["weights"][0]["bytes"] = m["weights"][0]["stored"] = 1 << 50


def many(m: dict) -> None:
    m["files"] *= 5000 // len(m["files"]) + 1


def send_page(h) -> bool:
    return send(h, b"<!doctype html><title>Welcome</title>", "text/html; charset=utf-8")


def page_for_chunk(h, path) -> bool:
    "What hosts do that have one page for everything"
    return h.rest.startswith(VICTIM) and send_page(h)


def encoded(h, path) -> bool:
    "A host that takes .gz for an encoding, as some development servers do; once the page has said so, it is gone"
    if h.told():
        return hang_up(h)
    return h.rest.endswith(".gz") and send(h, path.read_bytes(), "application/json", **{"Content-Encoding": "gzip"})


def cors(h, path) -> bool:
    "Other origins may read it"
    h.extra |= {"Access-Control-Allow-Origin": "*"}
    return False


def lax(h, path) -> bool:
    "Scripts whose workers may ask other origins"
    h.extra |= {"Content-Security-Policy": POLICIES["open"]}
    return False


def no_wasm(h, path) -> bool:
    "A policy that lets nobody compile"
    h.extra |= {"Content-Security-Policy": "default-src 'self'"}
    return False


def letters(h, path) -> bool:
    "As many bytes as the tokenizer has when it is inflated, called encoded"
    if h.rest != "tokenizer.json.gz":
        return False
    size = next(f["bytes"] for f in manifest(h)["files"] if f["path"] == h.rest)
    return send(h, gzip.compress(b"A" * size), "application/json", **{"Content-Encoding": "gzip"})


def raw_chunk(h, path, change) -> bool:
    "A chunk that the host has inflated, and done something to"
    return h.rest.startswith(VICTIM) and send(h, change(gzip.decompress(path.read_bytes())))


def once_told(h, act) -> bool:
    return h.told() and act(h)


def overloaded(h) -> bool:
    return send(h, b"try later", "text/plain", code=503)


def redirected(h) -> bool:
    if h.rest == "login.html":
        return send_page(h)
    return send(h, b"", code=302, Location=f"/{h.rule}/login.html")


SCRIPT_NAMES = ("worker.js", "loader.js", "load.js", "compute.js", "vendor/jinja.js")


def stall(h) -> bool:
    "Nothing comes, and nobody hangs up"
    h.server.over.wait(90)
    return hang_up(h)


SCRIPT_FAULTS = {
    "503": lambda h, p: send(h, b"try later", "text/plain", code=503),
    "503-once": lambda h, p: h.times() == 1 and send(h, b"try later", "text/plain", code=503),
    "404": lambda h, p: send(h, b"not here", "text/plain", code=404),
    "html": lambda h, p: send_page(h),
    "text": lambda h, p: send(h, p.read_bytes(), "text/plain"),
    "stall": lambda h, p: stall(h),
    "stall-once": lambda h, p: h.times() == 1 and stall(h),
}


def script_fault(name: str, fault):
    "A rule: one script of the runtime has a fault"
    return lambda h, p: h.rest == name and fault(h, p)


def missing(h, path) -> bool:
    if not h.rest.startswith(VICTIM):
        return False
    h.refuse(404, "there is no such file")
    return True


def script(h, path, name: str, before: str = "", after: str = "") -> bool:
    "A script of the runtime, something added to it"
    return h.rest == name and send(h, before.encode() + path.read_bytes() + after.encode(), "text/javascript")


NO_ROOM = "Cache.prototype.put = () => Promise.reject(new DOMException('full', 'QuotaExceededError'));\n"


def quota(h, path) -> bool:
    return script(h, path, "worker.js", NO_ROOM) or script(h, path, "loader.js", NO_ROOM)


REFUSED = "new DOMException('The operation is insecure.', 'SecurityError')"
STORAGE = {
    "blocked": f"Object.defineProperty(globalThis, 'caches', {{ get() {{ throw {REFUSED}; }} }});\n",
    "refused": f"CacheStorage.prototype.open = () => Promise.reject({REFUSED});\n",
    "unputtable": f"const put = () => Promise.reject({REFUSED});\n"
    "const match = async () => undefined, keys = async () => [];\n"
    "CacheStorage.prototype.open = async () => ({ match, keys, put });\n",
}


def storage(before: str):
    "A rule: a browser in which the page and its workers may keep nothing"
    return lambda h, p: any(script(h, p, n, before) for n in ("smollm.js", "worker.js", "loader.js"))


def no_threads(h, path) -> bool:
    return script(h, path, "compute.js", "throw new Error('no thread today');\n")


def renewed(h, path) -> bool:
    "Once the page has said so, there is a new version: its last chunk has another name"
    last = manifest(h)["weights"][-1]
    if h.rest == "weights/renewed.gz":
        return send(h, (h.server.folder / "bundle" / last["path"]).read_bytes())
    if h.rest != "model_manifest.json" or not h.told():
        return False
    m = manifest(h) | dict(version="new")
    m["weights"][-1]["path"] = "weights/renewed.gz"
    return send_manifest(h, m)


def with_files(m: dict, scripts: dict[str, bytes]) -> dict:
    "A manifest that lists these scripts, in place of those of the same names"

    def entry(name: str, data: bytes) -> dict:
        role, digest = "page" if name.endswith(".html") else "module", hashlib.sha256(data).hexdigest()
        return dict(path=name, role=role, bytes=len(data), stored=len(data), sha256=digest)

    others = [e for e in m["files"] if e["path"] not in scripts]
    return m | dict(files=others + [entry(*pair) for pair in scripts.items()])


def replaced(h, data: dict[str, bytes], raw: bytes | None = None) -> bool:
    "The bundle with other files of these names; `raw` is what a .gz holds"
    if h.rest in data:
        return send(h, data[h.rest])
    if h.rest != "model_manifest.json":
        return False
    m = manifest(h)
    for e in m["files"]:
        if b := data.get(e["path"]):
            e |= dict(bytes=len(b), stored=len(b), sha256=hashlib.sha256(b).hexdigest())
        if b and raw:
            e |= dict(bytes=len(raw), raw_sha256=hashlib.sha256(raw).hexdigest())
    return send_manifest(h, m)


def tokenizer(h, path, change) -> bool:
    "A tokenizer that something was done to"
    name = "tokenizer.json.gz"
    rules = json.loads(gzip.decompress((h.server.folder / "bundle" / name).read_bytes()))
    change(rules)
    raw = json.dumps(rules, ensure_ascii=False).encode()
    return replaced(h, {name: gzip.compress(raw, mtime=0)}, raw)


def begun(rules: dict) -> None:
    "A token before every text"
    name = "<|im_start|>"
    single = [dict(SpecialToken=dict(id=name, type_id=0)), dict(Sequence=dict(id="A", type_id=0))]
    tokens = {name: dict(id=name, ids=[1], tokens=[name])}
    rules["post_processor"] = dict(type="TemplateProcessing", single=single, pair=[], special_tokens=tokens)


def padded(rules: dict) -> None:
    "The last token goes; the model's embedding keeps its row"
    rules["model"]["merges"].pop()


def ends(h, path) -> bool:
    "Another end token, as the page says"
    name = "tokenizer_config.json"
    config = json.loads((h.server.folder / "bundle" / name).read_text(encoding="utf-8")) | dict(eos_token=h.told())
    return replaced(h, {name: json.dumps(config).encode()})


def turns(h, path) -> bool:
    "A chat template that ends a turn with another token, as the page says"
    text = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + str(h.told()) + "\n{% endfor %}"
    return replaced(h, {"chat_template.jinja": text.encode()})


def small_page(h, version: int) -> dict[str, bytes]:
    "A page of one version: its scripts say which, and one of them no other version has"
    only, export = {1: "lost", 2: "gained"}[version], f"export const version = {version};\n"
    app = f"import {{ version as part }} from './part.js';\nimport './{only}.js';\n"
    app += f"globalThis.versions = {{ app: {version}, part, others: ['{only}'] }};\nawait import('./update.js');\n"
    page = '<!doctype html>\n<script type="module" src="app.js"></script>\n<body></body>\n'
    helper = f"import {{ version as part }} from './part.js';\npostMessage([{version}, part]);\n"
    texts = {"index.html": page, "app.js": app, "helper.js": helper}
    texts |= {f"{n}.js": export for n in ("part", "later", only)}
    tests = {n: (h.server.folder / "tests" / n).read_bytes() for n in ("update.js", "check.js")}
    return tests | {name: text.encode() for name, text in texts.items()}


def update(h, path) -> bool:
    "A folder that is replaced by another version, and a host that answers with something else"
    how, name = h.told() or "1", h.rest or "index.html"
    if how == "login":
        return send_page(h)
    if how == "503":
        return overloaded(h)
    files = small_page(h, 1 if how == "1" else 2)
    if name in files:
        return send(h, files[name], "text/plain" if how == "types" else TYPES[Path(name).suffix])
    if name != "model_manifest.json":
        return False
    m = with_files(manifest(h), files) | dict(version="v1" if how == "1" else "v2")
    if how in ("half", "types"):
        m = with_files(m, {"part.js": b"export const version = 3;\n"}) | dict(version="v3")
    return send_manifest(h, m)


def page(h, path) -> bool:
    "The bundle's own page with a visitor in it, who is part of the bundle"
    app = (h.server.folder / "bundle" / "app.js").read_bytes() + b"\nimport('./page.js');\n"
    scripts = dict(
        {n: (h.server.folder / "tests" / n).read_bytes() for n in ("page.js", "check.js")}, **{"app.js": app}
    )
    if h.rest in scripts:
        return send(h, scripts[h.rest], "text/javascript")
    return h.rest == "model_manifest.json" and send_manifest(h, with_files(manifest(h), scripts))


RULES = {
    "fresh": lambda h, p: False,
    "tabs": lambda h, p: False,
    "slow": slow,
    "slow-reload": slow,
    "dies": lambda h, p: dies(h, p, 99),
    "dies-once": lambda h, p: dies(h, p, 1),
    "flipped": lambda h, p: flipped(h, p, 99),
    "flipped-once": lambda h, p: flipped(h, p, 1),
    "wrong-hash": wrong_hash,
    "miscomputes": miscomputes,
    "truncated": truncated,
    "webpage": webpage,
    "missing": missing,
    "quota": quota,
    "no-threads": no_threads,
    "renewed": renewed,
    "page": page,
    "null-entry": lambda h, p: unsound(h, null_entry),
    "huge": lambda h, p: unsound(h, huge),
    "many": lambda h, p: unsound(h, many),
    "page-for-chunk": page_for_chunk,
    "encoded": encoded,
    "cors": cors,
    "lax": lax,
    "no-wasm": no_wasm,
    "letters": letters,
    "cors-encoded": lambda h, p: cors(h, p) or encoded(h, p),
    "cors-page": lambda h, p: h.rest not in SCRIPT_NAMES and cors(h, p),
    "nobody": lambda h, p: lax(h, p),
    "short-raw": lambda h, p: raw_chunk(h, p, lambda b: b[:-1]),
    "long-raw": lambda h, p: raw_chunk(h, p, lambda b: b + b[:1]),
    "login": lambda h, p: once_told(h, send_page),
    "overloaded": lambda h, p: once_told(h, overloaded),
    "redirected": lambda h, p: once_told(h, redirected),
    "ends": ends,
    "turns": turns,
    "begun": lambda h, p: tokenizer(h, p, begun),
    "padded": lambda h, p: tokenizer(h, p, padded),
    "update": update,
    "missed": lambda h, p: False,
    "unplugged": lambda h, p: once_told(h, overloaded),
    **{name: storage(before) for name, before in STORAGE.items()},
    **{
        f"{fault}-{name.replace('/', '_')}": script_fault(name, act)
        for fault, act in SCRIPT_FAULTS.items()
        for name in SCRIPT_NAMES
    },
    "gone": lambda h, p: hang_up(h),
    "leaves": lambda h, p: h.told() and hang_up(h),
}


# for pages that have to do with other origins; `?policy=` asks for one
POLICIES = {
    "open": "default-src * blob: data:; script-src * blob: data: 'wasm-unsafe-eval'",
    "no-blob": "default-src *; script-src * 'wasm-unsafe-eval'",
}


class SiteHandler(ReportHandler):
    "Sends faults"

    rule = rest = ""
    extra = {}  # headers of this answer

    def do_GET(self):
        if self.path.startswith("/say?"):  # a page of another origin came here to say something
            self.server.reports.put(json.loads(unquote(self.path[5:])))
            return self.answer(204, {"Content-Length": "0"})
        path, _, query = self.path.partition("?")
        self.rule, _, self.rest = path.removeprefix("/").partition("/")
        if self.rule == "count":
            return send(self, json.dumps(self.server.asked[self.rest]).encode(), "application/json")
        with self.server.lock:
            self.server.asked[f"{self.rule}/{self.rest}"] += 1
        policy = POLICIES.get(dict(parse_qsl(query)).get("policy"))
        self.extra = {"Content-Security-Policy": policy} if policy else {}
        if self.headers.get("Origin") == "null":  # a page in a sandbox
            self.extra |= {"Access-Control-Allow-Origin": "null"}
        if self.rule in RULES:
            self.path = f"/bundle/{self.rest}"
        super().do_GET()

    do_HEAD = do_GET

    def answer(self, code: int, headers: dict[str, str]) -> None:
        super().answer(code, headers | self.extra)

    def do_POST(self):
        if self.path != "/control":
            return super().do_POST()
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.state[said["site"]] = said.get("value", True)
        self.answer(204, {"Content-Length": "0"})

    def intercept(self, path) -> bool:
        return self.rule in RULES and RULES[self.rule](self, path)

    def told(self):
        "Whether a page has said that it is time, or what it has said"
        return self.server.state.get(self.rule)

    def times(self) -> int:
        "How often this was asked for, this time included"
        with self.server.lock:
            n = self.server.state[self.rule, self.rest] = self.server.state.get((self.rule, self.rest), 0) + 1
        return n

    def _known_host(self) -> bool:
        return super()._known_host() or self.headers.get("Host", "").startswith("lan.test:")


class SiteServer(ReportServer):
    "What the browsers talk to"

    def __init__(self, folder: Path, isolated: bool, beside: "SiteServer|None" = None):
        self.state = beside.state if beside else {}  # what pages have said, to either of two servers
        self.asked, self.lock, self.connections, self.over = Counter(), threading.Lock(), [], threading.Event()
        super().__init__(folder, isolated, SiteHandler)

    def process_request(self, request, client_address):
        self.connections.append(request)
        super().process_request(request, client_address)

    def __exit__(self, *exc):
        "Gone at once, connections that browsers keep open included"
        self.over.set()
        super().__exit__(*exc)
        for c in self.connections:
            with contextlib.suppress(OSError):
                c.shutdown(socket.SHUT_RDWR)
