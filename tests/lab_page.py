"JupyterLab in a browser, for the tests of the views: a server on a free port, a page that clicks, the console's errors"

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

from smollm_nb.core import python_command

expect.set_options(timeout=60_000)  # a guard against hangs, not a bar
CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
# what JupyterLab 4.6 itself logs as an error when a kernel restarts or a page closes
HARMLESS = (
    "Canceled future for",
    "Connection lost, reconnecting",
    "favicon",
    "net::ERR_ABORTED",
    "Kernel info request failed",
)


# 100 ms for each token, whatever computes it
SLOW = """import time
from smollm_nb.engine.native import Engine
from smollm_nb.inference.llama import TorchBackend
def slowly(decode):
    def f(self, id, pos):
        time.sleep(0.1)
        return decode(self, id, pos)
    return f
for kind in (Engine, TorchBackend): kind.decode = slowly(kind.decode)"""


def free_port() -> int:
    "A port that nobody uses now"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def notebook(cells: list[str]) -> dict:
    "A notebook of code cells"

    def code(i, source):
        return dict(cell_type="code", id=f"cell-{i}", execution_count=None, metadata={}, outputs=[], source=source)

    return dict(
        cells=[code(i, s) for i, s in enumerate(cells)],
        metadata=dict(kernelspec=dict(display_name="Python 3", language="python", name="python3")),
        nbformat=4,
        nbformat_minor=5,
    )


@contextlib.contextmanager
def jupyterlab(folder: Path, settings: Path, **env):
    "A JupyterLab on `folder`; yields its address and token"
    port, token = free_port(), secrets.token_hex(16)
    cmd = [
        *python_command("-m", "jupyterlab"),
        f"--notebook-dir={folder}",
        "--no-browser",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        f"--LabApp.user_settings_dir={settings}",
        f"--LabApp.workspaces_dir={settings}/workspaces",
        "--allow-root",
    ]
    with open(settings / "server.log", "w+") as log:
        p = subprocess.Popen(cmd, stdout=log, stderr=log, env=os.environ | env, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                if p.poll() is not None:
                    raise AssertionError("JupyterLab ended: " + (settings / "server.log").read_text()[-2000:])
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/api?token={token}", timeout=5).close()
                    break
                time.sleep(0.1)
            yield url, token
        finally:
            p.send_signal(signal.SIGTERM)
            try:
                p.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(p.pid, signal.SIGKILL)


def settings(folder: Path, dark: bool = False) -> Path:
    "JupyterLab's settings: a theme, and no news"
    for plugin, values in {
        "apputils-extension/themes": dict(theme="JupyterLab Dark" if dark else "JupyterLab Light"),
        "apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False),
    }.items():
        p = folder / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_text(json.dumps(values))
    return folder


@contextlib.contextmanager
def lab_folder(tmp_path_factory, model: Path):
    "JupyterLab on a new folder; yields address, token and folder. A model's int8 file is made before anybody clicks"
    from smollm_nb.quant.recipes import cached

    d, cache = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("lab_cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMOLLM_CACHE", str(cache))
        cached(model, "int8")
    with jupyterlab(d, settings(tmp_path_factory.mktemp("settings")), SMOLLM_CACHE=str(cache)) as (url, token):
        yield url, token, d


def write(folder: Path, name: str, cells: list[str]) -> Path:
    "A notebook in a file"
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps(notebook(cells)))
    return path


class Lab:
    "A notebook in a tab"

    def __init__(self, browser, url: str, token: str, name: str, width: int = 1200, height: int = 1000):
        self.page = browser.new_context(
            viewport=dict(width=width, height=height), permissions=["clipboard-read", "clipboard-write"]
        ).new_page()
        self.errors, self.where = [], f"{url}/lab/tree/{name}?reset&token={token}"
        self.page.set_default_timeout(100_000)
        self.page.on("console", lambda m: self._hear(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self._hear(str(e)))
        self.open()

    def _hear(self, text: str) -> None:
        if not any(h in text for h in HARMLESS):
            self.errors.append(text)

    def open(self) -> None:
        "Load the page, wait for the kernel"
        self.page.goto(self.where)
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        self.wait_idle()

    def wait_idle(self) -> None:
        "Wait until the kernel is there and has nothing to do"
        # maybe hidden
        self.page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(state="attached")

    def command(self, name: str) -> None:
        "Choose from the menu"
        menu, item = name.split("/")
        self.page.locator(".lm-MenuBar-itemLabel", has_text=menu).first.click()
        self.page.locator(".lm-Menu-itemLabel", has_text=item).first.click()

    def run(self, i: int, ends: bool = True) -> None:
        """
        Run a cell to its end, or until it began; the key is pressed again where the page has no kernel yet, or where
        JupyterLab was not ready for the messages of a widget and waits for them without end
        """
        cell = self.page.locator(".jp-Notebook .jp-Cell").nth(i)

        def prompt():
            return cell.locator(".jp-InputPrompt").text_content().strip()

        before = prompt()
        for _ in range(20):
            cell.locator(".cm-content").click()
            self.page.keyboard.press("Control+Enter")
            for _ in range(20):
                # the kernel was not there yet: take the one that is offered
                if self.page.locator(".jp-Dialog").count():
                    self.page.locator(".jp-Dialog .jp-mod-accept").click()
                if prompt() not in (before, "[ ]:"):
                    if not ends:
                        return
                    expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"))
                    if self.widgets_arrive(cell):
                        return
                    before = prompt()
                    break
                self.page.wait_for_timeout(100)
        raise AssertionError(f"cell {i} did not begin")

    def widgets_arrive(self, cell) -> bool:
        "Whether the widgets that a cell shows come within half a minute"
        try:
            expect(cell.get_by_text("Loading widget...")).to_have_count(0, timeout=30_000)
        except AssertionError:
            return False
        return True

    def restart(self) -> None:
        "Restart the kernel, from the menu"
        self.command("Kernel/Restart Kernel…")
        self.page.get_by_role("button", name="Confirm Kernel Restart").click()

    def theme(self, name: str) -> None:
        "Choose Light or Dark"
        self.command("Settings/Theme")
        self.page.locator(".lm-Menu-itemLabel", has_text=f"JupyterLab {name}").last.click()
        self.page.wait_for_function("v => document.body.dataset.jpThemeLight === v", arg=str(name == "Light").lower())

    def narrow(self, width: int = 700, height: int = 1700) -> None:
        "A small window, the file browser away"
        if self.page.locator(".jp-FileBrowser:visible").count():
            self.page.keyboard.press("Control+b")
        self.page.set_viewport_size(dict(width=width, height=height))
        self.page.wait_for_timeout(500)  # it is laid out anew

    def shot(self, path: Path) -> None:
        "What a person sees, kept for looking at"
        self.page.screenshot(path=str(path))


# texts that are cut: a label, a button or a figure's name wider than its box, a choice wider than its control
CUT = """() => ['.widget-label', 'button', '.lab-field > span', '.lab-figure > *', 'select']
  .flatMap((kind) => [...document.querySelectorAll(`.lab-panel ${kind}`)])
  .filter((e) => e.checkVisibility())
  .filter((e) => {
    if (e.tagName !== 'SELECT') return e.scrollWidth > e.clientWidth + 1;
    const pen = document.createElement('canvas').getContext('2d'), look = getComputedStyle(e);
    pen.font = look.font;
    return pen.measureText(e.selectedOptions[0]?.textContent ?? '').width > e.clientWidth - 14;
  }).map((e) => e.textContent.slice(0, 40))"""
STICKS_OUT = """() => {
  const panel = document.querySelector('.lab-panel');
  return panel.scrollWidth > panel.clientWidth + 1 }"""
# controls that a screen reader has no name for
NAMELESS = """() => {
  const kinds = 'button, input, select, textarea, [tabindex="0"], [contenteditable]';
  const name = (e) => e.getAttribute('aria-label') || e.labels?.[0]?.textContent.trim() || e.textContent.trim();
  const seen = [...document.querySelectorAll(`.lab-panel :is(${kinds})`)].filter((e) => e.checkVisibility());
  return seen.filter((e) => !name(e)).map((e) => e.outerHTML.slice(0, 90)) }"""


def assert_fits(page) -> None:
    "Nothing of a view is cut, nothing sticks out of it"
    assert page.evaluate(CUT) == []
    assert not page.evaluate(STICKS_OUT)


def press_here(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def press(page, name: str) -> None:
    page.locator(".lab-panel button:enabled", has_text=name).first.click()


def wait_status(page, pattern: str, seconds: int = 100) -> str:
    "The first view's status once it matches; an error tells what it was instead"
    status = page.locator(".lab-status").first
    expect(status).to_have_text(re.compile(pattern), timeout=1000 * seconds)
    return status.text_content()
