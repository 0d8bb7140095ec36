"The runtime and the page in real browsers: the pages test themselves; here each of their checks becomes a test"

import json
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlencode

import goldens
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from web_server import SiteServer

from smollm_nb.bench import browsers
from smollm_nb.bench.browser_worker import BrowserSubject
from smollm_nb.bench.browsers import BROWSERS, BrowserError, ReportHandler, ReportServer, find, opened
from smollm_nb.browser import bundle
from smollm_nb.browser.vendor import node
from smollm_nb.engine import native as engine
from smollm_nb.inference.generation import generate
from smollm_nb.lab.jobs import module
from smollm_nb.text.chat import encode_chat
from smollm_nb.text.tokenizer import LossyTextWarning, SmolLMTokenizer

PATIENCE = 240  # seconds for one report, on a machine that does ten other things
WEB = Path(__file__).parent / "web"
TEXTS = [
    c["text"]
    for c in json.loads((Path(__file__).parent / "data" / "token_ids.json").read_text(encoding="utf-8"))["cases"]
]
NAMES = dict(
    max_tokens="maxTokens",
    temperature="temperature",
    top_k="topK",
    top_p="topP",
    min_p="minP",
    repetition_penalty="repetitionPenalty",
    seed="seed",
    stop="stop",
)
CHATS = [
    [dict(role="user", content="What is the capital of France?")],
    [
        dict(role="system", content="Be brief."),
        dict(role="user", content="a<|im_end|>b"),
        dict(role="assistant", content="<|im_start|>"),
        dict(role="user", content="日本 👍\n\n 42"),
    ],
]

PARITY = [
    "logits, 1 threads",
    "logits, 2 threads",
    "logits, 3 threads",
    "same seed, same text",
    "token ids",
    "chat ids",
    "drafts change nothing",
    "the lens is the native one, 1 threads",
    "the lens is the native one, 3 threads",
    "streamed text is the result",
    "a stop string never leaks",
    "turns share their beginning",
    "cancelled in prefill",
    "cancelled in decode",
    "two answers, read in turns",
    "one answer half read while another is asked",
    "left by break, asked again at once",
    "left by return, asked again at once",
    "left by cancel, asked again at once",
    "left by cancel in the middle, asked again at once",
    "left by abort, asked again at once",
    "left by reset, asked again at once",
    "an answer that waits is cancelled at once",
    "nothing of an earlier conversation is heard in a new one",
    "a stop string that names a special token",
    "temperatures near 0 take the likeliest",
    "what is wrong is said",
    "the context bounds an answer",
    "disposed of",
]
FAULTS = [
    "progress, then nothing to fetch",
    "a damaged cache is repaired",
    "the server dies within a chunk, once",
    "a chunk arrives damaged, once",
    "the server dies within a chunk, always",
    "what came before a failure is kept",
    "a chunk always arrives damaged",
    "a wrong hash in the manifest",
    "a manifest cut short",
    "a web page instead of the manifest",
    "a manifest that is not sound",
    "a web page instead of a chunk",
    "a file that is not there",
    "no bundle at all",
    "no server",
    "a slow link, cancelled, then resumed",
    "no room in the cache",
    "threads that do not start",
    "a build that computes something else",
    "a new version replaces the old",
    "the server goes, the model stays",
    "two tabs at once",
    "reloaded during the download",
]
PAGE = [
    "isolated by the service worker, with one reload",
    "what a load takes is said before",
    "a chat of two turns",
    "figures and chart",
    "stopped by Escape",
    "painted ten times a second",
    "what is wrong is shown, and the text comes back",
    "narrow and accessible",
    "no rule of the policy is broken",
    "back and forward",
    "offline, the server killed",
]
LAN = [
    "plain HTTP in a local network",
]
SCRIPTS = [
    "worker.js fails once",
    "loader.js fails once",
    "load.js fails once",
    "vendor/jinja.js fails once",
    "compute.js fails once",
    "worker.js cannot be had",
    "loader.js cannot be had",
    "load.js cannot be had",
    "vendor/jinja.js cannot be had",
    "compute.js cannot be had",
    "scripts that never come",
]
HOSTS = [
    "a policy that forbids to compile",
    "a host that says Content-Encoding: gzip",
    "the same host across origins",
    "other bytes of the right length are not taken for a file",
    "one path at three origins: none evicts another",
    "scripts from another origin, where the policy lets a blob import them",
    "scripts from another origin, where the policy forbids a blob",
    "scripts from another origin, where the host forbids to import them",
    "a web page in place of everything, beside what is kept",
    "503 in place of everything, beside what is kept",
    "a redirect to a web page in place of everything, beside what is kept",
    "what is missing from the cache is said before it is fetched",
    "an offline start asks for the manifest once",
]
STORAGE = [
    "caches that throw on mere access",
    "caches that refuse to open",
    "caches that refuse what is put",
    "a frame in another site",
    "a frame that is nobody",
]
BLOCKED = [
    "all site data are blocked",
    "a frame in another site, site data blocked",
]
PRIVATE = [
    "a private window",
]
ENDINGS = [
    "the tokenizer's own end token ends an answer",
    "the token that ends a turn in the chat template ends an answer",
    "a begin-of-text token that the tokenizer asks for",
    "ids that no token has",
]
UPDATE = [
    "the first version is kept whole",
    "the first version, from what is kept",
    "a page that is opened after an update has the new version, whole",
    "a page that is open keeps its own",
    "the new version after a reload",
    "a web page in place of everything, beside a version that is kept",
    "503 in place of everything, beside a version that is kept",
    "a new manifest beside old files, beside a version that is kept",
    "files of the wrong type, beside a version that is kept",
    "the new version, its model too, the server killed",
]


def need(name: str) -> None:
    "Skip without the browser; in CI, fail"
    try:
        find(name)
    except BrowserError as e:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(e))


def answer(e, tok, prompt: str, **options) -> dict:
    "What the native engine says, with the options by their JavaScript names"
    e.reset()
    g = generate(e, tok, prompt, **options).finish()
    return dict(
        prompt=prompt,
        options={NAMES[k]: v for k, v in options.items()},
        text=g.text,
        ids=g.ids,
        finish_reason=g.finish_reason,
    )


def greedy(e, tok, prompt_ids: list[int], prompt: str) -> dict:
    "The native engine's scores after a prompt, and its likeliest answer"
    digest = sha256(e.prefill(prompt_ids).astype("<f4").tobytes()).hexdigest()
    e.reset()
    return dict(
        prompt=prompt,
        prompt_ids=prompt_ids,
        logits_sha256=digest,
        ids=generate(e, tok, prompt_ids, max_tokens=32).finish().ids,
    )


def lens(e, tok, prompt_ids: list[int], count: int, top: int, layers: list[int] | None = None) -> dict:
    "The native engine's lens of the tokens of its likeliest answer, as the runtime describes them"
    every = list(range(e.config.num_hidden_layers + 1)) if layers is None else layers
    ids, out = list(prompt_ids), []
    for _ in range(count):
        inside = e.residuals(ids)[:, -1]
        id = int(e.head(inside[-1]).argmax())
        best, likely = e.lens(inside[every], top)
        rows = [
            dict(layer=n, ids=b.tolist(), texts=[tok.decode([i]) for i in b], probabilities=p.tolist())
            for n, b, p in zip(every, best, likely)
        ]
        out.append(dict(id=id, text=tok.decode([id]), layers=rows))
        ids.append(id)
    return dict(prompt_ids=prompt_ids, layers=layers, top=top, tokens=out)


def expectations(q4: Path) -> dict:
    "What Python and the native engine say of the tiny model"
    tok = SmolLMTokenizer.load(q4.parent)
    with engine.load(q4) as e:
        long = [5 + 37 * i % 500 for i in range(200)]  # four tiles of a prefill
        cases = [greedy(e, tok, c["prompt_ids"], c["prompt"]) for c in goldens.load()] + [
            greedy(e, tok, long, "a long prompt")
        ]
        sampled = [
            answer(
                e,
                tok,
                "Once upon a time",
                max_tokens=40,
                temperature=t,
                top_k=k,
                top_p=p,
                min_p=m,
                repetition_penalty=r,
                seed=s,
            )
            for t, k, p, m, r, s in (
                (1.0, 0, 1.0, 0.0, 1.0, 0),
                (0.8, 40, 0.95, 0.02, 1.2, 7),
                (1.5, 0, 0.9, 0.0, 1.0, 2**53 - 1),
                (0.0, 0, 1.0, 0.0, 1.3, 1),
            )
        ]
        free = sampled[0]["text"]
        stops = [
            answer(e, tok, "Once upon a time", max_tokens=40, temperature=1.0, seed=0, stop=s)
            for s in ([free[5:8]], [free[12:13], "never"], ["\x00never"])
        ]
        drafts = [
            # the first draft of each is right
            answer(e, tok, "Hello there", max_tokens=120, **how)
            for how in (dict(), dict(temperature=0.3, seed=5), dict(temperature=0.02, repetition_penalty=1.02, seed=5))
        ]
        arena = {n: e.wasm_arena_bytes(n) for n in (1, 2, 3)}
        inside = [
            lens(e, tok, cases[0]["prompt_ids"], 6, 3),
            lens(e, tok, long, 2, 64, [0, 2]),
            lens(e, tok, [7], 1, 1),
        ]
        layers = e.config.num_hidden_layers
    return dict(
        lens=inside,
        layers=layers,
        greedy=cases,
        sampled=sampled,
        stops=stops,
        drafts=drafts,
        long=long,
        arena=arena,
        chats=[dict(messages=m, ids=encode_chat(tok, m)) for m in CHATS],
    )


def begun(folder: Path) -> list[dict]:
    "What `tokenizers` says of texts where a tokenizer puts a token before them"
    tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tok.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])

    def plain(text):
        return tok.encode(text, add_special_tokens=False).ids

    return [dict(text=t, ids=tok.encode(t).ids, plain=plain(t)) for t in ("Hello", "", " a\nb")]


@pytest.fixture(scope="session")
def site(tiny_q4, tmp_path_factory):
    "A folder for the server: the tiny model's bundle in many small chunks, the test pages, and what they expect"
    root = tmp_path_factory.mktemp("web")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(bundle, "CHUNK", 1 << 16)
        manifest = bundle.export(tiny_q4, root / "bundle", "tiny")["manifest"]
    tok = SmolLMTokenizer.load(tiny_q4.parent)
    shutil.copytree(WEB, root / "tests")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LossyTextWarning)  # some texts are chosen for that
        texts = [dict(text=t, plain=tok.encode(t), special=tok.encode(t, special=True)) for t in TEXTS]
    roles = ("kernel", "tokenizer", "tokenizer_config", "config", "chat_template")
    # the manifest itself
    kept = 1 + len(manifest["weights"]) + sum(f["role"] in roles for f in manifest["files"])
    more = dict(texts=texts, files_kept=kept, special=tok.special_ids, gap=tok.vocab_size - 1)
    more["begun"] = begun(tiny_q4.parent)
    (root / "tests" / "expected.json").write_text(json.dumps(expectations(tiny_q4) | more))
    (root / "index.html").write_text("")
    return root


@pytest.fixture(scope="session")
def real_site(real_q4, tmp_path_factory):
    "The same with the real model, and little to check"
    root = tmp_path_factory.mktemp("real_web")
    bundle.export(real_q4, root / "bundle", "SmolLM2-135M-Instruct", limit=None)
    tok = SmolLMTokenizer.load(real_q4.parent)
    with engine.load(real_q4, verify=False) as e:
        cases = [greedy(e, tok, tok.encode("The capital of France is"), "Paris")]
        sampled = [answer(e, tok, "Once upon a time", max_tokens=30, temperature=0.8, top_p=0.95, seed=3)]
        inside = [lens(e, tok, cases[0]["prompt_ids"], 3, 5)]
    shutil.copytree(WEB, root / "tests")
    golden = json.loads((Path(__file__).parent / "data" / "token_ids.json").read_text(encoding="utf-8"))["cases"]
    (root / "tests" / "expected.json").write_text(
        json.dumps(
            dict(
                greedy=cases,
                sampled=sampled,
                lens=inside,
                texts=golden,
                chats=[dict(messages=m, ids=encode_chat(tok, m)) for m in CHATS],
            )
        )
    )
    (root / "index.html").write_text("")
    return root


@dataclass(frozen=True)
class Launch:
    "One start of a browser: many checks"

    name: str
    isolated: bool  # by the server's headers
    checks: tuple[str, ...]
    kinds: str = "parity"
    host: str = "127.0.0.1"
    policy: str = ""  # of the page: one of `web_server.POLICIES`
    mode: str = ""  # of the browser: "blocked" keeps no site data, "private" is a private window


LAUNCHES = {
    l.name: l
    for l in (
        Launch("isolated", True, (*PARITY, *FAULTS, *ENDINGS), "parity,faults,texts"),
        Launch("plain", False, tuple(PARITY)),
        Launch("scripts", True, tuple(SCRIPTS), "scripts"),
        Launch("hosts", False, tuple(HOSTS), "hosts"),
        Launch("storage", False, tuple(STORAGE), "storage,simulated,frames", policy="open"),
        Launch("blocked", False, tuple(BLOCKED), "storage,blocked", policy="open", mode="blocked"),
        Launch("private", False, tuple(PRIVATE), "storage,private", mode="private"),
        Launch("update", False, tuple(UPDATE)),
        Launch("lan", False, tuple(LAN), "lan", "lan.test"),
        Launch("page", False, tuple(PAGE)),
    )
}
LACKS = {("webkit", "lan"), ("webkit", "blocked")}  # MiniBrowser has no switch for it


def prepare(browser: str, mode: str, profile: Path, monkeypatch) -> None:
    "Let a browser keep no site data, or open private windows"
    profile.mkdir()
    if browser == "firefox":
        private = {"browser.privatebrowsing.autostart": True}
        settings = dict(blocked={"network.cookie.cookieBehavior": 2}, private=private)
        monkeypatch.setattr(browsers, "_FIREFOX", browsers._FIREFOX | settings.get(mode, {}))
    elif mode == "blocked":
        (profile / "Default").mkdir()
        settings = dict(profile=dict(default_content_setting_values=dict(cookies=2)))
        (profile / "Default" / "Preferences").write_text(json.dumps(settings))
    elif mode == "private":
        switch, command = {"chromium": "--incognito", "webkit": "--private"}[browser], browsers._command
        monkeypatch.setattr(browsers, "_command", lambda *args: [*(c := command(*args))[:-1], switch, c[-1]])


def run_suite(browser: str, launch: Launch, root: Path) -> dict:
    "The reports of one start, by name"
    out = {}
    scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with scratch as d, SiteServer(root, launch.isolated) as server, SiteServer(root, False, server) as other:
        query = urlencode(dict(kinds=launch.kinds, other=other.url, policy=launch.policy))
        url = server.url.replace("127.0.0.1", launch.host) + f"tests/suite.html?{query}"
        with pytest.MonkeyPatch.context() as m:
            prepare(browser, launch.mode, Path(d) / "profile", m)
            with opened(browser, url, Path(d) / "profile", names=("lan.test",)) as process:
                while not (r := server.report(process, PATIENCE)).get("done"):
                    out[r["name"]] = r
    return out


def run_page(browser: str, launch: Launch, root: Path) -> dict:
    "The same for the page: half-way the server is killed"
    out = {}
    with SiteServer(root, False) as other:
        with SiteServer(root, launch.isolated) as server:
            stack = opened(browser, f"{server.url}{launch.name}/?other={other.url}")
            process = stack.__enter__()
            try:
                while not (r := server.report(process, PATIENCE)).get("kill"):
                    out[r["name"]] = r
            except BaseException:
                stack.__exit__(None, None, None)
                raise
        try:
            r = other.report(process, PATIENCE)  # the first server is gone
        finally:
            stack.__exit__(None, None, None)
    if launch.name == "page":
        r = dict(ok=bool(r["text"]) and not r["trouble"] and r["isolated"], detail=str(r))
    return out | {launch.checks[-1]: r}


REAL = Launch("real", True, ("the real model, 2 threads", "the real model, 1 threads", "token ids", "chat ids"), "real")


@pytest.fixture(scope="session")
def reports(site):
    "Reports of a browser's start, made when first asked for"
    made = {}

    def get(browser: str, launch: Launch) -> dict:
        if (browser, launch) not in made:
            run = run_page if launch.name in ("page", "update") else run_suite
            try:
                made[browser, launch] = run(browser, launch, site)
            except BrowserError as e:
                made[browser, launch] = e
        return made[browser, launch]

    return get


CASES = [(b, l.name, c) for b in BROWSERS for l in LAUNCHES.values() for c in l.checks if (b, l.name) not in LACKS]


@pytest.mark.parametrize("browser, launch, check", CASES)
def test_in_the_browser(reports, browser, launch, check):
    need(browser)
    got = reports(browser, LAUNCHES[launch])
    if isinstance(got, BrowserError):
        raise got
    assert check in got, f"the page said nothing of it, only of {', '.join(got)}"
    assert got[check]["ok"], got[check]["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("browser", BROWSERS)
def test_the_real_model(real_site, browser):
    need(browser)
    got = run_suite(browser, REAL, real_site)
    assert all(got[c]["ok"] for c in REAL.checks), "\n".join(
        f"{c}: {r['detail']}" for c, r in got.items() if not r["ok"]
    )


@pytest.mark.parametrize("browser", BROWSERS)
def test_bench_page_answers_as_a_worker(site, tiny_q4, browser):
    "The same commands, results of the same form, the same tokens behind them; how large the figures are is not tested"
    need(browser)
    with engine.load(tiny_q4) as e:
        long = len(answer(e, SmolLMTokenizer.load(tiny_q4.parent), "Hello", max_tokens=20)["ids"])
    with BrowserSubject(
        f"wasm, {browser}", browser, str(site / "bundle"), "bench.html?remote", dict(context=256), 2
    ).open() as page:
        assert page.threads == 2
        assert page.ready_s > 0
        assert page.facts["fetched_bytes"] > 1e5
        assert page.facts["kept"]["kept"]
        assert page.facts["file_sha256"] == sha256(tiny_q4.read_bytes()).hexdigest()
        # WebKit has no relaxed SIMD
        assert "threads" in page.facts["variant"]
        assert page.facts["variant"].startswith("simd128" if browser == "webkit" else "relaxed")
        for n in (5, 128, 256):
            assert len(page.ask("prefill", ids=[9] * n, repeats=2)["seconds"]) == 2
        for pos in (242, 16):
            assert len(page.ask("decode", pos=pos, n=12)["seconds"]) == 12
            assert sum(page.ask("decode", pos=pos, n=12)["seconds"]) > 0
        said = page.ask("generate", prompt="Hello", max_tokens=20)
        assert said["tokens"] == len(said["itl"]) + 1 == long
        assert page.ask("reload")["seconds"] > 0
        memory = page.ask("memory")
        assert memory["peak_rss"] >= memory["rss"] > 1e6


class JupyterHandler(ReportHandler):
    "Serves files as JupyterLab does: below `files/`, in a sandbox, to requests that name the page they come from"

    def intercept(self, path) -> bool:
        if not self.path.startswith("/files/") or self.headers.get("Referer", "").startswith(self.server.url):
            return False
        self.refuse(403, "Blocking request from unknown origin")
        return True

    def send_header(self, name: str, value: str) -> None:
        "Other policies than those of this package's server"
        if name == "Referrer-Policy":
            return
        if name == "Content-Security-Policy":
            value = (
                "frame-ancestors 'self'; sandbox allow-scripts"
                if self.path.startswith("/files/")
                else "frame-ancestors 'self'"
            )
        super().send_header(name, value)


@pytest.mark.parametrize("browser", BROWSERS)
def test_the_widget_where_scripts_come_sandboxed(site, tmp_path, tiny_q4, browser):
    "The widget in a page like JupyterLab's: its script is a blob, and the bundle's files come from `files/`"
    need(browser)
    (tmp_path / "widget.js").write_text(module("runner.js"), encoding="utf-8")
    shutil.copytree(site / "bundle", tmp_path / "files" / "a b" / "bundle")
    for name in ("widget.html", "widget_page.js"):
        shutil.copyfile(WEB / name, tmp_path / name)
    (tmp_path / "index.html").write_text("")
    with engine.load(tiny_q4) as e:
        text = answer(e, SmolLMTokenizer.load(tiny_q4.parent), "Hello there", max_tokens=12)["text"]
    with (
        ReportServer(tmp_path, False, JupyterHandler) as server,
        opened(browser, server.url + "widget.html") as process,
    ):
        r = server.report(process, PATIENCE)
    assert r["error"] == "", r
    assert r["answer"] == "Hello there" + text, r
    assert "one thread: the page is not cross-origin isolated" in r["about"], r
    assert r["measured"], r
    assert len(r["measured"][0]["rates"]) == 2, r


def test_bench_page_by_itself(site):
    "A visitor sees a table"
    need("chromium")
    from playwright.sync_api import sync_playwright

    with SiteServer(site, True) as server, sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=find("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        page = browser.new_page()
        page.goto(f"{server.url}bundle/bench.html?threads=2&repeats=2")
        page.get_by_text("load, from the cache").wait_for(timeout=1000 * PATIENCE)
        text = page.inner_text("#out")
        browser.close()
    for line in (
        "2 threads, as asked for",
        "decode after 128",
        "prefill of 128",
        "first token after 5",
        "load, first visit",
        "n = 2",
    ):
        assert line in text


def test_javascript_under_node(site, record_property):
    "The pure parts, and the kernel, under Node; the lines they cover are shown beside Python's"
    done = subprocess.run(
        [
            str(node()),
            "--test",
            "--experimental-test-coverage",
            "--test-coverage-lines=90",
            "--test-reporter=spec",
            str(WEB / "unit.test.js"),
        ],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | dict(SMOLLM_BUNDLE=str(site / "bundle")),
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    lines = re.findall(r"^ℹ\s+(\S+\.js.*|all files.*)$", done.stdout, re.M)
    assert lines
    record_property("JavaScript under Node", "\n".join(lines))
