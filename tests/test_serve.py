"The server over real sockets: nothing but the folder's files, and HTTP as browsers expect it"
import contextlib
import http.client
import os
import socket
import threading
import time
from email.utils import formatdate

import pytest

from smollm_nb.browser.serve import ISOLATION, POLICY, BundleServer, Handler, ServeError

CHUNK = bytes(range(256))*4096 # 1 MiB


@pytest.fixture
def site(tmp_path):
    "A small bundle, a secret beside it"
    d = tmp_path/"site"
    (d/"weights").mkdir(parents=True)
    (d/"index.html").write_text("<h1>hello</h1>")
    (d/"weights"/"000-0123abcd.gz").write_bytes(CHUNK)
    for name in ("app.js", "style.css", "model_manifest.json", "kernel.wasm", "chat_template.jinja", "LICENSE-jinja", "app.webmanifest", "empty.json"): (d/name).write_text("x"*(name != "empty.json"))
    (tmp_path/"secret.txt").write_text("secret")
    return d


@pytest.fixture
def server(site):
    with BundleServer(site, port=0) as s: yield s


def raw(server, data:bytes, then:bytes=b"") -> bytes:
    "What comes back for exactly these bytes, until the server hangs up or all is quiet"
    with socket.create_connection(server.server_address[:2], timeout=2) as s:
        s.sendall(data)
        out = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while block := s.recv(1 << 16): out += block
    return out


def ask(server, path="/", method="GET", host=None, **headers):
    "Status, headers and body of one request"
    c = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    with contextlib.closing(c):
        c.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()} | (dict(Host=host) if host is not None else {}))
        r = c.getresponse()
        return r.status, r.headers, r.read()


@pytest.mark.parametrize("name, kind", {"/": "text/html; charset=utf-8", "/app.js": "text/javascript; charset=utf-8", "/style.css": "text/css; charset=utf-8", "/model_manifest.json": "application/json",
    "/kernel.wasm": "application/wasm", "/weights/000-0123abcd.gz": "application/gzip", "/chat_template.jinja": "text/plain; charset=utf-8", "/LICENSE-jinja": "text/plain; charset=utf-8",
    "/app.webmanifest": "application/manifest+json"}.items())
def test_types_and_headers(server, name, kind):
    status, headers, body = ask(server, name)
    assert status == 200 and headers["Content-Type"] == kind and int(headers["Content-Length"]) == len(body) > 0
    assert headers["Content-Security-Policy"] == POLICY == "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'"
    assert {k: headers[k] for k in ISOLATION} == ISOLATION and headers["Cross-Origin-Resource-Policy"] == "same-origin" and headers["X-Content-Type-Options"] == "nosniff"
    assert "Content-Encoding" not in headers # a .gz stays what it is: the page undoes it
    assert headers["Cache-Control"] == ("public, max-age=31536000, immutable" if "0123abcd" in name else "no-cache")


def test_without_isolation(site):
    with BundleServer(site, port=0, isolated=False) as s: assert not ISOLATION.keys() & dict(ask(s)[1]).keys()


def test_head_and_empty_files(server):
    status, headers, body = ask(server, "/weights/000-0123abcd.gz", "HEAD", Range="bytes=0-3")
    assert (status, int(headers["Content-Length"]), body) == (200, len(CHUNK), b"") # ranges are for GET
    assert ask(server, "/nothing", "HEAD")[::2] == (404, b"")
    assert ask(server, "/empty.json")[::2] == (200, b"") and ask(server, "/empty.json", Range="bytes=0-")[0] == 416


def test_ranges(server):
    path = "/weights/000-0123abcd.gz"
    for text, a, b in (("bytes=0-9", 0, 10), ("bytes=1000000-", 1_000_000, len(CHUNK)), ("bytes=-5", len(CHUNK) - 5, len(CHUNK)), ("bytes=5-99999999", 5, len(CHUNK))):
        status, headers, body = ask(server, path, Range=text)
        assert (status, body) == (206, CHUNK[a:b]) and headers["Content-Range"] == f"bytes {a}-{b - 1}/{len(CHUNK)}" and int(headers["Content-Length"]) == b - a
    status, headers, _ = ask(server, path, Range=f"bytes={len(CHUNK)}-")
    assert status == 416 and headers["Content-Range"] == f"bytes */{len(CHUNK)}"
    for odd in ("bytes=1-2,5-6", "bytes=", "bytes=9-3", "apples=1-2", "bytes=1-2x"): assert ask(server, path, Range=odd)[0] == 200


def test_a_range_of_another_file_is_the_whole_new_one(server, site):
    "If-Range: what was begun is only continued if the file is still the same"
    path = "/weights/000-0123abcd.gz"
    h = ask(server, path, "HEAD")[1]
    for tag in (h["ETag"], h["Last-Modified"]): assert ask(server, path, Range="bytes=4-", If_Range=tag)[0] == 206
    (site/path[1:]).write_bytes(CHUNK + b"more")
    assert ask(server, path, Range="bytes=4-", If_Range=h["ETag"])[::2] == (200, CHUNK + b"more")


def test_not_modified(server, site):
    h = ask(server)[1]
    for request in (dict(If_None_Match=h["ETag"]), dict(If_None_Match=f'"other", W/{h["ETag"]}'), dict(If_None_Match="*"), dict(If_Modified_Since=h["Last-Modified"]),
                    dict(If_Modified_Since=formatdate(time.time() + 99, usegmt=True))):
        status, headers, body = ask(server, "/", **request)
        assert (status, body) == (304, b"") and headers["ETag"] == h["ETag"] and headers["Cross-Origin-Embedder-Policy"] == "require-corp", request
    for request in (dict(If_None_Match='"other"', If_Modified_Since=h["Last-Modified"]), dict(If_Modified_Since="Thu, 01 Jan 1970 00:00:00 GMT"), dict(If_Modified_Since="yesterday")): assert ask(server, "/", **request)[0] == 200
    (site/"index.html").write_text("<h1>changed</h1>")
    assert ask(server, "/", If_None_Match=h["ETag"])[2] == b"<h1>changed</h1>"


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/%2E%2E%2Fsecret.txt", "/weights/../../secret.txt", "/weights/..%2f..%2fsecret.txt", "/..%5csecret.txt", "/..\\secret.txt",
    "/%252e%252e/secret.txt", "//secret.txt", "/./../secret.txt", "/index.html%00.js", "/%00", "/weights", "/weights/", "/.git/config", "/%2egit", "/secret.txt", "/%ff%fe", "/link", "/up/secret.txt", "/index.html/x", "*"])
def test_nothing_else_is_there(server, site, tmp_path, path):
    (site/"link").symlink_to(tmp_path/"secret.txt")
    (site/"up").symlink_to(tmp_path)
    (site/".git").mkdir()
    (site/".git"/"config").write_text("secret")
    out = raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert out.startswith(b"HTTP/1.1 404") and b"secret" not in out and b"index.html" not in out


def test_an_absolute_path_is_not_the_systems(server, tmp_path):
    for target in (f"/{tmp_path}/secret.txt", f"{tmp_path}/secret.txt", f"file://{tmp_path}/secret.txt"):
        assert b"secret\n" not in raw(server, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert raw(server, b"GET http://localhost/app.js?v=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").endswith(b"\r\n\r\nx") # as one asks a proxy


def test_foreign_names_are_refused_on_loopback(server):
    port = server.server_address[1]
    for host in ("rebound.example", f"rebound.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "", "evil@localhost.example"): assert ask(server, host=host)[0] == 421, host
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"): assert ask(server, host=host)[0] == 200, host
    assert raw(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421")


def test_a_server_of_the_network_answers_any_name(site):
    with BundleServer(site, host="0.0.0.0", port=0) as s:
        assert ask(s, host="notebook.lan")[0] == 200 and s.url == f"http://127.0.0.1:{s.server_address[1]}/"


def test_ipv6(site):
    try: s = BundleServer(site, host="::1", port=0)
    except ServeError as e: pytest.skip(f"no IPv6 here: {e}")
    with s: assert s.url.startswith("http://[::1]:") and ask(s)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_reads(server, method):
    status, headers, body = ask(server, "/", method)
    assert status == 405 and headers["Allow"] == "GET, HEAD" and body


@pytest.mark.parametrize("data, code", [(b"nonsense\r\n\r\n", b"400"), (b"GET / HTTP/9.9\r\n\r\n", b"505"), (b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"501"),
    (b"GET /" + b"a"*70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"414"), (b"GET / HTTP/1.1\r\n" + b"X: y\r\n"*200 + b"\r\n", b"431"), (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400")])
def test_what_is_no_request(server, data, code):
    out = raw(server, data)
    assert code in out.split(b"\r\n")[0] and b"<" not in out
    assert ask(server)[0] == 200


def test_one_connection_serves_many_requests(server):
    c = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    with contextlib.closing(c):
        for path, want in (("/app.js", b"x"), ("/nothing", None), ("/weights/000-0123abcd.gz", CHUNK), ("/", b"<h1>hello</h1>")):
            c.request("GET", path)
            r = c.getresponse()
            assert not r.will_close and (want is None or r.read() == want)
            r.read()


def test_a_body_is_not_taken_for_the_next_request(server):
    inner = b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    out = raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
    assert out.count(b"HTTP/1.1 ") == 1


def test_who_hangs_up_or_dawdles_bothers_nobody(server, capfd):
    address = server.server_address[:2]
    with socket.create_connection(address) as slow:
        slow.sendall(b"GET /weights/000-0123abcd.gz HTTP/1.1\r\nHost: localhost\r\n") # and never ends its request
        for _ in range(5):
            with socket.create_connection(address) as s: s.sendall(b"GET /weights/000-0123abcd.gz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        results = []
        threads = [threading.Thread(target=lambda: results.append(ask(server, "/weights/000-0123abcd.gz")[2] == CHUNK)) for _ in range(8)]
        for t in threads: t.start()
        for t in threads: t.join(20)
    assert results == [True]*8 and "Traceback" not in capfd.readouterr().err


def test_faults_for_the_tests_of_others(site):
    "What a handler derived for a test can do"
    class Faulty(Handler):
        def intercept(self, path):
            if path and path.suffix == ".js": self.refuse(503, "not now")
            return bool(path and path.suffix == ".js")
        def send_body(self, f, begin, count):
            super().send_body(f, begin, count//2)
            self.close_connection = True
    with BundleServer(site, port=0, handler=Faulty) as s:
        assert ask(s, "/app.js")[0] == 503
        with pytest.raises(http.client.IncompleteRead): ask(s, "/weights/000-0123abcd.gz")


def test_an_error_inside_is_shown(site, capfd):
    class Broken(Handler):
        def intercept(self, path): raise RuntimeError("a mistake of ours")
    with BundleServer(site, port=0, handler=Broken) as s:
        assert raw(s, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
    assert "a mistake of ours" in capfd.readouterr().err


def test_ports(site):
    with BundleServer(site, port=0) as s:
        with pytest.raises(ServeError, match="choose another --port"): BundleServer(site, port=s.server_address[1])
    with socket.socket() as taken: # the default port may be in use: then any other
        with contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", 8000))
            taken.listen()
        with BundleServer(site) as s: assert ask(s)[0] == 200 and s.server_address[1] != 8000


def test_a_file_that_cannot_be_read(server, site, monkeypatch):
    if os.name == "nt" or os.geteuid() == 0: monkeypatch.setattr("builtins.open", lambda *a, **k: (_ for _ in ()).throw(PermissionError("no")))
    else: (site/"app.js").chmod(0)
    assert ask(server, "/app.js")[0] == 404
