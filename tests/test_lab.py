"The laboratory in a real JupyterLab: a browser clicks, drags, stops and comes back"
import os
import re
from pathlib import Path

import pytest

from lab_page import ARGS, CHROMIUM, Lab, jupyterlab, notebook, settings

if not CHROMIUM and not os.environ.get("CI"): pytest.skip("there is no Chromium here (Debian: apt-get install chromium)", allow_module_level=True)

PANEL = """from smollm_nb.prompt_panel import PromptPanel
panel = PromptPanel({model!r}, "native int8", "Hello", max_tokens=40)
panel"""
SLOW = """import time
from smollm_nb.generate import Generation
if not hasattr(Generation, "_quick"): Generation._quick = Generation._read
def _slowly(self, last):
    time.sleep(0.05)
    return self._quick(last)
Generation._read = _slowly"""
BUSY = "import time\nfor _ in range(200): time.sleep(0.1)"


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    "Where screenshots go"
    d = Path(os.environ.get("SMOLLM_SHOTS") or tmp_path_factory.mktemp("shots"))
    d.mkdir(parents=True, exist_ok=True)
    return d


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "CI needs Chromium: apt-get install chromium"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield b
        b.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_folder, kernel_built):
    "JupyterLab on a folder with small notebooks; the int8 file is made before anybody clicks"
    import json
    from smollm_nb.recipes import cached
    d, cache = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("lab_cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("SMOLLM_CACHE", str(cache))
    cached(tiny_folder, "int8")
    patch.undo()
    for name in ("panel", "faults"): (d/f"{name}.ipynb").write_text(json.dumps(notebook([PANEL.format(model=str(tiny_folder)), SLOW, BUSY])))
    with jupyterlab(d, settings(tmp_path_factory.mktemp("settings")), SMOLLM_CACHE=str(cache)) as (url, token): yield url, token, d


def status(page): return page.locator(".lab-status").first.text_content()


def wait_status(page, pattern:str) -> str:
    "The panel's status once it matches"
    page.wait_for_function("p => new RegExp(p).test(document.querySelector('.lab-status')?.textContent ?? '')", arg=pattern)
    return status(page)


def press(page, name:str) -> None: page.locator(".lab-panel button:enabled", has_text=name).first.click()


def test_a_person_asks_stops_and_looks(browser, server, artefacts):
    url, token, _ = server
    lab = Lab(browser, url, token, "panel.ipynb")
    page = lab.page
    lab.run(0)
    press(page, "Generate")
    wait_status(page, "^40 tokens: the length")
    assert page.locator(".lab-token").count() == 40 and page.locator(".lab-dots").count() == 1 and page.locator(".lab-line").count() == 1
    page.locator(".lab-token").nth(3).hover()
    assert page.locator(".lab-card tr").count() >= 5
    lab.shot(artefacts/"panel_light.png")
    # the keyboard reaches every token, and says it
    page.locator(".lab-answer").focus()
    page.keyboard.press("End")
    assert page.locator(".lab-hidden").text_content().startswith("token 40, ")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".lab-hidden").text_content().startswith("token 39, ")
    press(page, "Copy as Python")
    page.get_by_role("button", name="Copied").wait_for()
    assert "open_model(" in page.evaluate("navigator.clipboard.readText()")
    # a slider, dragged
    handle = page.locator(".lab-panel .widget-hslider", has_text="temperature").locator(".noUi-handle")
    box = handle.bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 4)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 4, steps=5)
    page.mouse.up()
    page.wait_for_function("!document.querySelector('.lab-panel').textContent.includes('0.00\\u00a0')")
    # stop in the middle, at 50 ms a token
    lab.run(1)
    page.locator(".lab-panel .widget-hslider", has_text="answer, tokens").locator(".noUi-handle").focus()
    for _ in range(5): page.keyboard.press("PageUp")
    first = page.locator(".lab-token").first.element_handle()
    press(page, "Generate")
    wait_status(page, "^answering")
    page.wait_for_function("document.querySelectorAll('.lab-token').length > 5 && document.querySelectorAll('.lab-token').length < 40")
    press(page, "Stop")
    n = int(re.search(r"stopped after (\d+)", wait_status(page, "^stopped after"))[1])
    assert 5 < n < 100 and page.locator(".lab-token").count() == n
    # another backend while it answers
    press(page, "Generate")
    wait_status(page, "^answering")
    page.locator(".lab-panel select").first.select_option("torch fp32")
    wait_status(page, "^stopped after")
    press(page, "Generate")
    wait_status(page, "^answering with torch")
    # the tab closes and comes back; the answer has gone on, nothing is missing
    page.keyboard.press("Control+s")
    page.wait_for_timeout(500)
    page.goto("about:blank")
    lab.open()
    page.wait_for_function("document.querySelectorAll('.lab-token').length > 10")
    press(page, "Stop")
    n = int(re.search(r"stopped after (\d+)", wait_status(page, "^stopped after"))[1])
    page.wait_for_function("n => document.querySelectorAll('.lab-token').length === n", arg=n)
    assert not lab.errors, lab.errors
