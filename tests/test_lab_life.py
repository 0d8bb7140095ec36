"What all views do in a real JupyterLab: they end with their kernel, are saved, fit, and obey keys"

import json
import re
import subprocess
import sys

import pytest
from lab_page import NAMELESS, SLOW, Lab, assert_fits, lab_folder, press, press_here, wait_status, write
from playwright.sync_api import expect

CELLS = dict(
    panel="""from smollm_nb.lab.prompt_panel import PromptPanel
view = PromptPanel({model!r}, "native int8", "Hello", max_tokens=200)
view""",
    compare="""from smollm_nb.lab.compare_view import CompareView
view = CompareView({model!r}, "torch fp32", "native int8", "Hello", 200)
view""",
    explorer="""from smollm_nb.lab.quant_explorer import QuantExplorer
view = QuantExplorer({model!r}, "int8", 1.0, "explored", 300)
view""",
    runner="""from smollm_nb.lab.browser_runner import BrowserRunner
view = BrowserRunner({file!r}, prompt="Hello there", max_tokens=30)
view""",
    dashboard="""from smollm_nb.lab.bench_dashboard import BenchDashboard
view = BenchDashboard({model!r}, ("native int8",), 1, rounds=1000, history="runs.jsonl")
view""",
    sweep="""from smollm_nb.lab.sweep_view import SweepView
how = dict(recipes=["int8"], seeds=[*range(100)], settings=[dict(tokens=64, window=32)])
view = SweepView(dict(models=[{model!r}]) | how, "swept.jsonl", 1)
view""",
)
READY = dict(
    panel="^Generate loads",
    compare="^Compare loads",
    explorer="^choose",
    runner="^Generate loads",
    dashboard="^choose",
    sweep="^[0-9]+ of 100 cells in swept",
)
GO = dict(panel="Generate", compare="Compare", explorer="Predict", dashboard="Run", sweep="Start")
RESTARTED = "^the kernel was restarted: run the cell again"


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_folder, kernel_built):
    "JupyterLab on an empty folder"
    with lab_folder(tmp_path_factory, tiny_folder) as place:
        yield place


def opened(browser, server, name: str, cells: list[str], **size) -> Lab:
    "A notebook of these cells in a tab, its first cell run"
    url, token, d = server
    write(d, name, cells)
    lab = Lab(browser, url, token, f"{name}.ipynb", **size)
    lab.run(0)
    lab.page.locator(".lab-panel .lab").first.wait_for()
    return lab


def output(page, i: int):
    "What a cell wrote"
    return page.locator(".jp-Notebook .jp-Cell").nth(i).locator(".jp-OutputArea-output")


def all_off(page) -> None:
    "Nothing that needs the kernel can be pressed"
    for kind in (".jupyter-button:enabled", ":is(.widget-text, .widget-dropdown, .widget-textarea) :enabled"):
        expect(page.locator(f".lab-panel {kind}")).to_have_count(0)
    assert page.locator(".lab-panel .widget-hslider:not([inert])").count() == 0
    assert page.locator(".lab-busy").count() == 0


@pytest.mark.parametrize("kind", CELLS)
def test_a_view_until_its_kernel_restarts(browser, server, tiny_folder, tiny_q4, artefacts, kind):
    "Fits a narrow page; the kernel restarts while it works: it says so, its buttons are off; the cell makes a new one"
    cell = CELLS[kind].format(model=str(tiny_folder), file=str(tiny_q4))
    lab = opened(browser, server, f"restart_{kind}", [cell, SLOW])
    page = lab.page
    wait_status(page, READY[kind], 100)
    lab.narrow()
    assert_fits(page)
    page.locator(".lab-panel").screenshot(path=str(artefacts / f"{kind}_new_narrow.png"))
    page.set_viewport_size(dict(width=1200, height=1000))
    lab.run(1)
    if kind == "runner":
        press_here(page, "Generate")
    else:
        press(page, GO[kind])
        expect(page.locator(".lab-busy")).to_have_count(1)
    if kind == "panel":
        page.locator(".lab-token").nth(3).wait_for()
    lab.restart()
    if kind == "runner":  # the page needs no kernel to answer
        expect(page.locator(".lab-note")).to_have_text(re.compile(f"{RESTARTED} to save"))
        wait_status(page, "^30 tokens: the length")
        assert page.get_by_role("button", name="Save as a page").is_disabled()
        assert page.get_by_role("button", name="Generate").is_enabled()
    else:
        wait_status(page, RESTARTED)
        all_off(page)
    page.locator(".lab-panel").screenshot(path=str(artefacts / f"{kind}_restarted.png"))
    if kind == "panel":  # what came is still there to be read
        page.locator(".lab-token").nth(2).hover()
        assert page.locator(".lab-card tr").count() >= 5
    lab.wait_idle()
    if kind not in ("panel", "runner"):
        return  # from here on all views share their code
    # the page is opened again: there is no widget any more, but what was saved
    page.keyboard.press("Control+s")
    page.wait_for_timeout(500)
    lab.open()
    saved = page.locator(".lab-saved")
    expect(saved).to_be_visible()
    expect(page.get_by_text("Error displaying widget")).to_be_hidden()
    assert "run the cell" in saved.text_content()
    lab.run(0)
    wait_status(page, READY[kind], 100)
    expect(saved).to_be_hidden()
    assert not page.evaluate("document.querySelectorAll('.lab-lost').length")
    assert not [e for e in lab.errors if "model not found" not in e.lower()], lab.errors


def test_the_kernel_dies(browser, server, tiny_folder):
    "Killed in the middle of an answer, and started again by JupyterLab"
    end = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    lab = opened(browser, server, "death", [CELLS["panel"].format(model=str(tiny_folder)), SLOW, end])
    page = lab.page
    lab.run(1)
    press(page, "Generate")
    page.locator(".lab-token").nth(3).wait_for()
    page.locator(".jp-Notebook .jp-Cell").nth(2).locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    wait_status(page, RESTARTED)
    all_off(page)


def test_the_kernel_is_shut_down(browser, server, tiny_folder):
    lab = opened(browser, server, "shut", [CELLS["compare"].format(model=str(tiny_folder))])
    lab.command("Kernel/Shut Down Kernel")
    wait_status(lab.page, "^the kernel was shut down: run the cell again")
    all_off(lab.page)


THREADS = """import threading
from ipywidgets.widgets.widget import _instances
views = [w for w in _instances.values() if type(w).__name__ == "PromptPanel"]
jobs = [t for t in threading.enumerate() if t.name == "smollm lab"]
print(f"{len(views)} view, {len(jobs)} jobs, {len(first)} tokens kept")"""


def test_a_cell_that_runs_again_frees_what_it_made(browser, server, tiny_folder):
    "Its thread, its model, its widgets; what a person kept of it can still be read"
    cell = CELLS["panel"].format(model=str(tiny_folder))
    lab = opened(browser, server, "again", [cell, SLOW + "\nfirst = view.box.tokens\nfirst_view = view", THREADS])
    page = lab.page
    press(page, "Generate")
    n = int(re.match(r"(\d+) tokens: the", wait_status(page, "^[0-9]+ tokens: the"))[1])
    lab.run(1)
    press(page, "Generate")
    wait_status(page, "^answering")
    lab.run(0)
    wait_status(page, READY["panel"])
    expect(page.locator(".lab-panel")).to_have_count(1)
    lab.run(2)
    expect(output(page, 2)).to_have_text(f"1 view, 0 jobs, {n} tokens kept\n")
    press(page, "Generate")
    wait_status(page, "^answering")
    press(page, "Stop")
    wait_status(page, "^stopped after")


TWO = """from smollm_nb.lab.jobs import open_model
from smollm_nb.lab.prompt_panel import PromptPanel
from IPython.display import display
model = open_model({model!r}, "native int8")
alone = [model.generate(p, max_tokens=60).finish().text for p in ("Hello", "There was")]
first, second = PromptPanel(model, prompt="Hello", max_tokens=60), PromptPanel(model, prompt="There was", max_tokens=60)
display(first, second)"""


def test_two_panels_of_one_model(browser, server, tiny_folder):
    "They take turns, and each answers as if it were alone"
    same = "print([first.answer.text, second.answer.text] == alone)"
    lab = opened(browser, server, "two", [TWO.format(model=str(tiny_folder)), SLOW, same])
    page = lab.page
    lab.run(1)
    panels = page.locator(".lab-panel")
    expect(panels).to_have_count(2)
    for i in range(2):
        panels.nth(i).locator("button", has_text="Generate").click()
    expect(panels.nth(1).locator(".lab-status")).to_have_text("waiting for another view's work to end")
    for i in range(2):
        expect(panels.nth(i).locator(".lab-status")).to_have_text(re.compile("^[0-9]+ tokens: the"))
    lab.run(2)
    expect(output(page, 2)).to_have_text("True\n")
    assert not lab.errors, lab.errors


# what has the focus, as a person would call it
FOCUS = """() => { const e = document.activeElement;
  return e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent }"""


def test_by_keyboard(browser, server, tiny_folder):
    "Every control has a name and its place in the order; Enter presses; the focus stays in the panel"
    lab = opened(browser, server, "keys", [CELLS["panel"].format(model=str(tiny_folder)), SLOW])
    page = lab.page
    lab.run(1)
    assert page.evaluate(NAMELESS) == []
    page.locator(".lab-panel input[type=text]").first.focus()
    order = []
    for _ in range(20):
        order.append(page.evaluate(FOCUS).strip())
        page.keyboard.press("Tab")
    sliders = ["answer, tokens", "temperature", "top-k", "top-p", "min-p", "repetition penalty"]
    numbers = [name for s in sliders for name in (s, f"{s}, as a number")]
    assert order[:4] == ["model", "backend", "the model should", "prompt"]
    assert order[4:16] == numbers
    assert order[16:] == ["seed", "new seed each time", "Generate", "Copy as Python"], "what is off is passed by"
    page.locator(".lab-panel button", has_text="Generate").focus()
    page.keyboard.press("Enter")
    wait_status(page, "^answering")
    expect(page.locator(".lab-panel button:focus")).to_have_text("Stop")
    page.keyboard.press("Space")
    wait_status(page, "^stopped after")
    expect(page.locator(".lab-panel button:focus")).to_have_text("Generate")
    # keys that mean something to the notebook mean nothing to it here
    for key in ("a", "b", "x", "Enter"):
        page.keyboard.press(key)
    wait_status(page, "^answering")
    assert page.locator(".jp-Notebook .jp-Cell").count() == 2
    press(page, "Stop")
    assert page.evaluate(NAMELESS) == [], lab.errors
    assert not lab.errors, lab.errors


SPIKE = """from smollm_nb.lab.prompt_panel import AnswerView
view = AnswerView()
view.begin()
view.memory, view.holds = [[0.1, 200.0], [1.0, 210.0]], "Python."
view.tokens = [[" a", 0.9, [[" a", 0.9]], 500.0 if i == 30 else 4 + 0.1*(i % 7), " a"] for i in range(64)]
view"""


def test_a_spike_flattens_nothing(browser, server, artefacts):
    "It stands at the edge with its value, and the names of the limits stay apart"
    url, token, d = server
    write(d, "spike", [SPIKE])
    lab = Lab(browser, url, token, "spike.ipynb")
    lab.run(0)
    chart = lab.page.locator(".lab svg").first
    chart.wait_for()
    assert chart.locator(".lab-outlier-text").text_content() == "500 ms"
    assert "1 above the scale, to 500 ms" in chart.get_attribute("aria-label")
    boxes = sorted(b["y"] for b in (n.bounding_box() for n in chart.locator(".lab-limit-text").all()))
    assert boxes[1] - boxes[0] >= 12
    ticks = [float(t) for t in chart.locator(".lab-tick").all_text_contents()[:4]]
    assert max(ticks) < 100, "the axis is that of the other tokens"
    lab.page.locator(".lab").screenshot(path=str(artefacts / "spike.png"))


SAVED = """from smollm_nb.lab.{module} import {view}
view = {view}({args})
view"""


TEXT = "<b>It costs $5 or $6</b>"  # neither tags nor formulas


def nbconvert(*args) -> None:
    subprocess.run([sys.executable, "-m", "nbconvert", "--log-level=WARN", *args], check=True)


@pytest.fixture(scope="module")
def executed(tmp_path_factory, tiny_folder, tiny_q4, kernel_built):
    "A notebook of all views, run by nbconvert as a reader would who has no browser"
    d = tmp_path_factory.mktemp("executed")
    model, file = str(tiny_folder), str(tiny_q4)
    shown = [
        ("prompt_panel", "PromptPanel", f'{model!r}, "torch fp32", {TEXT!r}, max_tokens=12'),
        ("compare_view", "CompareView", f'{model!r}, "torch fp32", "torch bf16", "Hello", 20'),
        ("quant_explorer", "QuantExplorer", f'{model!r}, "int8", 1.0, {str(d / "made")!r}, 300'),
        ("browser_runner", "BrowserRunner", f"{file!r}, output={str(d / 'bundle')!r}, root={str(d)!r}"),
        (
            "bench_dashboard",
            "BenchDashboard",
            f'{model!r}, ("torch fp32",), 1, rounds=2, only="first token", history={str(d / "runs.jsonl")!r}',
        ),
        (
            "sweep_view",
            "SweepView",
            f'dict(models=[{model!r}], recipes=["int8", "minmax-g128-all"], settings=[dict(tokens=64, window=32)]), '
            f"{str(d / 'swept.jsonl')!r}, 0",
        ),
    ]
    cells = [SAVED.format(module=module, view=view, args=args) for module, view, args in shown]
    path = write(d, "all", [c for cell in cells for c in (cell, "view.run();")])
    nbconvert("--execute", "--to", "notebook", "--inplace", str(path))
    return path


@pytest.mark.parametrize("how", ["plain", "state", "dark"])
def test_a_saved_notebook_shows_its_views(browser, executed, artefacts, how):
    "As HTML, without a network: with what nbconvert stores of widgets, without, and in its dark theme"
    nb = json.loads(executed.read_text())
    if how == "plain":
        del nb["metadata"]["widgets"]
    source = executed.with_name(f"{how}.ipynb")
    source.write_text(json.dumps(nb))
    theme = ["--HTMLExporter.theme=dark"] if how == "dark" else []
    nbconvert("--to", "html", *theme, str(source))
    html = source.with_suffix(".html").read_text()
    assert "(children=" not in html
    assert html.count('class="lab-saved"') == len(CELLS)
    page = browser.new_context(viewport=dict(width=700 if how == "dark" else 1100, height=900), offline=True).new_page()
    page.goto(source.with_suffix(".html").as_uri())
    forms = page.locator(".lab-saved")
    views = ("PromptPanel", "CompareView", "QuantExplorer", "BrowserRunner", "BenchDashboard", "SweepView")
    for i, name in enumerate(views):
        form = forms.nth(i)
        expect(form).to_be_visible()
        assert form.locator("b").first.text_content() == name
        assert form.locator("td").count() >= 4
        picture = form.locator("img").first
        assert picture.evaluate("e => e.naturalWidth") > 500
        assert picture.get_attribute("alt")
        assert form.evaluate("e => e.scrollWidth <= e.parentElement.clientWidth + 1"), f"{name} sticks out"
        assert form.locator("script").count() == 0
        assert len(form.evaluate("e => e.outerHTML")) < 200_000
    texts = forms.first.locator("pre")
    assert texts.first.text_content() == TEXT
    assert forms.first.locator("pre b").count() == 0
    for i, name in enumerate(CELLS):
        forms.nth(i).screenshot(path=str(artefacts / f"saved_{name}_{how}.png"))


def test_an_untrusted_notebook_shows_its_views(browser, server, executed):
    "JupyterLab runs nothing of a notebook that came from elsewhere; picture, figures and texts are there"
    url, token, d = server
    (d / "foreign.ipynb").write_bytes(executed.read_bytes())
    page = Lab(browser, url, token, "foreign.ipynb").page
    first = page.locator(".jp-Notebook .jp-Cell").first
    expect(first.get_by_text(TEXT, exact=True)).to_be_visible()
    assert first.locator("img").evaluate("e => e.naturalWidth") > 500
    assert first.locator("td").count() >= 4
    assert "children=" not in first.locator(".jp-OutputArea").text_content()
