"The views in a real JupyterLab: a browser clicks, drags, stops and comes back"

import re

import pytest
from lab_page import NAMELESS, SLOW, Lab, assert_fits, lab_folder, notebook, press, press_here, wait_status, write
from playwright.sync_api import expect

PANEL = """from smollm_nb.lab.prompt_panel import PromptPanel
panel = PromptPanel({model!r}, "native int8", "Hello", max_tokens=40)
panel"""
PANEL_OF = """import json
from pathlib import Path
source = json.loads(Path({folder!r}, "panel.ipynb").read_text())["cells"][0]["source"]
exec("".join(source).rsplit("panel", 1)[0])
panel"""
BUSY = "import time\nfor _ in range(1200): time.sleep(0.1)"


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_folder, kernel_built):
    "JupyterLab on a folder with small notebooks"
    cells = [PANEL.format(model=str(tiny_folder)), SLOW, BUSY]
    with lab_folder(tmp_path_factory, tiny_folder) as (url, token, d):
        for name in ("panel", "faults"):
            write(d, name, cells)
        yield url, token, d


def test_a_person_asks_stops_and_looks(browser, server, artefacts):
    url, token, _ = server
    lab = Lab(browser, url, token, "panel.ipynb")
    page = lab.page
    lab.run(0)
    press(page, "Generate")
    wait_status(page, "^40 tokens: the length")
    assert page.locator(".lab-token").count() == 40
    assert page.locator(".lab-dots").count() == 1
    assert page.locator(".lab-line").count() == 1
    page.locator(".lab-token").nth(3).hover()
    assert page.locator(".lab-card tr").count() >= 5
    lab.shot(artefacts / "panel_light.png")
    # the keyboard reaches every token, and says it
    page.locator(".lab-answer").focus()
    page.keyboard.press("End")
    assert page.locator(".lab-hidden").text_content().startswith("token 40, ")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".lab-hidden").text_content().startswith("token 39, ")
    press(page, "Copy as Python")
    page.get_by_role("button", name="Copied").wait_for()
    assert "open_model(" in page.evaluate("navigator.clipboard.readText()")
    # a slider, dragged; it changes nothing for a greedy answer
    slider = page.locator(".lab-panel .widget-hslider", has_text="min-p")
    box = slider.locator(".noUi-handle").bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 4)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 4, steps=5)
    page.mouse.up()
    assert float(slider.locator(".widget-readout").text_content()) > 0.05
    # stop in the middle, at 100 ms a token
    lab.run(1)
    page.locator(".lab-panel .widget-hslider", has_text="answer, tokens").locator(".noUi-handle").focus()
    page.keyboard.press("End")
    press(page, "Generate")
    wait_status(page, "^answering")
    page.locator(".lab-token").nth(5).wait_for()
    press(page, "Stop")
    n = int(re.search(r"stopped after (\d+)", wait_status(page, "^stopped after"))[1])
    assert n > 5
    expect(page.locator(".lab-token")).to_have_count(n)
    # once more: as far as it went, not as far as the slider allows
    press(page, "Replay")
    wait_status(page, f"^{n} tokens: as far as it went before")
    assert page.locator(".lab-token").count() == n
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
    # a restarted kernel has no panel; the cell makes a new one
    lab.command("Kernel/Restart Kernel…")
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    lab.run(0)
    page.wait_for_function(
        "document.querySelectorAll('.lab-token').length === 0 && document.querySelector('.lab-answer')"
    )
    press(page, "Generate")
    wait_status(page, "^40 tokens: the length")
    assert not lab.errors, lab.errors


def test_a_click_acts_while_a_cell_runs(browser, server):
    "By the kernel's subshells: the cell takes two minutes, the answer ends before it"
    url, token, _ = server
    lab = Lab(browser, url, token, "faults.ipynb")
    page = lab.page
    lab.run(0)
    lab.run(1)
    page.locator(".lab-panel .widget-hslider", has_text="answer, tokens").locator(".noUi-handle").focus()
    page.keyboard.press("End")
    lab.run(2, ends=False)
    press(page, "Generate")
    wait_status(page, "^answering")
    press(page, "Stop")
    wait_status(page, "^stopped after")
    assert page.locator(".jp-Notebook .jp-Cell").nth(2).locator(".jp-InputPrompt").text_content().strip() == "[*]:", (
        "the cell should still run"
    )
    # the interrupt button ends the cell, and what the panel does with it
    press(page, "Generate")
    wait_status(page, "^answering")
    page.locator(
        "[data-command='notebook:interrupt-kernel'], jp-button[title*='Interrupt'], button[title*='Interrupt']"
    ).first.click()
    wait_status(page, "^stopped after")
    # an error is one line with the way out; text stays text
    name, prompt = page.locator(".lab-panel input[type=text]").first, page.locator(".lab-panel textarea")
    good = name.input_value()
    name.fill("/nowhere/model")
    name.press("Tab")
    press(page, "Generate")
    page.locator(".lab-error:visible").wait_for()
    assert "/nowhere/model" in page.locator(".lab-error").text_content()
    name.fill(good)
    name.press("Tab")
    prompt.fill("<img src=x onerror=\"document.title='bad'\"><script>document.title='bad'</script>")
    press(page, "Generate")
    wait_status(page, "tokens: the")
    assert page.locator(".lab img, .lab script").count() == 0
    assert page.title() != "bad"
    assert not lab.errors, lab.errors


COMPARE = """from smollm_nb.lab.compare_view import CompareView
view = CompareView({model!r}, "torch fp32", "native int8", "Hello", 40)
view"""


def test_two_models_side_by_side(browser, server, artefacts):
    "Compare, look into a token that differs, or into any"
    import json

    url, token, d = server
    model = re.search(r"PromptPanel\('(.*?)'", (d / "panel.ipynb").read_text())[1]
    (d / "compare.ipynb").write_text(json.dumps(notebook([COMPARE.format(model=model)])))
    lab = Lab(browser, url, token, "compare.ipynb")
    page = lab.page
    lab.run(0)
    press(page, "Compare")
    summary = wait_status(page, "tokens, mean KL")
    n = page.locator(".lab-pick .lab-token").count()
    assert n > 0
    assert page.locator(".lab-dots").count() == 3
    assert page.locator(".lab-figure").count() == 6
    flips, detail = page.locator(".lab-pick .lab-flip"), page.locator(".lab-detail")
    (flips.first if flips.count() else page.locator(".lab-pick .lab-token").first).click()
    page.wait_for_function("/logits|same token/.test(document.querySelector('.lab-detail').textContent)")
    assert detail.locator(".lab-table tr").count() >= 12
    assert flips.count() == 0 or "logits" in detail.text_content()
    assert wait_status(page, "tokens, mean KL") == summary, "what was found stays"
    lab.shot(artefacts / "compare_light.png")
    page.locator(".lab-pick").focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.locator(".lab-card-title", has_text=re.compile(f"^token {n}KL")).wait_for()
    assert not lab.errors, lab.errors


EXPLORE = """from smollm_nb.lab.quant_explorer import QuantExplorer
view = QuantExplorer({model!r}, "int8", 1.0, {output!r}, 300)
view"""


def figure(page, name: str) -> str:
    "One of the explorer's figures"
    return page.locator(".lab-figure", has_text=name).locator("b").text_content()


def test_a_recipe_is_tried_out(browser, server, artefacts):
    "Change it, look into a matrix, predict, spend a budget, measure, write, stop"
    import json

    url, token, d = server
    model = re.search(r"PromptPanel\('(.*?)'", (d / "panel.ipynb").read_text())[1]
    (d / "explore.ipynb").write_text(json.dumps(notebook([EXPLORE.format(model=model, output=str(d / "made"))])))
    lab = Lab(browser, url, token, "explore.ipynb")
    page = lab.page
    lab.run(0)
    wait_status(page, "^choose")
    before = figure(page, "size")
    page.locator(".lab-panel .widget-dropdown", has_text="down").locator("select").select_option("4 bits")
    page.wait_for_function("b => document.querySelector('.lab-figure b').textContent !== b", arg=before)
    # a matrix, by mouse and by keyboard; its groups
    page.locator(".lab-cell").nth(2).click()
    page.locator(".lab-detail svg").nth(1).wait_for()
    assert "layers.2.self_attn.q" in page.locator(".lab-detail").text_content()
    page.locator(".lab-map").focus()
    for key in ("End", "ArrowDown", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    page.wait_for_function("document.querySelector('.lab-detail').textContent.includes('self_attn.k')")
    row = page.locator(".lab-steps").text_content().split()[1]
    page.get_by_role("button", name="the row before" if row != "0" else "the next row").click()
    page.wait_for_function("r => document.querySelector('.lab-steps').textContent.split(' ')[1] !== r", arg=row)
    # what it should cost, a budget, and what it does cost
    press(page, "Spend the budget")
    wait_status(page, "of 1 MB spent", 200)
    assert page.locator(".lab-tabs button").count() == 2
    assert page.locator(".lab-panel select").first.input_value() == "the budget's mix"
    assert float(figure(page, "KL predicted")) > 0
    # all of it by keyboard: tabs are one stop, then the map, then the groups, whose buttons keep the focus
    page.locator(".lab [role=tab][aria-selected=true]").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".lab [role=tab][aria-selected=true]:focus")).to_have_text("predicted cost")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".lab [role=tab][aria-selected=true]:focus")).to_have_text("bits a weight")
    assert page.locator(".lab [role=tab][tabindex='0']").count() == 1
    assert page.evaluate(NAMELESS) == []
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.locator(".lab-detail", has_text="layers.0.").wait_for()
    row = page.locator(".lab-steps").text_content().split()[1]
    name, label = ("the row before", "‹ row") if row != "0" else ("the next row", "row ›")
    page.get_by_role("button", name=name).focus()
    page.keyboard.press("Enter")
    page.wait_for_function("r => document.querySelector('.lab-steps').textContent.split(' ')[1] !== r", arg=row)
    expect(page.locator("button:focus")).to_have_text(label)  # drawn anew, still under the finger
    press(page, "Measure")
    wait_status(page, "tokens of prose", 200)
    assert float(figure(page, "KL measured")) > 0
    assert page.locator(".lab-tabs [aria-selected=true]").text_content() == "error in the file"
    # the value that is said is that of the map that is shown
    page.locator(".lab-cell").nth(6).hover()
    assert "dB" in page.locator(".lab-said").text_content()
    page.locator(".lab-tabs button", has_text="bits a weight").click()
    expect(page.locator(".lab-said")).to_have_text(re.compile("^layer 2, k: [0-9.]+ bits"))
    page.locator(".lab-tabs button", has_text="error in the file").click()
    page.locator("svg .lab-ours").wait_for()
    page.locator(".lab-cell").nth(7).click()
    page.wait_for_function("document.querySelector('.lab-detail').textContent.includes('GPTQ')")
    press(page, "Write this file")
    assert str(d / "made") in wait_status(page, "^wrote", 200)
    assert (d / "made" / "model_q4.bin").is_file()
    press(page, "Write this file")
    wait_status(page, "is there already$", 200)
    lab.shot(artefacts / "explorer_light.png")
    page.set_viewport_size(dict(width=1200, height=1700))
    page.locator(".lab").screenshot(path=str(artefacts / "explorer_whole.png"))
    # another one into the same folder: what is there stays
    kept = (d / "made" / "model_q4.bin").read_bytes()
    page.locator(".lab-panel .widget-dropdown", has_text="down").locator("select").select_option("8 bits")
    press(page, "Write this file")
    assert str(d / "made-2") in wait_status(page, "made holds another model$", 200)
    assert (d / "made" / "model_q4.bin").read_bytes() == kept != (d / "made-2" / "model_q4.bin").read_bytes()
    # yet another one, stopped on the way
    page.locator(".lab-panel .widget-dropdown", has_text="group size").locator("select").select_option("32")
    press(page, "Measure")
    wait_status(page, "^(preparing|write|quantize|take)", 200)
    press(page, "Stop")
    wait_status(page, "^stopped")
    # dark and narrow
    lab.theme("Dark")
    lab.narrow(height=1700)
    assert_fits(page)
    page.locator(".lab").screenshot(path=str(artefacts / "explorer_narrow.png"))
    assert not lab.errors, lab.errors


RUNNER = """from smollm_nb.lab.browser_runner import BrowserRunner
view = BrowserRunner({model!r}, prompt="Hello there", max_tokens=30)
view"""


def slowly(route) -> None:
    "The bundle's loop, as it was written, with 50 ms before each token"
    from smollm_nb.core import PACKAGE

    loop, slow = (
        "while (!out.finish_reason) {",
        "while (!out.finish_reason) { await new Promise((go) => setTimeout(go, 50));",
    )
    source = (PACKAGE / "browser" / "runtime" / "generate.js").read_text(encoding="utf-8")
    assert source.count(loop) == 1
    route.fulfill(status=200, content_type="text/javascript", body=source.replace(loop, slow))


def test_the_page_runs_the_bundle(browser, server, tiny_q4, artefacts):
    "Exported by the kernel, run and measured by the page; stopped; without the kernel; dark and narrow"
    import json

    url, token, d = server
    (d / "runner.ipynb").write_text(json.dumps(notebook([RUNNER.format(model=str(tiny_q4))])))
    lab = Lab(browser, url, token, "runner.ipynb")
    page = lab.page
    lab.theme("Light")
    page.route("**/generate.js", slowly)
    lab.run(0)
    wait_status(page, "^Generate loads the model")
    made = list((d / "dist" / "wasm" / "models").iterdir())
    assert len(made) == 1, "below JupyterLab's root, which nobody named"
    assert (made[0] / "model_manifest.json").is_file(), "below JupyterLab's root, which nobody named"
    assert page.locator(".lab-native").count() == 0, "nothing is measured before somebody asks"
    press_here(page, "Generate")
    wait_status(page, "^30 tokens: the length")
    text = page.locator(".lab-answer").text_content()
    from smollm_nb.api import Model

    with Model(tiny_q4, backend="native").load() as m:
        assert text == "Hello there" + m.generate("Hello there", max_tokens=30).finish().text, (
            "the same as natively, to the letter"
        )
    about = page.locator(".lab-legend").text_content()
    assert "one thread: the page is not cross-origin isolated" in about
    assert page.locator(".lab-browser").count() == 1
    # stop in the middle
    page.get_by_label("answer, tokens").fill("200")
    press_here(page, "Generate")
    wait_status(page, "^answering")  # until then the figures are those of the answer before
    page.wait_for_function("Number(document.querySelectorAll('.lab-figure b')[2].textContent) > 3")
    press_here(page, "Stop")
    n = int(re.search(r"stopped after (\d+)", wait_status(page, "^stopped after"))[1])
    assert 3 < n < 200
    # as the native engine was measured; the kernel hears of it
    press_here(page, "Measure")
    wait_status(page, "^measured: ", 120)
    assert "as fast as the native engine" in page.locator(".lab-legend").text_content()
    assert page.locator(".lab-native").count() >= 1
    assert page.locator(".lab-browser").count() == 2
    page.locator(".lab").screenshot(path=str(artefacts / "runner_light.png"))
    press(page, "Save as a page")
    page.locator(".lab-note", has_text="runner.html").wait_for()
    traits = json.loads((made[0] / "runner.html").read_text().split('id="traits">')[1].split("</script>")[0])
    assert len(traits["measured"]) == 1
    assert len(traits["measured"][0]["rates"]) == 5
    assert traits["max_tokens"] == 200
    # the kernel goes, the page answers
    lab.command("Kernel/Shut Down Kernel")
    page.locator(
        ".jp-Notebook-ExecutionIndicator[data-status=terminated], .jp-Notebook-ExecutionIndicator[data-status=unknown]"
    ).wait_for(state="attached")
    page.locator(".lab-note", has_text="the kernel was shut down: run the cell again to save").wait_for()
    assert page.get_by_role("button", name="Save as a page").is_disabled()
    page.get_by_label("prompt").fill("<b>Once</b>")
    page.get_by_label("answer, tokens").fill("20")
    press_here(page, "Generate")
    wait_status(page, "^20 tokens: the length")
    assert page.locator(".lab-answer").text_content().startswith("<b>Once</b>")
    assert page.locator(".lab-answer b").count() == 0
    # dark and narrow
    lab.theme("Dark")
    lab.narrow(height=1200)
    assert_fits(page)
    page.locator(".lab").screenshot(path=str(artefacts / "runner_narrow.png"))
    assert not lab.errors, lab.errors


HOSTILE = """from smollm_nb.lab.prompt_panel import AnswerView
view = AnswerView()
view.begin()
other = ["<img src=x onerror=document.title='bad'>", 0.25]
hostile = ["<b>bold</b><script>document.title='bad'</script>", 0.5, [other], None, "<b>"]
view.tokens = [hostile] + [[" word", 10**-(i/10), [[" word", 0.5]], 5.0, " word"] for i in range(30)]
view.error, view.status = "<i>An error</i>: try again", "<u>status</u>"
view"""


@pytest.mark.parametrize("look", ["dark", "narrow"])
def test_dark_narrow_and_hostile(browser, server, artefacts, tmp_path, look):
    "The dark theme, and 700 pixels; whatever a model says is text"
    import json

    url, token, d = server
    (d / f"{look}.ipynb").write_text(json.dumps(notebook([PANEL_OF.format(folder=str(d)), HOSTILE])))
    lab = Lab(browser, url, token, f"{look}.ipynb")
    page = lab.page
    lab.theme("Dark" if look == "dark" else "Light")
    if look == "narrow":
        lab.narrow(height=1000)
    lab.run(0)
    page.locator(".lab-panel").wait_for()
    press(page, "Generate")
    wait_status(page, "^40 tokens: the length")
    page.locator(".lab-token").nth(5).hover()
    lab.shot(artefacts / f"panel_{look}.png")
    assert_fits(page)
    lab.run(1)
    page.wait_for_function("document.querySelectorAll('.lab').length === 2")
    last = page.locator(".lab").last
    assert last.locator(".lab-token").first.text_content().startswith("<b>bold</b><script>")
    assert "<i>An error</i>" in last.locator(".lab-error").text_content()
    last.locator(".lab-token").first.hover()
    assert "<img" in last.locator(".lab-card").text_content().replace("·", " ")
    assert page.locator(".lab b b, .lab img, .lab script, .lab i i, .lab u").count() == 0
    assert page.title() != "bad"
    assert not lab.errors, lab.errors


DASHBOARD = """from smollm_nb.lab.bench_dashboard import BenchDashboard
view = BenchDashboard({model!r}, ("native int8", "torch fp32"), 1, rounds=2, history={history!r})
view"""


def tab(page, name: str) -> None:
    "Choose what is shown of a run"
    page.locator(".lab-tabs button", has_text=name).first.click()
    page.wait_for_function(
        "n => document.querySelector('.lab-tabs [aria-selected=true]')?.textContent.startsWith(n)", arg=name
    )


def test_a_benchmark_is_run_stopped_and_compared(browser, server, artefacts):
    "Run, look at every tab, run again and compare, stop in the middle; dark and narrow"
    import json

    url, token, d = server
    model, history = re.search(r"PromptPanel\('(.*?)'", (d / "panel.ipynb").read_text())[1], d / "runs.jsonl"
    (d / "bench.ipynb").write_text(json.dumps(notebook([DASHBOARD.format(model=model, history=str(history))])))
    lab = Lab(browser, url, token, "bench.ipynb")
    page = lab.page
    lab.theme("Light")
    lab.run(0)
    wait_status(page, "^choose")
    assert page.locator(".lab-tabs button").count() == 0
    seen = "document.querySelector('.lab-progress')?.value"
    press(page, "Run")
    wait_status(page, "^measuring", 100)
    page.wait_for_function(f"{seen} > 0")
    first = page.evaluate(seen)
    page.wait_for_function(f"v => {seen} > v", arg=first)
    lab.shot(artefacts / "bench_running.png")
    wait_status(page, "figures in .* added to runs.jsonl", 200)
    names = page.locator(".lab-tabs button").all_text_contents()
    assert {
        "side by side",
        "latencies",
        "against context",
        "against prompt",
        "memory over time",
        "every figure",
    } == set(names)
    for name in names[:-1]:
        tab(page, name)
        page.wait_for_function("document.querySelector('.lab-picture')?.naturalWidth > 500")
        assert "rounds" in page.locator(".lab-picture").get_attribute("alt")
    tab(page, "every figure")
    assert page.locator(".lab-grid-table tbody tr").count() > 10
    assert "2 rounds" in page.locator(".lab-view").text_content()
    page.locator(".lab-tabs [aria-selected=true]").press("ArrowRight")  # around to the first one
    page.wait_for_function(
        "document.querySelector('.lab-tabs [aria-selected=true]').textContent === 'side by side'"
        " && document.activeElement.textContent === 'side by side'"
    )
    page.set_viewport_size(dict(width=1200, height=1500))
    page.locator(".lab-panel").screenshot(path=str(artefacts / "bench_light.png"))
    # once more: the first run is what it is compared with; another choice is drawn at once
    press(page, "Run")
    wait_status(page, "^measuring", 100)
    wait_status(page, "figures in .* added to runs.jsonl", 200)
    tab(page, "compared")
    verdicts = set(page.locator(".lab-grid-table tbody td:nth-child(2)").all_text_contents())
    assert verdicts
    assert verdicts <= {"▲ better", "▼ worse", "within the spread"}
    assert len(history.read_text().splitlines()) == 2
    page.locator(".lab-panel").screenshot(path=str(artefacts / "bench_compared.png"))
    assert_fits(page)
    choice = page.locator(".lab-panel .widget-dropdown", has_text="compared with").locator("select")
    choice.select_option("none")
    page.wait_for_function(
        "![...document.querySelectorAll('.lab-tabs button')].some((b) => b.textContent === 'compared')"
    )
    wait_status(page, "native int8, torch")
    choice.select_option(index=2)
    page.locator(".lab-tabs button", has_text="compared").wait_for()
    # stopped in the middle: what there is stays, and is added as a part
    box = page.locator(".lab-panel input[type=number]").first
    box.fill("1000")
    box.press("Tab")
    press(page, "Run")
    wait_status(page, "^measuring", 100)
    page.wait_for_function(f"{seen} > 0")
    press(page, "Stop")
    wait_status(page, "^stopped: the [0-9]+ figures")
    assert page.locator(".lab-tabs button").count() > 1
    assert len(history.read_text().splitlines()) == 3
    # dark and narrow
    lab.theme("Dark")
    lab.narrow(height=1500)
    page.locator(".lab-panel .widget-dropdown", has_text="run that is shown").locator("select").select_option(index=2)
    wait_status(page, "native int8, torch")
    for name in ("memory over time", "every figure", "side by side"):
        tab(page, name)
        page.wait_for_timeout(300)
        assert_fits(page)
        page.locator(".lab-panel").screenshot(path=str(artefacts / f"bench_narrow_{name.replace(' ', '_')}.png"))
    assert not lab.errors, lab.errors
