"The server over real sockets: nothing but the folder's files, and HTTP as browsers expect it"

import contextlib
import errno
import http.client
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from email.utils import formatdate

import psutil
import pytest

from smollm_nb.browser import serve
from smollm_nb.browser.serve import ISOLATION, POLICY, BundleServer, Handler, ServeError

CHUNK = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def site(tmp_path):
    "A small bundle, a secret beside it"
    d = tmp_path / "site"
    (d / "weights").mkdir(parents=True)
    (d / "index.html").write_text("<h1>hello</h1>")
    (d / "weights" / "000-0123abcd.gz").write_bytes(CHUNK)
    for name in (
        "app.js",
        "style.css",
        "model_manifest.json",
        "kernel.wasm",
        "chat_template.jinja",
        "LICENSE-jinja",
        "app.webmanifest",
        "empty.json",
    ):
        (d / name).write_text("x" * (name != "empty.json"))
    (tmp_path / "secret.txt").write_text("secret")
    return d


@pytest.fixture
def server(site):
    with BundleServer(site, port=0) as s:
        yield s


def raw(server, data: bytes, then: bytes = b"") -> bytes:
    "What comes back for exactly these bytes, until the server hangs up or all is quiet"
    with socket.create_connection(server.server_address[:2], timeout=2) as s:
        s.sendall(data)
        out = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while block := s.recv(1 << 16):
                out += block
    return out


def ask(server, path="/", method="GET", host=None, **headers):
    "Status, headers and body of one request"
    c = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    with contextlib.closing(c):
        c.request(
            method,
            path,
            headers={k.replace("_", "-"): v for k, v in headers.items()}
            | (dict(Host=host) if host is not None else {}),
        )
        r = c.getresponse()
        return r.status, r.headers, r.read()


@pytest.mark.parametrize(
    "name, kind",
    {
        "/": "text/html; charset=utf-8",
        "/app.js": "text/javascript; charset=utf-8",
        "/style.css": "text/css; charset=utf-8",
        "/model_manifest.json": "application/json",
        "/kernel.wasm": "application/wasm",
        "/weights/000-0123abcd.gz": "application/gzip",
        "/chat_template.jinja": "text/plain; charset=utf-8",
        "/LICENSE-jinja": "text/plain; charset=utf-8",
        "/app.webmanifest": "application/manifest+json",
    }.items(),
)
def test_types_and_headers(server, name, kind):
    status, headers, body = ask(server, name)
    assert status == 200
    assert headers["Content-Type"] == kind
    assert int(headers["Content-Length"]) == len(body) > 0
    assert headers["Content-Security-Policy"] == POLICY
    assert POLICY == (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'self'"
    )
    assert {k: headers[k] for k in ISOLATION} == ISOLATION
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Content-Encoding" not in headers  # a .gz stays what it is: the page undoes it
    assert headers["Cache-Control"] == ("public, max-age=31536000, immutable" if "0123abcd" in name else "no-cache")


def test_without_isolation(site):
    with BundleServer(site, port=0, isolated=False) as s:
        assert not ISOLATION.keys() & dict(ask(s)[1]).keys()


def test_head_and_empty_files(server):
    status, headers, body = ask(server, "/weights/000-0123abcd.gz", "HEAD", Range="bytes=0-3")
    assert (status, int(headers["Content-Length"]), body) == (200, len(CHUNK), b"")  # ranges are for GET
    assert ask(server, "/nothing", "HEAD")[::2] == (404, b"")
    assert ask(server, "/empty.json")[::2] == (200, b"")
    assert ask(server, "/empty.json", Range="bytes=0-")[0] == 416


def test_ranges(server):
    path = "/weights/000-0123abcd.gz"
    for text, a, b in (
        ("bytes=0-9", 0, 10),
        ("bytes=1000000-", 1_000_000, len(CHUNK)),
        ("bytes=-5", len(CHUNK) - 5, len(CHUNK)),
        ("bytes=5-99999999", 5, len(CHUNK)),
    ):
        status, headers, body = ask(server, path, Range=text)
        assert (status, body) == (206, CHUNK[a:b])
        assert headers["Content-Range"] == f"bytes {a}-{b - 1}/{len(CHUNK)}"
        assert int(headers["Content-Length"]) == b - a
    status, headers, _ = ask(server, path, Range=f"bytes={len(CHUNK)}-")
    assert status == 416
    assert headers["Content-Range"] == f"bytes */{len(CHUNK)}"
    for odd in ("bytes=1-2,5-6", "bytes=", "bytes=9-3", "apples=1-2", "bytes=1-2x"):
        assert ask(server, path, Range=odd)[0] == 200


def test_a_range_of_another_file_is_the_whole_new_one(server, site):
    "If-Range: what was begun is only continued if the file is still the same"
    path = "/weights/000-0123abcd.gz"
    h = ask(server, path, "HEAD")[1]
    for tag in (h["ETag"], h["Last-Modified"]):
        assert ask(server, path, Range="bytes=4-", If_Range=tag)[0] == 206
    (site / path[1:]).write_bytes(CHUNK + b"more")
    assert ask(server, path, Range="bytes=4-", If_Range=h["ETag"])[::2] == (200, CHUNK + b"more")


def test_not_modified(server, site):
    h = ask(server)[1]
    for request in (
        dict(If_None_Match=h["ETag"]),
        dict(If_None_Match=f'"other", W/{h["ETag"]}'),
        dict(If_None_Match="*"),
        dict(If_Modified_Since=h["Last-Modified"]),
        dict(If_Modified_Since=formatdate(time.time() + 99, usegmt=True)),
    ):
        status, headers, body = ask(server, "/", **request)
        assert (status, body) == (304, b""), request
        assert headers["ETag"] == h["ETag"], request
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp", request
    for request in (
        dict(If_None_Match='"other"', If_Modified_Since=h["Last-Modified"]),
        dict(If_Modified_Since="Thu, 01 Jan 1970 00:00:00 GMT"),
        dict(If_Modified_Since="yesterday"),
    ):
        assert ask(server, "/", **request)[0] == 200
    (site / "index.html").write_text("<h1>changed</h1>")
    assert ask(server, "/", If_None_Match=h["ETag"])[2] == b"<h1>changed</h1>"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/%2E%2E%2Fsecret.txt",
        "/weights/../../secret.txt",
        "/weights/..%2f..%2fsecret.txt",
        "/..%5csecret.txt",
        "/..\\secret.txt",
        "/%252e%252e/secret.txt",
        "//secret.txt",
        "/./../secret.txt",
        "/index.html%00.js",
        "/%00",
        "/weights",
        "/weights/",
        "/.git/config",
        "/%2egit",
        "/secret.txt",
        "/%ff%fe",
        "/link",
        "/up/secret.txt",
        "/index.html/x",
        "*",
    ],
)
def test_nothing_else_is_there(server, site, tmp_path, path):
    (site / "link").symlink_to(tmp_path / "secret.txt")
    (site / "up").symlink_to(tmp_path)
    (site / ".git").mkdir()
    (site / ".git" / "config").write_text("secret")
    out = raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert out.startswith(b"HTTP/1.1 404")
    assert b"secret" not in out
    assert b"index.html" not in out


def test_an_absolute_path_is_not_the_systems(server, tmp_path):
    for target in (f"/{tmp_path}/secret.txt", f"{tmp_path}/secret.txt", f"file://{tmp_path}/secret.txt"):
        assert b"secret\n" not in raw(
            server, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
    # as one asks a proxy
    assert raw(
        server, b"GET http://localhost/app.js?v=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ).endswith(b"\r\n\r\nx")


def test_foreign_names_are_refused_on_loopback(server):
    port = server.server_address[1]
    for host in (
        "rebound.example",
        f"rebound.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "evil@localhost.example",
        "evil@localhost",
        f"evil@127.0.0.1:{port}",
        "localhost@evil.example",
        "localhost:80@evil",
        "localhost/evil",
        "localhost:x",
        "localhost evil",
        "::1",
    ):
        assert ask(server, host=host)[0] == 421, host
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
        assert ask(server, host=host)[0] == 200, host
    assert raw(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421")
    # as one asks a proxy: what stands here counts
    for target in ("http://evil.example/", "http://evil@localhost/"):
        out = raw(server, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert out.startswith(b"HTTP/1.1 421"), target


def test_a_server_of_the_network_answers_any_name(site):
    with BundleServer(site, host="0.0.0.0", port=0) as s:
        assert ask(s, host="notebook.lan")[0] == 200
        assert s.url == f"http://127.0.0.1:{s.server_address[1]}/"


def test_ipv6(site):
    try:
        s = BundleServer(site, host="::1", port=0)
    except ServeError as e:
        pytest.skip(f"no IPv6 here: {e}")
    with s:
        assert s.url.startswith("http://[::1]:")
        assert ask(s)[0] == 200
    with BundleServer(site, host="[::]", port=0) as s:
        assert s.url.startswith("http://[::1]:")
        assert not s.loopback
        assert ask(s)[0] == 200


@pytest.mark.parametrize(
    "host, loopback", [("localhost", True), ("127.0.0.1", True), ("127.0.0.9", True), ("0.0.0.0", False), ("0", False)]
)
def test_what_an_address_means(site, host, loopback):
    "Whether only this machine is answered follows from the address that is bound, not from its spelling"
    with BundleServer(site, host=host, port=0) as s:
        assert s.loopback == loopback
        assert re.fullmatch(r"http://(localhost|127\.0\.0\.[19]):\d+/", s.url)
        assert ask(s)[0] == 200


@pytest.mark.parametrize("host", ["", " ", "[]", "no host", "a" * 300, "..", "\0", "999.1.1.1"])
def test_what_is_no_address(site, host):
    with pytest.raises(ServeError):
        BundleServer(site, host=host, port=0)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_reads(server, method):
    status, headers, body = ask(server, "/", method)
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"
    assert body


@pytest.mark.parametrize(
    "data, code",
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"501"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request(server, data, code):
    out = raw(server, data)
    assert code in out.split(b"\r\n")[0]
    assert b"<" not in out
    assert ask(server)[0] == 200


def test_one_connection_serves_many_requests(server):
    c = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    with contextlib.closing(c):
        for path, want in (
            ("/app.js", b"x"),
            ("/nothing", None),
            ("/weights/000-0123abcd.gz", CHUNK),
            ("/", b"<h1>hello</h1>"),
        ):
            c.request("GET", path)
            r = c.getresponse()
            assert not r.will_close
            assert want is None or r.read() == want
            r.read()


def test_the_body_does_not_wait_for_an_acknowledgement_of_the_head(server, monkeypatch):
    "Two writes: joined by Nagle's algorithm, the second may wait 40 ms"
    seen, get = [], Handler.do_GET

    def do_get(self):
        seen.append(self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        get(self)

    monkeypatch.setattr(Handler, "do_GET", do_get)
    assert ask(server)[0] == 200
    assert seen and all(seen)


def test_a_body_is_not_taken_for_the_next_request(server):
    inner = b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    out = raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
    assert out.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 4\r\nContent-Length: 4",
        "Content-Length: 0\r\nContent-Length: 40",
        "Content-Length: 4, 4",
        "Content-Length: -1",
        "Content-Length: +0",
        "Content-Length: 0x0",
        "Content-Length: ",
        "Content-Length : 40",
        "Transfer-Encoding: chunked\r\nContent-Length: 40",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Host: localhost",
        "X: a\r\n b",
        "X: a\rContent-Length: 40",
        "X: a\0",
        "a line without a colon\r\nContent-Length: 40",
        ": x",
    ],
)
def test_headers_that_contradict_each_other(server, headers):
    "One answer, 400, and the end: what follows is not taken for a request"
    inner = "GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    out = raw(server, f"GET / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n{inner}".encode())
    assert out.startswith(b"HTTP/1.1 400 "), out
    assert out.count(b"HTTP/1.1 ") == 1, out
    assert b"Connection: close" in out, out
    assert ask(server)[0] == 200


def test_a_body_is_not_invited(server):
    out = raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert out.startswith(b"HTTP/1.1 200 ")


class Impatient(BundleServer):
    patience = 0.3  # seconds


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nX: "])
def test_a_request_that_comes_byte_by_byte_is_cut(site, begin):
    with Impatient(site, port=0) as s, socket.create_connection(s.server_address[:2], timeout=30) as slow:
        slow.sendall(begin)
        with contextlib.suppress(ConnectionError):  # cut while it sends
            for _ in range(600):
                slow.sendall(b"X")
                time.sleep(0.05)
                if not s._since:
                    break
        assert not s._since
        assert ask(s)[0] == 200


def test_more_connections_than_there_is_room_for(site, monkeypatch):
    "Whoever has waited longest goes; whoever asks is answered"
    monkeypatch.setattr(serve, "MAX_CONNECTIONS", 8)
    with BundleServer(site, port=0) as s, contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(s.server_address[:2], timeout=30))
        for _ in range(5):
            assert ask(s)[0] == 200
        assert len(s._since) <= 8


STARVED = """import os, resource, sys, time
from smollm_nb.browser.serve import BundleServer
with BundleServer(sys.argv[1], port=0) as s:
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
    print(s.server_address[1], flush=True)
    for line in sys.stdin:
        if line == "take\\n":
            taken = []
            while s._since: time.sleep(0.01)
            try:
                while True: taken.append(os.dup(0))
            except OSError: print(len(taken), flush=True)
        else:
            for fd in taken: os.close(fd)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit of file numbers to lower")
def test_no_file_numbers_left(site):
    "Idle connections give way, and while there are none the server waits instead of spinning"
    with (
        subprocess.Popen(
            [sys.executable, "-c", STARVED, str(site)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as p,
        contextlib.ExitStack() as stack,
    ):
        address = ("127.0.0.1", int(p.stdout.readline()))
        request = b"GET /app.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

        def answer(s):
            return b"".join(iter(lambda: s.recv(1 << 16), b""))

        # twice as many as it may have
        for _ in range(100):
            stack.enter_context(socket.create_connection(address, timeout=60))
        while True:
            with socket.create_connection(address, timeout=60) as s:
                s.sendall(request)
                if (out := answer(s)).startswith(b"HTTP/1.1 200 "):
                    break
            assert out.startswith(b"HTTP/1.1 503 ")  # where threads of closed connections are slow to go
        stack.close()  # all idle ones
        p.stdin.write("take\n")
        p.stdin.flush()
        assert int(p.stdout.readline()) > 10
        with socket.create_connection(address, timeout=60) as s:
            s.sendall(request)
            before, start = psutil.Process(p.pid).cpu_times(), time.perf_counter()
            time.sleep(1)
            after, wall = psutil.Process(p.pid).cpu_times(), time.perf_counter() - start
            assert after.user + after.system - before.user - before.system < 0.4 * wall
            p.stdin.write("give\n")
            p.stdin.flush()
            assert answer(s).startswith(b"HTTP/1.1 200 ")
        p.stdin.close()
        assert p.wait(30) == 0
        assert "Traceback" not in p.stderr.read()


def test_a_file_that_cannot_be_opened_now(server, monkeypatch):
    "No file number for the file itself: it is there, so it is not 404"

    def refuse(*a, **k):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", refuse)
    status, headers, body = ask(server, "/app.js")
    monkeypatch.undo()
    assert status == 503
    assert headers["Retry-After"] == "1"
    assert ask(server, "/app.js")[0] == 200


def test_frames(site):
    "A page of another origin shows this one only where its owner said so, with threads where that page is isolated too"
    from lab_page import ARGS, CHROMIUM

    lacking = pytest.fail if os.environ.get("CI") else pytest.skip
    if not CHROMIUM:
        lacking("there is no Chromium here (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    (site / "index.html").write_text("<!doctype html><script src='say.js'></script>")
    (site / "say.js").write_text("parent.postMessage(String(crossOriginIsolated), '*')")
    outer = site.parent / "outer"
    outer.mkdir()
    (outer / "index.html").write_text("")
    page = (
        "<!doctype html><title>waiting</title><script>onmessage = e => document.title = e.data</script>"
        "<iframe src='%s' allow='cross-origin-isolated'></iframe>"
    )

    class Open(Handler):  # a page that frames what it likes
        def answer(self, code, headers):
            super().answer(code, headers | {"Content-Security-Policy": "frame-src *"})

    with contextlib.ExitStack() as stack:
        around = {
            isolated: stack.enter_context(BundleServer(outer, port=0, isolated=isolated, handler=Open))
            for isolated in (True, False)
        }
        closed = stack.enter_context(BundleServer(site, port=0))
        framed = stack.enter_context(
            BundleServer(site, port=0, frame_ancestors=[s.url.rstrip("/") for s in around.values()])
        )
        assert ask(framed)[1]["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert ask(framed, "/app.js")[1]["Cross-Origin-Resource-Policy"] == "same-origin"
        browser = stack.enter_context(sync_playwright()).chromium.launch(executable_path=CHROMIUM, args=ARGS)
        stack.callback(browser.close)
        for inner, isolated, want in (
            (framed, True, "true"),
            (framed, False, "false"),
            (closed, True, ""),
            (closed, False, ""),
        ):
            (outer / "index.html").write_text(page % inner.url)
            p = browser.new_page()
            p.goto(around[isolated].url)
            for _ in range(600):
                if p.title() != "waiting" or p.frames[-1].url.startswith("chrome-error:"):
                    break
                p.wait_for_timeout(100)
            shown = (want, inner.url) if want else ("waiting", "chrome-error://chromewebdata/")
            assert (p.title(), p.frames[-1].url) == shown
            p.close()


METHODS = ["GET", "HEAD", "POST", "get", "", "G\0T", "TRACE", "A" * 99]
TARGETS = [
    "/",
    "/app.js",
    "/weights/000-0123abcd.gz",
    "/../secret.txt",
    "/%2e%2e/secret.txt",
    "/..%5csecret.txt",
    "//secret.txt",
    "/weights/%2e%2e/%2e%2e/secret.txt",
    "http://localhost/",
    "http://evil/",
    "*",
    "",
    "/%",
    "/%zz",
    "/\xff",
    "/" + "a/" * 500,
    "/index.html?" + "q" * 9000,
    "/app.js#x",
    "/~",
    "/.",
    "/C:\\x",
]
VERSIONS = [
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/0.9",
    "HTTP/2.0",
    "HTTP/1.1.1",
    "http/1.1",
    "HTTP/",
    "",
    "HTTP/1.99999999999999999999",
]
HEADERS = [
    "Host: localhost",
    "Host: evil",
    "Host: evil@localhost",
    "Host:",
    "Range: bytes=0-9",
    "Range: bytes=9-0",
    "Range: bytes=-",
    "Range: bytes=" + "9" * 17 + "-",
    "Range: bytes=" + "9" * 40 + "-",
    "If-None-Match: *",
    'If-None-Match: "\xe9',
    "If-Modified-Since: yesterday",
    "If-Modified-Since: Thu, 01 Jan 99999 00:00:00 GMT",
    "If-Range: x",
    "Content-Length: 0",
    "Content-Length: 5",
    "Content-Length: x",
    "Transfer-Encoding: chunked",
    "Connection: keep-alive",
    "Connection: close",
    "Expect: 100-continue",
    " folded",
    "no colon",
    "X: " + "y" * 3000,
    "X\0: z",
    "Upgrade: h2c",
    "Cookie: a=\xc3\xa9",
]
CODES = {200, 206, 304, 400, 404, 405, 414, 416, 421, 431, 501, 505}


def odd_request(rng: random.Random) -> bytes:
    "Something that looks like a request, more or less"
    line = "GET / HTTP/1.1"
    if rng.random() < 0.7:
        line = " ".join(map(rng.choice, (METHODS, TARGETS, VERSIONS)))
    headers = rng.sample(HEADERS, rng.randrange(5)) + HEADERS[-1:] * rng.choice([0, 0, 0, 0, 200])
    if rng.random() < 0.8:
        headers.insert(0, "Host: localhost")
    out = bytearray(rng.choice(["\r\n", "\r\n", "\r\n", "\n", "\r"]).join([line, *headers, "", ""]).encode("latin-1"))
    for _ in range(rng.choice([0, 0, 0, 1, 3, 30])):  # bytes exchanged, left out, put in
        if not out:
            break
        at = rng.randrange(len(out))
        out[at : at + rng.randrange(2)] = rng.choice([b"\r", b"\n", b"\0", b":", b" ", bytes([rng.randrange(256)])])
    return bytes(out) * rng.choice([1, 1, 1, 2])


@pytest.mark.fuzz
def test_whatever_is_sent_is_answered_or_refused(site, fuzz, capfd):
    "Random requests: proper answers of few kinds, nothing but the folder's files, and the server goes on"
    rng, seen = random.Random(16), set()
    with BundleServer(site, port=0) as s:
        for i in range(3000 * fuzz):
            data = odd_request(rng)
            with socket.create_connection(s.server_address[:2], timeout=30) as c:
                out = b""
                with contextlib.suppress(OSError):  # the server may end the connection first
                    c.sendall(data)
                    c.shutdown(socket.SHUT_WR)
                    while block := c.recv(1 << 16):
                        out += block
                assert b"secret" not in out, data
                if out:
                    m = re.match(rb"HTTP/1\.1 (\d{3}) ", out)
                    assert m, (data, out[:200])
                    assert int(m[1]) in CODES, (data, out[:200])
                    seen.add(int(m[1]))
        assert ask(s)[0] == 200
    assert {200, 206, 304, 400, 404, 405, 416, 421, 431, 501, 505} <= seen, seen
    assert "Traceback" not in capfd.readouterr().err


def test_who_hangs_up_or_dawdles_bothers_nobody(server, capfd):
    address = server.server_address[:2]
    with socket.create_connection(address) as slow:
        # and never ends its request
        slow.sendall(b"GET /weights/000-0123abcd.gz HTTP/1.1\r\nHost: localhost\r\n")
        for _ in range(5):
            with socket.create_connection(address) as s:
                s.sendall(b"GET /weights/000-0123abcd.gz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(ask(server, "/weights/000-0123abcd.gz")[2] == CHUNK))
            for _ in range(8)
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join(20)
    assert results == [True] * 8
    assert "Traceback" not in capfd.readouterr().err


def test_faults_for_the_tests_of_others(site):
    "What a handler derived for a test can do"

    class Faulty(Handler):
        def intercept(self, path):
            if path and path.suffix == ".js":
                self.refuse(503, "not now")
            return bool(path and path.suffix == ".js")

        def send_body(self, f, begin, count):
            super().send_body(f, begin, count // 2)
            self.close_connection = True

    with BundleServer(site, port=0, handler=Faulty) as s:
        assert ask(s, "/app.js")[0] == 503
        with pytest.raises(http.client.IncompleteRead):
            ask(s, "/weights/000-0123abcd.gz")


def test_an_error_inside_is_shown(site, capfd):
    class Broken(Handler):
        def intercept(self, path):
            raise RuntimeError("a mistake of ours")

    with BundleServer(site, port=0, handler=Broken) as s:
        assert raw(s, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
    assert "a mistake of ours" in capfd.readouterr().err


def test_ports(site):
    with BundleServer(site, port=0) as s:
        with pytest.raises(ServeError, match="choose another --port"):
            BundleServer(site, port=s.server_address[1])
    with socket.socket() as taken:  # the default port may be in use: then any other
        with contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", 8000))
            taken.listen()
        with BundleServer(site) as s:
            assert ask(s)[0] == 200
            assert s.server_address[1] != 8000


def test_a_file_that_cannot_be_read(server, site, monkeypatch):
    if os.name == "nt" or os.geteuid() == 0:
        monkeypatch.setattr("builtins.open", lambda *a, **k: (_ for _ in ()).throw(PermissionError("no")))
    else:
        (site / "app.js").chmod(0)
    assert ask(server, "/app.js")[0] == 404
