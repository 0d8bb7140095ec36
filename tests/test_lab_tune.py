"The view that tunes a model: without a browser, and in a real JupyterLab"

import json
import time

import pytest
from lab_page import NAMELESS, Lab, assert_fits, lab_folder, press, wait_status, write
from playwright.sync_api import expect

from smollm_nb.browser.bundle import is_current
from smollm_nb.lab.tune_panel import TunePanel

NAMES = "Ann Ben Cleo Dan Eve".split()
GOODS = "apples pears plums figs".split()


def orders(folder):
    "A file of examples: loose sentences that become lines of a fixed form; one line is no JSON"
    path = folder / "orders.jsonl"
    records = [
        dict(prompt=f"{name} would like {n} {what}, please.", completion=f"{name}: {n} {what}")
        for name in NAMES
        for n, what in enumerate(GOODS, 2)
    ]
    path.write_text("\n".join([*map(json.dumps, records), "{not JSON"]) + "\n")
    return path


def test_the_browser_folder(tmp_path, tiny_folder, kernel_built):
    "From a file to a folder for the browser, without one: the quantized model answers the held-out prompts too"
    panel = TunePanel(
        tiny_folder, orders(tmp_path), tmp_path / "tuned", 8, 1, recipe="int8", bundle=tmp_path / "bundle"
    )
    report = panel.run()
    panel.run("bundle")
    assert panel.box.status.startswith(f"wrote {tmp_path / 'bundle'}")
    assert report.four_bits.kl.kl_mean < 0.1
    assert is_current(tmp_path / "bundle", report.four_bits.path)
    assert [a["four_bits"] for a in panel.box.answers] == [a.four_bits for a in report.answers]
    assert "in four bits" in dict(panel.table())
    panel.close()


def test_closing_stops_the_training(tmp_path, tiny_folder):
    "Within a step; what was reached is kept for the next one"
    panel = TunePanel(tiny_folder, orders(tmp_path), tmp_path / "tuned", None, 1000)
    panel.train()
    while not panel.losses and panel.box.busy:
        time.sleep(0.01)
    panel.close()
    assert not panel.job.running
    assert panel.failure is None
    assert not (tmp_path / "tuned").exists()
    again = TunePanel(tiny_folder, orders(tmp_path), tmp_path / "tuned", None, 1000)
    again.train()
    while not again.losses and again.box.busy:
        time.sleep(0.01)
    again.close()
    assert again.losses[0][0] > panel.losses[-1][0], "it begins behind the last step"


TUNE = """from smollm_nb.lab.tune_panel import TunePanel
view = TunePanel({model!r}, {data!r}, {output!r}, 8, 2, 5e-3)
view"""
# half a second before each step
SLOW = """import time
from smollm_nb.tune.training import Training
fast = Training.step
def slowly(self):
    for _ in range(10):
        self.between()
        time.sleep(0.05)
    return fast(self)
Training.step = slowly"""


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_folder, kernel_built):
    "JupyterLab on a folder with a notebook and a file of examples"
    with lab_folder(tmp_path_factory, tiny_folder) as (url, token, d):
        data = orders(d)
        write(d, "tune", [TUNE.format(model=str(tiny_folder), data=str(data), output=str(d / "tuned")), SLOW])
        yield url, token, d


def test_a_person_tunes(browser, server, artefacts):
    "Look, train, ask, export; dark and narrow; stop in a step; without the kernel"
    url, token, d = server
    lab = Lab(browser, url, token, "tune.ipynb", height=1300)
    page = lab.page
    lab.run(0)
    press(page, "Look at the data")
    wait_status(page, "^18 training examples, 2 held out; .* of memory")
    assert page.locator(".lab-remarks li").count() == 1
    expect(page.locator(".lab-words").first).to_contain_text("would like")
    trained = page.locator(".lab-words").first.locator(".lab-trained")
    assert ":" in "".join(trained.all_text_contents())
    assert trained.count() < page.locator(".lab-words").first.locator(".lab-word").count()
    lab.shot(artefacts / "tune_data.png")
    press(page, "Train")
    wait_status(page, "^LoRA, rank 8; held-out loss")
    expect(page.locator(".lab-asked")).to_have_count(2)
    page.get_by_role("tab", name="The loss").click()
    assert page.locator(".lab svg .lab-line").count() == 2
    expect(page.locator(".lab figcaption")).to_contain_text("nats a token")
    lab.shot(artefacts / "tune_loss.png")
    prompt = page.locator(".lab-panel textarea")
    prompt.fill("<b>Ann</b> would like 9 figs, please.")
    press(page, "Ask before and after")
    wait_status(page, "^both answers")
    expect(page.locator(".lab-question").first).to_have_text("<b>Ann</b> would like 9 figs, please.")
    lab.shot(artefacts / "tune_answers.png")
    page.get_by_role("tab", name="What came of it").click()
    lab.shot(artefacts / "tune_result.png")
    assert page.evaluate(NAMELESS) == []
    lab.theme("Dark")
    for width, tab in ((700, "The data"), (480, "The loss"), (480, "Before and after")):
        lab.narrow(width, height=2200)
        page.get_by_role("tab", name=tab).click()
        assert_fits(page)
        page.locator(".lab-panel").screenshot(path=str(artefacts / f"tune_dark_{width}_{tab.replace(' ', '_')}.png"))
    page.set_viewport_size(dict(width=1200, height=1300))
    lab.run(1)
    press(page, "Train")
    wait_status(page, "^training, step 2 of")
    lab.shot(artefacts / "tune_training.png")
    press(page, "Stop")
    wait_status(page, "^stopped after step .* Train goes on from there")
    lab.restart()
    wait_status(page, "the kernel was restarted: run the cell again")
    page.get_by_role("tab", name="The data").click()
    expect(page.locator(".lab-words").first).to_be_visible()
    lab.wait_idle()  # a server that ends while a kernel restarts hangs
    assert not lab.errors, lab.errors
