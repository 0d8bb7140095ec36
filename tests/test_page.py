"The page of an exported folder as a visitor has it: phones, keyboards, a conversation, what goes wrong and is said"

import functools
import hashlib
import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from test_browsers import PATIENCE, WEB, need

from smollm_nb.bench.browsers import BROWSERS, ReportHandler, ReportServer, opened
from smollm_nb.browser.bundle import export
from smollm_nb.browser.vendor import node
from smollm_nb.engine import native as engine
from smollm_nb.inference.generation import generate
from smollm_nb.models.checkpoint import write_provenance
from smollm_nb.models.tiny import SPECIAL_TOKENS, TINY, write_tiny
from smollm_nb.quant.recipes import quantize
from smollm_nb.text.chat import encode_chat
from smollm_nb.text.tokenizer import SmolLMTokenizer

CONTEXT = 4096  # positions that this file's model knows: enough for many turns
LAYERS = 16  # so that its answers take long enough to be looked at while they grow
ENDLESS = 3000  # tokens: seconds, whatever the machine; every such answer is stopped
SIZES = ("360x740", "360x400", "700x900", "1280x800")
GEOMETRY = ("the last line is seen over four turns", "whoever scrolls up is left there", "the figures can be reached")
TALK = (
    "a new conversation knows nothing of the one before",
    "what comes late of the one before is dropped",
    "the conversation is told to screen readers once",
)
CHECKS = ["the model is loaded", *(f"{size}: {check}" for size in SIZES for check in GEOMETRY), *TALK]


def never_ending(checkpoint: Path) -> None:
    "Give the special tokens a score of 0, so that a greedy answer never ends by itself"
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.embed_tokens.weight"][: len(SPECIAL_TOKENS)] = 0
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    write_provenance(checkpoint, "random weights whose answers never end")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, four_bits, kernel_built):
    "A bundle of a tiny model with a long context; the test pages beside it"
    root = tmp_path_factory.mktemp("page")
    tiny = write_tiny(root / "tiny", replace(TINY, max_position_embeddings=CONTEXT, num_hidden_layers=LAYERS))
    never_ending(tiny)
    export(quantize(tiny, root / "q4", four_bits)["path"], root / "bundle", "tiny")
    shutil.copytree(WEB, root / "tests")
    (root / "index.html").write_text("")
    return root


class PageHandler(ReportHandler):
    "`/bundle/` as it is; `/visited/` with a visitor in it; `/NAME/` with what a host of that name does wrong"

    visitors, rule, rest = ("visitor.js", "check.js"), "", ""

    def do_GET(self):
        self.rule, _, self.rest = self.path.partition("?")[0].removeprefix("/").partition("/")
        if self.rule in ("visited", "text", "slow", "bare"):
            self.path = f"/bundle/{self.rest}"
        super().do_GET()

    do_HEAD = do_GET

    def intercept(self, path) -> bool:
        if self.rule == "slow" and self.rest.startswith(("weights/", "sw.js")):
            time.sleep(self.server.delay)
        if self.rule == "text" and self.rest.endswith(".js"):
            return self.send(path.read_bytes(), "text/plain")
        return self.rule == "visited" and self.visit(path)

    def visit(self, path) -> bool:
        "The page's own files, the visitor among them"
        scripts = {n: (self.server.folder / "tests" / n).read_bytes() for n in self.visitors}
        if self.rest in scripts:
            return self.send(scripts[self.rest], "text/javascript")
        if self.rest == "app.js":
            return self.send(path.read_bytes() + b"\nimport('./visitor.js');", "text/javascript")
        if self.rest != "model_manifest.json":
            return False
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for name, data in scripts.items():
            facts = dict(bytes=len(data), stored=len(data), sha256=hashlib.sha256(data).hexdigest())
            manifest["files"].append(dict(path=name, role="module") | facts)
        return self.send(json.dumps(manifest).encode(), "application/json")

    def send(self, data: bytes, kind: str) -> bool:
        self.answer(200, {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": "no-store"})
        self.wfile.write(data)
        return True

    def send_header(self, name: str, value: str) -> None:
        "A frame of this server is one of the tests' windows; a bare host sends no policy"
        if name == "Content-Security-Policy" and self.rule in ("visited", "bare"):
            return
        super().send_header(name, value)


class PageServer(ReportServer):
    delay = 0.4  # seconds that the host called slow takes

    def __init__(self, folder, isolated: bool = True):
        super().__init__(folder, isolated, PageHandler)


def test_the_pure_parts_under_node():
    command = [str(node()), "--test", str(WEB / "page.test.js")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


# ---- in three browsers: the page in windows of several sizes


@pytest.fixture(scope="module")
def visits(folder):
    "Reports of one start of a browser, by name"

    @functools.cache
    def get(browser: str) -> dict:
        out = {}
        with PageServer(folder) as server, opened(browser, server.url + "tests/frames.html") as process:
            while not (r := server.report(process, PATIENCE)).get("done"):
                out[r["name"]] = r
        return out

    return get


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("browser", BROWSERS)
def test_in_a_window(visits, browser, check):
    need(browser)
    got = visits(browser)
    assert check in got, f"the page said nothing of it, only of {', '.join(got)}"
    assert got[check]["ok"], got[check]["detail"]


# ---- in Chromium, with a keyboard, a clipboard and hosts that do something wrong

WAIT = 90_000  # ms: against a page that hangs
VISIBLE = dict(state="visible", timeout=WAIT)
SCRIPTED = """(() => { // what a tab remembers, before its page begins
  if (sessionStorage.getItem('seeded')) return;
  sessionStorage.setItem('seeded', 'yes');
  for (const [name, value] of Object.entries(%s)) {
    sessionStorage.setItem(`smollm_nb /bundle/ ${name}`, JSON.stringify(value));
  }
})()"""


@pytest.fixture(scope="module")
def server(folder):
    "All hosts of this file"
    with PageServer(folder) as s:
        yield s


class Visit:
    "The page in a tab of its own, and what its console said"

    def __init__(self, browser, url: str, remembered: dict | None = None, script: str = "", **how):
        self.context = browser.new_context(**dict(viewport=dict(width=1280, height=800)) | how)
        self.page, self.said = self.context.new_page(), []
        self.page.set_default_timeout(WAIT)
        self.page.on("console", lambda m: self.said.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.said.append(str(e)))
        if remembered:
            self.page.add_init_script(SCRIPTED % json.dumps(remembered))
        if script:
            self.page.add_init_script(script)
        self.page.goto(url)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.context.close()

    def __getattr__(self, name):
        return getattr(self.page, name)

    def load(self):
        "Load the model; the page"
        self.page.locator("#load").click()
        self.page.locator("#gate").wait_for(state="hidden")
        return self

    def settings(self, **values) -> None:
        "Fill in fields by id"
        self.page.evaluate("for (const id of ['sampling', 'size']) document.getElementById(id).open = true")
        for name, value in values.items():
            self.page.fill(f"#{name}", str(value))

    def ask(self, text: str, wait: bool = True) -> None:
        "Send a text by the keyboard"
        self.page.fill("#prompt", text)
        self.page.press("#prompt", "Enter")
        if wait:
            self.idle()

    def idle(self) -> None:
        "Wait for the end of the answer"
        self.page.wait_for_function("() => !document.body.classList.contains('answering')")

    def growing(self) -> None:
        "Wait for some of the answer"
        self.page.wait_for_function("() => document.querySelector('.busy .prose')?.textContent.length > 3")

    def focus(self) -> str:
        "The id of what has the focus"
        return self.page.evaluate("document.activeElement?.id")

    def turns(self) -> list[str]:
        "What was written"
        return self.page.locator(".message.user, .given").all_text_contents()

    def trouble(self) -> str:
        "What is said to have gone wrong"
        self.page.locator("#trouble").wait_for()
        return self.page.inner_text("#what")


def turn(text: str, answer: str, **how) -> dict:
    return dict(kind="chat", text=text, answer=answer, note="") | how


MARKDOWN = """You can read a file with `open` in a **with** block:

```python
def read(path: str) -> str:
    with open(path, encoding="utf-8") as f:  # a comment that no phone has room for: it scrolls
        return f.read()
```

1. **Encoding**: name it, or the system's is taken.
2. *Large files*: read them line by line.
   - `for line in f:`
   - or in blocks

| mode | meaning | creates |
|------|---------|:-------:|
| `r` | read | no |
| `w` | write | yes |

> Closing is what people forget. See [the documentation](https://docs.python.org/3/)."""
LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
TALKED = [
    turn("How do I read a file in Python?", MARKDOWN),
    turn(f"{LONG} and <b>bold</b>?", f"<b>{LONG}</b>", note="stopped"),
    turn("Once upon a time", " there was a little model that lived in a notebook.", kind="text"),
]
SCREENS = {  # width, height, scheme
    "phone": (360, 740, "light"),
    "phone_dark": (360, 740, "dark"),
    "keyboard": (360, 400, "light"),
    "half": (700, 900, "dark"),
    "wide": (1280, 800, "light"),
    "wide_dark": (1280, 800, "dark"),
}
TOO_WIDE = """() => [...document.querySelectorAll('header, main, .message, .tools, #composer')]
    .filter((e) => e.getBoundingClientRect().right > innerWidth || e.scrollWidth > e.clientWidth + 1)
    .map((e) => e.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_sticks_out_on_any_screen(browser, server, artefacts, screen):
    "Long words, code and tables; pictures of it all are kept"
    width, height, scheme = SCREENS[screen]
    touch = width < 500
    how = dict(viewport=dict(width=width, height=height), color_scheme=scheme, has_touch=touch, is_mobile=touch)
    with Visit(browser, f"{server.url}bundle/", dict(conversation=TALKED), **how) as v:
        v.locator("#load:enabled").wait_for()
        v.locator(".prose pre").wait_for()
        v.screenshot(path=str(artefacts / f"page_{screen}_restored.png"))
        v.evaluate("document.getElementById('log').scrollTop = 0")
        v.locator("#latest").wait_for()
        v.screenshot(path=str(artefacts / f"page_{screen}_read.png"))
        v.load()
        v.fill("#prompt", "And now?")
        v.locator("#send").tap() if touch else v.locator("#send").click()
        v.locator("#stop").wait_for()
        v.screenshot(path=str(artefacts / f"page_{screen}_growing.png"))
        v.locator("#stop").click()
        v.idle()
        if touch:
            assert v.focus() == "log", "a phone's keyboard goes away, so that the answer is seen"
        v.screenshot(path=str(artefacts / f"page_{screen}_answered.png"))
        assert v.evaluate(TOO_WIDE) == []
        assert v.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if v.locator("#more").is_visible():
            v.locator("#more").click()
        v.settings()
        v.screenshot(path=str(artefacts / f"page_{screen}_settings.png"))
        assert v.locator("#panel").evaluate("e => e.scrollWidth <= e.clientWidth")
        assert not v.said


LENS_SCREENS = {n: SCREENS[n] for n in ("phone", "phone_dark", "half", "wide", "wide_dark")}
IN_VIEW = """() => {
    const [lens, cell] = [document.getElementById('lens'), document.querySelector('#lens tbody tr').lastElementChild];
    return cell.getBoundingClientRect().right <= lens.getBoundingClientRect().right + 1;
}"""
CELL = """() => {
    const td = document.activeElement.closest('td');
    const rows = [...document.querySelectorAll('#lens tbody tr')];
    return td && [rows.indexOf(td.parentElement), td.cellIndex];
}"""


@pytest.mark.parametrize("screen", LENS_SCREENS)
def test_look_inside(browser, server, artefacts, screen):
    "Off at first; then a column a token, the last layer's row the answer itself; by pointer, by keys, on any screen"
    width, height, scheme = LENS_SCREENS[screen]
    with Visit(browser, f"{server.url}bundle/", viewport=dict(width=width, height=height), color_scheme=scheme) as v:
        v.locator("#load:enabled").wait_for()
        narrow = v.locator("#more").is_visible()

        def panel() -> None:
            if narrow:
                v.locator("#more").click()

        v.load()
        panel()
        v.settings(temperature=0, maxTokens=30, repetitionPenalty=1)
        v.evaluate("document.getElementById('sampling').open = false")
        v.ask("Hello")
        assert v.locator("#lens td").count() == 0
        assert v.evaluate("performance.getEntriesByName(new URL('inside.js', location.href).href).length") == 0
        without = v.locator(".prose").last.inner_text()
        panel()
        v.locator("#inside summary").click()
        v.locator("#clear").click()
        v.ask("Hello", wait=False)
        v.locator("#lens td").first.wait_for(state="attached")
        panel()
        v.idle()
        rows = v.locator("#lens tbody tr")
        head, last = v.locator("#lens thead th:not(:first-child)"), rows.last.locator("td")
        columns = last.count()
        layers = rows.locator("th").all_inner_texts()
        assert layers == [str(n) for n in range(0, LAYERS + 1, 2)]
        assert 10 < columns <= 30
        assert head.all_inner_texts() == last.all_inner_texts(), "greedy: the last layer's token is the answer's"
        assert rows.last.locator(".same").count() == columns
        assert v.evaluate(IN_VIEW)
        assert v.locator("#lensTop li").count() == 5
        assert v.inner_text("#lensCell").startswith(f"After layer {LAYERS}, in place of")
        v.evaluate("document.getElementById('inside').scrollIntoView()")
        v.screenshot(path=str(artefacts / f"page_{screen}_inside.png"))
        rows.nth(-3).locator("td").last.hover()
        assert v.inner_text("#lensCell").startswith(f"After layer {LAYERS - 4}, in place of")
        v.locator("#prompt").hover()
        last.last.focus()
        bottom = len(layers) - 1
        for key, want in (
            ("ArrowUp", [bottom - 1, columns]),
            ("ArrowLeft", [bottom - 1, columns - 1]),
            ("PageUp", [0, columns - 1]),
            ("Home", [0, 1]),
            ("ArrowLeft", [0, 1]),
            ("PageDown", [bottom, 1]),
            ("End", [bottom, columns]),
        ):
            v.keyboard.press(key)
            assert v.evaluate(CELL) == want, key
        v.keyboard.press("PageUp")
        assert v.inner_text("#lensCell").startswith("Before the first layer")
        assert v.locator("#lens td[tabindex='0']").count() == 1
        assert v.locator("#lens td:focus").get_attribute("aria-label").startswith("Layer 0, for ")
        assert v.locator("#panel").evaluate("e => e.scrollWidth <= e.clientWidth")
        assert v.evaluate("document.documentElement.scrollWidth <= innerWidth")
        v.locator("#inside summary").click()
        panel()
        assert v.locator(".prose").last.inner_text() == without, "the answer is the same"
        v.ask("And then?")
        assert last.count() == columns, "closed: nothing is computed"
        assert not v.said


COVER = """() => {
    for (const [name, value] of [['height', 420], ['offsetTop', 30]]) {
        Object.defineProperty(visualViewport, name, { value, configurable: true });
    }
    visualViewport.dispatchEvent(new Event('resize'));
    const box = (id) => document.getElementById(id).getBoundingClientRect();
    const body = document.body.getBoundingClientRect();
    return [body.top, body.height, box('composer').bottom, box('composer').top, box('log').bottom];
}"""
UNCOVER = """() => {
    for (const name of ['height', 'offsetTop']) delete visualViewport[name];
    visualViewport.dispatchEvent(new Event('resize'));
    return [document.body.getBoundingClientRect().top, document.body.clientHeight];
}"""
AT_END = """() => {
    const { scrollHeight, scrollTop, clientHeight } = document.getElementById('log');
    return scrollHeight - scrollTop - clientHeight < 2;
}"""


def test_a_keyboard_that_covers_the_page(browser, server):
    "Where the window stays as it is and only its visible part shrinks, as on an iPhone, the page keeps to that part"
    screen = dict(viewport=dict(width=360, height=740))
    with Visit(browser, f"{server.url}bundle/", dict(conversation=TALKED), **screen) as v:
        v.locator(".prose pre").wait_for()
        top, height, bottom, field, log = v.evaluate(COVER)
        assert (top, height) == (30, 420)
        assert bottom <= 450
        assert log <= field
        v.wait_for_function(AT_END)
        assert v.evaluate(UNCOVER) == [0, 740]


def test_a_keyboard_alone(browser, server):
    "Focus is never lost: not after Load, Cancel, Send, Stop, Edit, Regenerate, New"
    server.delay = 0.4
    with Visit(browser, f"{server.url}slow/") as v:
        v.locator("#load:enabled").focus()
        v.keyboard.press("Enter")
        assert v.focus() == "abort"
        v.keyboard.press("Enter")
        v.get_by_text("Cancelled. What has arrived is kept.").wait_for()
        assert v.focus() == "load"
        assert not v.locator("#trouble").is_visible()
        v.keyboard.press("Enter")
        v.locator("#gate").wait_for(state="hidden")
        assert v.focus() == "prompt"
        v.settings(temperature=0, maxTokens=ENDLESS)
        v.fill("#prompt", "Hello")
        for _ in range(2):
            v.keyboard.press("Tab")  # past the choice of what to do
        assert v.focus() == "send"
        v.keyboard.press("Space")
        v.locator("#stop").wait_for()
        assert v.focus() == "prompt"
        v.growing()
        v.locator("#stop").focus()
        v.keyboard.press("Enter")
        v.idle()
        assert v.focus() == "prompt"
        assert v.locator(".note").inner_text() == "stopped"
        v.get_by_role("button", name="Regenerate the answer").focus()
        v.keyboard.press("Enter")
        assert v.focus() == "prompt"
        v.growing()
        v.keyboard.press("Escape")
        v.idle()
        v.get_by_role("button", name="Edit what you wrote").focus()
        v.keyboard.press("Enter")
        assert v.focus() == "prompt"
        assert v.input_value("#prompt") == "Hello"
        v.locator("#clear").focus()
        v.keyboard.press("Enter")
        assert v.focus() == "prompt"
        assert v.turns() == []


FOCUSED = """() => {
    const e = document.activeElement;
    return [e.id || e.textContent, Boolean(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))];
}"""


def test_every_control_has_a_name_and_is_reached(browser, server):
    "By Tab alone, in an order that follows the page"
    with Visit(browser, f"{server.url}bundle/", dict(conversation=TALKED)) as v:
        v.locator("#load:enabled").wait_for()
        v.settings()
        v.evaluate("document.activeElement.blur()")
        seen = []
        for _ in range(60):
            v.keyboard.press("Tab")
            name, named = v.evaluate(FOCUSED)
            if name in seen[:1]:
                break
            assert named, f"{name} has no name"
            seen.append(name)
        order = ("clear", "load", "log", "prompt", "modeChat", "send", "temperature", "stopStrings", "context")
        assert [name for name in seen if name in order] == list(order)
        assert {"Copy", "Edit", "Regenerate"} <= set(seen)


def test_copy_regenerate_and_edit(browser, server):
    allowed = dict(permissions=["clipboard-read", "clipboard-write"])
    with Visit(browser, f"{server.url}bundle/", dict(conversation=TALKED[:2]), **allowed) as v:
        v.get_by_role("button", name="Copy the answer").first.click()
        v.get_by_text("Copied", exact=True).first.wait_for()
        assert v.evaluate("navigator.clipboard.readText()") == MARKDOWN, "as the model wrote it"
        v.load()
        v.settings(temperature=1, maxTokens=20, seed=1)
        v.ask("A third one")
        first = v.locator(".prose").last.inner_text()
        assert v.get_by_role("button", name="Regenerate the answer").count() == 1, "of the last turn alone"
        v.settings(seed=2)
        tokens = v.inner_text("#prefill").split()[0]
        v.get_by_role("button", name="Regenerate the answer").click()
        v.idle()
        assert len(v.turns()) == 3
        assert v.locator(".prose").last.inner_text() != first
        assert v.inner_text("#prefill").split()[0] == tokens, "what was answered before is not in the prompt"
        v.fill("#prompt", "unsent")
        v.get_by_role("button", name="Edit what you wrote").nth(1).click()
        assert v.input_value("#prompt") == TALKED[1]["text"]
        assert v.locator(".replaced").count() == 2
        v.get_by_role("button", name="Keep it").click()
        assert v.locator(".replaced").count() == 0
        assert len(v.turns()) == 3
        v.get_by_role("button", name="Edit what you wrote").nth(1).click()
        v.ask("Rather this")
        assert v.turns() == [TALKED[0]["text"], "Rather this"]
        v.settings(topP=7)
        v.get_by_role("button", name="Edit what you wrote").nth(1).click()
        v.ask("This as well", wait=False)
        assert "Top-p must be a number from 0 to 1" in v.trouble()
        assert v.focus() == "topP"
        assert v.turns() == [TALKED[0]["text"], "Rather this"], "nothing is lost"
        assert v.input_value("#prompt") == "This as well"


def test_copy_where_the_clipboard_is_closed(browser, server):
    "Over plain HTTP pages have no clipboard; the old way still works"
    gone = "Object.defineProperty(navigator, 'clipboard', { value: undefined });"
    with Visit(browser, f"{server.url}bundle/", dict(conversation=TALKED[:1]), gone) as v:
        v.evaluate("document.addEventListener('copy', () => { window.copied = document.activeElement.value; })")
        v.get_by_role("button", name="Copy the answer").click()
        v.get_by_text("Copied", exact=True).first.wait_for()
        assert v.evaluate("window.copied") == MARKDOWN
        v.evaluate("document.execCommand = () => false")
        v.get_by_text("Copy", exact=True).click()
        v.get_by_text("Not allowed").wait_for()


HOSTILE = {  # what the model writes → what is read
    "<script>window.hurt = 1</script>": "<script>window.hurt = 1</script>",
    "<img src=x onerror='window.hurt = 1'>": "<img src=x onerror='window.hurt = 1'>",
    "<svg onload=window.hurt=1>": "<svg onload=window.hurt=1>",
    "![<b>a</b>](https://example.com/a.png)": "<b>a</b>",
    "![](https://example.com/a.png)": "https://example.com/a.png",
    "[a](javascript:window.hurt=1)": "a",
    "[a](data:text/html,<script>1</script>)": "a",
    "<https://example.com> [b](https://example.com 'c')": "https://example.com b",
    "<div style='position:fixed'>\n**x**\n</div>": "<div style='position:fixed'>\nx\n</div>",
    "a <!-- b --> c": "a <!-- b --> c",
    "&lt;b&gt;": "<b>",
    "`<i>`": "<i>",
}
MADE = "[...document.querySelectorAll('.prose *')].map((e) => [e.tagName, ...e.getAttributeNames()])"


def test_markdown_without_html(browser, server):
    "What the model writes as HTML stays text; nothing runs and nothing is fetched"
    talk = [turn("?", a) for a in HOSTILE] + [turn("?", "# A\n- [x] b\n\n1\\. c")]
    with Visit(browser, f"{server.url}bundle/", dict(conversation=talk)) as v:
        requests = []
        v.on("request", lambda r: requests.append(r.url))
        v.locator(".prose h3").wait_for()
        assert [t.strip() for t in v.locator(".prose").all_inner_texts()][:-1] == list(HOSTILE.values())
        assert v.locator(".prose li").inner_text() == "☑ b"
        made = v.evaluate(MADE)
        assert {tag for tag, *_ in made} <= {"P", "A", "BR", "STRONG", "CODE", "H3", "UL", "LI"}
        assert {name for _, *names in made for name in names} <= {"href", "rel", "target"}
        assert v.evaluate("[...document.querySelectorAll('.prose a[href]')].map((a) => a.protocol)") == ["https:"] * 2
        assert v.evaluate("window.hurt === undefined")
        assert not [r for r in requests if "example.com" in r]
        assert not v.said


GROWN = [
    MARKDOWN,
    "1. a\n   - n\n\n2. b\n\n> q\nlazy\n\ntext\n===\n\nmore\r\nlines\r\n\r\nx",
    "# a\nb\n## c\n***\n- a\n\n  b\n\n      code\n",
    "\n\n   \n a",
    "",
    "a\n\n\n\n```\nopen",
]
ODD = """async (texts) => {
    const { GrowingMarkdown, render } = await import('./markdown.js'), odd = [];
    const html = (e) => e.innerHTML.replace(/\\s+/g, ' ').trim();
    for (const text of texts) for (const step of [1, 2, 3, 7]) {
        const place = document.createElement('div'), whole = document.createElement('div');
        const growing = new GrowingMarkdown(place);
        for (let i = step; i < text.length + step; i += step) growing.update(text.slice(0, i));
        whole.append(render(text));
        if (html(place) !== html(whole)) odd.push([text, step, html(place), html(whole)]);
    }
    return odd;
}"""
REDRAWN = """async () => {
    const { GrowingMarkdown } = await import('./markdown.js'), place = document.createElement('div');
    const growing = new GrowingMarkdown(place), seen = new MutationObserver(() => {});
    seen.observe(place, { childList: true });
    let text = '', most = 0;
    for (let i = 0; i < 200; i++) {
        growing.update(text += `paragraph ${i}\n\n`);
        most = Math.max(most, seen.takeRecords().reduce((n, r) => n + r.addedNodes.length, 0));
    }
    return [place.querySelectorAll('p').length, most];
}"""


def test_markdown_that_grows(browser, server):
    "However it arrives, it ends as if it had come at once; and what is settled is not drawn again"
    with Visit(browser, f"{server.url}bundle/") as v:
        assert v.evaluate(ODD, GROWN) == []
        paragraphs, most = v.evaluate(REDRAWN)
        assert paragraphs == 200
        assert most < 10


def test_without_the_formatter_answers_are_text(browser, server):
    "A host without the library, or a browser without what it needs"
    unkept = dict(service_workers="block")  # which may have kept the library from the first visit
    with Visit(browser, f"{server.url}bundle/", dict(conversation=TALKED[:1]), **unkept) as v:
        v.context.route("**/vendor/marked.js", lambda route: route.fulfill(status=404, body=""))
        v.reload()
        v.locator(".plain").wait_for()
        assert v.locator(".plain").text_content() == MARKDOWN
        v.settings(maxTokens=5)
        v.load().ask("Hello")
        assert v.locator(".plain").count() == 2
        assert not v.locator("#trouble").is_visible()


def test_a_reload_finds_everything_again(browser, server):
    "The conversation, an answer that was cut off, the draft and the settings; New forgets"
    with Visit(browser, f"{server.url}bundle/") as v:
        v.load()
        v.settings(temperature=0, maxTokens=ENDLESS, stopStrings="never\nat all")
        v.ask("At length", wait=False)
        v.growing()
        v.fill("#prompt", "half a thou")
        v.press("#prompt", "ArrowLeft")
        v.reload()
        v.locator("#gate").wait_for(state="hidden")
        assert v.turns() == ["At length"]
        assert len(v.locator(".prose").inner_text()) > 3
        assert v.locator(".note").inner_text() == "stopped when the page was left"
        assert v.input_value("#prompt") == "half a thou"
        assert v.focus() == "prompt"
        assert v.evaluate("document.activeElement.selectionStart") == 10
        assert v.input_value("#maxTokens") == str(ENDLESS)
        assert v.input_value("#stopStrings") == "never\nat all"
        v.settings(maxTokens=3)
        v.ask("And now?")
        assert "0 known" in v.inner_text("#prefill"), "the engine is new"
        assert int(v.inner_text("#prefill").split()[0]) > 20, "what was said before is in the prompt"
        v.locator("#clear").click()
        v.reload()
        v.locator("#gate").wait_for(state="hidden")
        assert v.turns() == []


def test_what_a_tab_remembers_may_be_anything(browser, server):
    for kept in ("x", [None, 3, turn("a", 5), turn("a", "b", kind="odd")], {"a": 1, "text": 5}):
        names = ("conversation", "draft", "settings", "context")
        with Visit(browser, f"{server.url}bundle/", dict.fromkeys(names, kept)) as v:
            v.locator("#load:enabled").wait_for()
            assert v.turns() == []
            assert v.input_value("#prompt") == ""
            assert not v.said
            assert not v.locator("#trouble").is_visible()


def test_a_text_typed_before_the_isolating_reload(browser, folder):
    "The host sends no headers, so the page loads once more: what was typed by then is there, and the caret too"
    with PageServer(folder, isolated=False) as server:
        server.delay = 1.5  # seconds until the service worker is there
        with Visit(browser, f"{server.url}slow/") as v:
            v.locator("#prompt").type("first words", delay=5)
            v.press("#prompt", "Home")
            assert not v.evaluate("crossOriginIsolated")
            v.wait_for_function("() => crossOriginIsolated && !document.getElementById('load').disabled")
            assert v.input_value("#prompt") == "first words"
            assert v.focus() == "prompt"
            v.keyboard.type("My ")
            assert v.input_value("#prompt") == "My first words"


def test_a_text_sent_before_the_isolating_reload(browser, folder):
    "It is there to be sent again"
    with PageServer(folder, isolated=False) as server:
        server.delay = 1.5
        with Visit(browser, f"{server.url}slow/") as v:
            v.ask("Too early", wait=False)
            assert not v.evaluate("crossOriginIsolated")
            assert v.turns() == ["Too early"]
            v.wait_for_function("() => crossOriginIsolated && !document.getElementById('load').disabled")
            assert v.input_value("#prompt") == "Too early"
            assert v.turns() == []


def test_a_conversation_longer_than_the_context(browser, server):
    "Said in a visitor's words; the context that is chosen is the one that the model gets, and the conversation stays"
    with Visit(browser, f"{server.url}bundle/") as v:
        v.load()
        options = v.locator("#context option").all_text_contents()
        assert [o.split(",  ")[0].split(" tokens")[0] for o in options] == ["512", "1,024", "2,048", "4,096"]
        assert all(o.endswith(" MB") for o in options)
        assert v.input_value("#context") == "2048"
        v.settings(maxTokens=4)
        v.ask("Hello")
        v.select_option("#context", "512")
        v.locator("#gate").wait_for(state="hidden")
        assert v.turns() == ["Hello"]
        text = "word " * 900
        v.ask(text, wait=False)
        assert v.trouble() == (
            "The conversation is longer than the 512 tokens of its context: "
            "begin a new one, write less, or choose a longer context in the settings"
        )
        assert v.turns() == ["Hello"], "it comes back"
        assert v.input_value("#prompt") == text, "it comes back"
        v.get_by_role("button", name="Dismiss").click()
        assert not v.locator("#trouble").is_visible()
        v.select_option("#context", "4096")
        v.locator("#gate").wait_for(state="hidden")
        v.press("#prompt", "Enter")
        v.idle()
        assert len(v.turns()) == 2
        assert not v.locator("#trouble").is_visible()
        v.reload()
        v.locator("#gate").wait_for(state="hidden")
        assert v.input_value("#context") == "4096"


def test_the_context_is_chosen_before_a_load_too(browser, server):
    "And its memory is said"
    with Visit(browser, f"{server.url}bundle/") as v:
        v.locator("#load:enabled").wait_for()
        v.settings()
        memory = [int(o.split()[-2]) for o in v.locator("#context option").all_text_contents()]
        assert memory == sorted(set(memory))
        v.select_option("#context", "4096")
        assert f"takes about {memory[-1]} MB of memory" in v.inner_text("#offer")
        v.select_option("#context", "512")
        assert f"takes about {memory[0]} MB of memory" in v.inner_text("#offer")
        v.load().ask("word " * 600, wait=False)
        assert "longer than the 512 tokens" in v.trouble()


def test_an_answer_stops_where_the_context_is_full(browser, server):
    with Visit(browser, f"{server.url}bundle/", dict(context=512)) as v:
        v.load()
        v.settings(temperature=0, repetitionPenalty=1, maxTokens=1000)
        v.ask("word " * 485)
        assert v.locator(".note").inner_text().startswith("the context is full: begin a new conversation")


def seed_of_a_line_break(folder, text: str, **how) -> tuple[int, str]:
    "A seed whose answer has a line break within, and that answer: the native engine gives the same"
    tok = SmolLMTokenizer.load(folder / "tiny")
    ids = encode_chat(tok, [dict(role="user", content=text)])
    with engine.load(folder / "q4" / "model_q4.bin", threads=1) as e:
        for seed in range(1000):
            answer = generate(e, tok, ids, seed=seed, **how).finish().text
            if "\n" in answer[3:-3]:
                return seed, answer
    raise AssertionError("no answer has a line break")


def test_stop_strings_with_line_breaks(browser, server, folder):
    "One a line; a line break is written as in code"
    seed, whole = seed_of_a_line_break(folder, "Hello", temperature=2.0, max_tokens=60)
    with Visit(browser, f"{server.url}bundle/") as v:
        v.load()
        v.settings(temperature=2, topP=1, repetitionPenalty=1, maxTokens=60, seed=seed)
        v.ask("Hello")

        def saved():
            return v.evaluate("JSON.parse(sessionStorage['smollm_nb /bundle/ conversation']).at(-1).answer")

        assert saved() == whole
        v.settings(stopStrings="never this\n\\n")
        v.get_by_role("button", name="Regenerate the answer").click()
        v.idle()
        assert saved() == whole[: whole.index("\n")]
        assert v.locator(".note").inner_text() == "stopped at a stop string"


def test_new_while_the_model_loads(browser, server):
    "The question that waited for it is dropped"
    server.delay = 0.4
    with Visit(browser, f"{server.url}slow/") as v:
        v.locator("#load:enabled").wait_for()
        v.ask("Dropped", wait=False)
        assert v.turns() == ["Dropped"]
        v.locator("#clear").click()
        v.locator("#gate").wait_for(state="hidden")
        v.settings(maxTokens=3)
        v.ask("Asked")
        assert v.turns() == ["Asked"]
        assert v.inner_text("#say").startswith(("Answer", "No answer"))


def test_a_load_that_is_cancelled_gives_the_text_back(browser, server):
    server.delay = 0.4
    with Visit(browser, f"{server.url}slow/") as v:
        v.locator("#load:enabled").wait_for()
        v.ask("Wait for it", wait=False)
        v.locator("#abort").click()
        v.idle()
        assert v.turns() == []
        assert v.input_value("#prompt") == "Wait for it"
        assert not v.locator("#trouble").is_visible()


def test_an_engine_that_dies_can_be_loaded_again(browser, server):
    with Visit(browser, f"{server.url}bundle/") as v:
        v.load()
        v.settings(temperature=0, maxTokens=ENDLESS)
        v.ask("At length", wait=False)
        v.growing()
        worker = next(w for w in v.workers if w.url.endswith("worker.js"))
        worker.evaluate("setTimeout(() => { throw new Error('out of luck'); })")
        assert "The engine stopped" in v.trouble()
        assert "out of luck" in v.trouble()
        assert v.input_value("#prompt") == "At length"
        assert v.turns() == []
        v.load()
        v.settings(maxTokens=3)
        v.ask("At length")
        assert v.turns() == ["At length"]
        assert not v.locator("#trouble").is_visible()


# ---- what does not start

THROWS = "Object.defineProperty({}, '{}', {{ get() {{ throw new DOMException('denied', 'SecurityError'); }} }});"
NO_RELOADER = THROWS.format("Navigator.prototype", "serviceWorker")


def test_whatever_start_up_throws_is_shown(browser, server):
    with Visit(browser, f"{server.url}bundle/", script="delete window.ResizeObserver") as v:
        why = "ReferenceError: ResizeObserver is not defined"
        assert v.trouble() == f"Something in this page failed ({why}): load the page again"
    with Visit(browser, f"{server.url}bundle/") as v:
        v.locator("#load:enabled").wait_for()
        v.evaluate("setTimeout(() => { throw 'a text'; })")
        assert v.trouble() == "Something in this page failed (a text): load the page again"
        v.evaluate("void Promise.reject(new DOMException('b\\nc', 'DataCloneError'))")
        v.get_by_text("(DataCloneError: b c)").wait_for()


def test_access_that_throws(browser, server):
    "The storage of a tab and the service worker, on mere access: the page answers, and says what that means"
    script = THROWS.format("window", "sessionStorage") + NO_RELOADER
    with Visit(browser, f"{server.url}bundle/", script=script) as v:
        v.locator("#load:enabled").wait_for()
        assert v.inner_text("#note") == "A reload forgets the conversation."
        v.load()
        v.settings(maxTokens=3)
        v.ask("Hello")
        assert v.turns() == ["Hello"]
        assert not v.said
        assert not v.locator("#trouble").is_visible()


def test_one_thread_and_nothing_kept_are_said(browser, folder):
    "A host that sends no headers, where the service worker may not help"
    with PageServer(folder, isolated=False) as server, Visit(browser, f"{server.url}bundle/", script=NO_RELOADER) as v:
        v.locator("#load:enabled").wait_for()
        assert "One thread: " in v.inner_text("#note")
        v.load()
        assert "one thread" in v.inner_text("#engine")


STILL = "must come from a web server, as JavaScript. Run smollm serve DIR, or python -m http.server in this folder"


def test_opened_as_a_file(browser, folder, artefacts):
    "Browsers run no modules from a file: what to do is said by the page itself, and stays in sight"
    with Visit(browser, (folder / "bundle" / "index.html").as_uri()) as v:
        v.locator("#unstarted .served").wait_for(**VISIBLE)
        assert STILL in " ".join(v.inner_text("#unstarted").split())
        v.screenshot(path=str(artefacts / "page_file.png"))
        assert v.evaluate("getComputedStyle(document.body).display") == "flex", "it looks like itself"
        v.evaluate("document.getElementById('send').click()")
        v.wait_for_timeout(300)
        assert v.url.endswith("index.html"), "nothing that is typed goes into the address"


@pytest.mark.parametrize("page", ["", "bench.html"])
def test_scripts_of_a_wrong_type(browser, server, page):
    with Visit(browser, f"{server.url}text/{page}") as v:
        v.locator("#unstarted .served").wait_for(**VISIBLE)
        assert STILL in " ".join(v.inner_text("#unstarted").split())
        assert not v.locator("#unstarted .off").is_visible()


def test_without_javascript(browser, server):
    with Visit(browser, f"{server.url}bundle/", java_script_enabled=False) as v:
        v.locator("#unstarted .off").wait_for(**VISIBLE)
        assert not v.locator("#unstarted .served").is_visible()


def test_the_message_is_gone_once_the_script_runs(browser, server):
    with Visit(browser, f"{server.url}bundle/") as v:
        v.locator("#load:enabled").wait_for()
        assert v.locator("#unstarted").count() == 0


BREAKS = """async () => {
    const broken = [], make = (tag, properties) => Object.assign(document.createElement(tag), properties);
    document.addEventListener('securitypolicyviolation', (e) => broken.push(e.effectiveDirective));
    document.head.append(make('base', { href: 'https://example.com/' }));
    document.body.append(make('img', { src: 'http://127.0.0.1:9/a.png' }), make('iframe', { name: 'frame' }));
    await fetch('http://127.0.0.1:9/').catch(() => {});
    document.body.append(make('form', { id: 'form', target: 'frame' }));
    document.getElementById('form').submit();
    while (broken.length < 4) await new Promise((resolve) => setTimeout(resolve, 20));
    return [broken.sort(), document.baseURI === location.href];
}"""


def test_the_policy_of_the_page_itself(browser, server):
    "From a host that sends none: nothing from elsewhere, no other base, no form that goes anywhere"
    with Visit(browser, f"{server.url}bare/") as v:
        v.locator("#load:enabled").wait_for()
        assert v.evaluate(BREAKS) == [["base-uri", "connect-src", "form-action", "img-src"], True]
        v.load()
        v.settings(maxTokens=3)
        v.ask("Hello")
        assert v.turns() == ["Hello"]


# ---- storage that a visitor's settings block


def blocked(profile: Path) -> Path:
    "A profile whose user lets no site keep anything"
    (profile / "Default").mkdir(parents=True)
    (profile / "prefs.js").write_text('user_pref("network.cookie.cookieBehavior", 2);\n')
    settings = dict(profile=dict(default_content_setting_values=dict(cookies=2)))
    (profile / "Default" / "Preferences").write_text(json.dumps(settings))
    return profile


@pytest.mark.parametrize("browser", ["chromium", "firefox"])  # WebKit's MiniBrowser has no such setting
def test_a_browser_that_keeps_nothing(folder, tmp_path, browser):
    need(browser)
    out, profile = [], blocked(tmp_path / "profile")
    with PageServer(folder) as server, opened(browser, server.url + "visited/", profile) as process:
        while not (r := server.report(process, PATIENCE)).get("done"):
            out.append(r)
    assert len(out) == 2, out
    assert all(r["ok"] for r in out), out
