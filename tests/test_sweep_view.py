"The view of a sweep: without a browser, with real processes, and in a real JupyterLab"

import json
import subprocess
import sys
import time

import psutil
import pytest
from lab_page import NAMELESS, Lab, assert_fits, lab_folder, press, wait_status, write
from playwright.sync_api import expect

from smollm_nb.core import InvalidStateError
from smollm_nb.lab.sweep_view import SweepView
from smollm_nb.scale.sweep import read_sweep, sweep

RECIPES = [("float32", 540, 0.0), ("int8", 136, 0.005), ("fast", 69.2, 0.168), ("fast group=64", 72, 0.13)]
RECIPES += [("minmax-g128", 113, 0.39), ("minmax-g128-all", 72.5, 0.55), ("distill", 69.2, 0.12)]


def made_up(seeds: int = 2) -> list[dict]:
    "Invented rows, one of them failed"
    out = []
    for seed in range(seeds):
        for name, mb, kl in RECIPES:
            kl *= 1 + 0.2 * seed * (name != "float32")
            row = dict(cell=len(out), key=str(len(out)), model="SmolLM2-135M-Instruct", recipe=name, text="builtin")
            row |= dict(seed=seed, requested_tokens=4096, window=256, threads=1, backend="auto", bytes=int(mb * 1e6))
            row |= dict(bits_per_weight=4.1, kl_mean=kl, kl_se=0.05 * kl, top1=1 - kl, ppl_ratio=1 + kl)
            out.append(row | dict(measured=dict(quantize_s=10.0 * mb, total_s=20.0 * mb, machine="node1", process=7)))
    failed = dict(cell=len(out), key="x", model="SmolLM2-135M-Instruct", recipe="gptq", text="builtin", seed=0)
    return [*out, failed | dict(error="the process that computed it ended, as it does where memory runs out")]


def small(folder, tokens=64, **more) -> dict:
    "A grid of the tiny model"
    given = dict(models=[str(folder)], recipes=["int8", "minmax-g128-all"], seeds=[0, 1])
    return given | dict(settings=[dict(tokens=tokens, window=32)]) | more


def until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def test_stop_leaves_no_process(tiny_folder, tmp_path, monkeypatch):
    "Workers report, the button stops them within a moment, and what was done is kept"
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    view = SweepView(small(tiny_folder, 64, seeds=[*range(40)]), tmp_path / "out.jsonl", 1, every=0.1)
    before = set(psutil.Process().children(recursive=True))
    view.start()
    until(lambda: view.box.doing and view.rows)
    (label, stage, share), *_ = view.box.doing
    assert "seed" in label and stage and 0 <= share <= 1
    started = set(psutil.Process().children(recursive=True)) - before
    pools = [p for p in started if "spawn_main" in " ".join(p.cmdline())]
    assert pools
    assert view.box.busy and 0 <= view.box.progress <= 1
    start = time.monotonic()
    view.stop()
    assert view.wait(10)
    assert time.monotonic() - start < 5
    assert not psutil.wait_procs(pools, 5)[1]
    assert [view.failure, view.box.error, view.box.busy, view.box.doing] == [None, "", False, []]
    assert view.box.status.endswith("are kept, and Start goes on from there")
    assert view.rows == read_sweep(tmp_path / "out.jsonl").rows
    view.close()
    assert not view._follower.running


def test_closing_stops_too(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    view = SweepView(small(tiny_folder, seeds=[*range(40)]), tmp_path / "out.jsonl", 0)
    view.start()
    until(lambda: view.box.doing)
    view.close()
    assert not view.job.running
    assert not view._follower.running


def test_another_process_is_followed(tiny_folder, tmp_path, monkeypatch):
    "A sweep that runs elsewhere: its rows appear as they are done, and with a grid the view knows the end"
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    grid, out = small(tiny_folder), tmp_path / "out.jsonl"
    views = SweepView(grid, out, every=0.05), SweepView(out, every=0.05)
    seen = []
    views[1].box.observe(lambda change: seen.append(len(change.new)), "lines")
    code = f"from smollm_nb.scale.sweep import sweep\nsweep({grid!r}, {str(out)!r}, 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    for view in views:
        until(lambda view=view: len(view.box.lines) == 4)
    assert seen == sorted(seen) and len(seen) > 1
    until(lambda: not views[0]._follower.running)
    assert views[0].box.status == "4 of 4 cells in out.jsonl; all are there"
    assert views[1]._follower.running
    for view in views:
        view.close()


def test_a_model_is_made_again(tiny_folder, tmp_path, monkeypatch, kernel_built):
    "By another process, where this machine has not got it; another file than the row's is refused"
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "first"))
    rows = sweep(small(tiny_folder, recipes=["int8"], seeds=[0]), tmp_path / "out.jsonl", 0).rows
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "second"))
    view = SweepView(tmp_path / "out.jsonl")
    model = view.model_at(0)
    assert str(model.path).startswith(str(tmp_path / "second"))
    assert model.generate_text("Hello", max_tokens=2)
    assert view.model is model
    wrong = rows[0] | dict(file_sha256="0" * 64, quantized="0" * 24)
    (tmp_path / "out.jsonl").write_text(json.dumps(wrong) + "\n")
    view.read()
    with pytest.raises(InvalidStateError, match="gives another file now"):
        view.model_at(0)
    assert "\n" not in view.box.error
    view.close()


def test_a_file_without_news_changes_no_status(tiny_folder, tmp_path, monkeypatch, kernel_built):
    "What a person was told last stays until there is something new: a change of the file may be seen late"
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    grid, out = small(tiny_folder, recipes=["int8"]), tmp_path / "out.jsonl"
    view = SweepView(grid, out, 0, every=1000)
    view.run()
    view.model_at(0)
    said = view.box.status
    assert said.startswith("view.model is int8")
    assert view.read()
    assert view.box.status == said
    view.pick(-1)
    view.load()
    view.wait()
    assert "o cell is chosen" in view.box.error
    view.read()
    assert "o cell is chosen" in view.box.error
    whole = out.read_text()
    out.write_text("no rows\n")
    assert not view.read()
    assert "out.jsonl" in view.box.error
    out.write_text(whole)
    view.read()
    assert [view.box.error, view.box.status] == ["", "2 of 2 cells in out.jsonl; all are there"]
    view.close()


def test_errors_are_a_line(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    for more, workers, why in (
        (dict(models=[str(tmp_path / "none")]), 0, "none"),
        (dict(recipes=["fastest"]), 0, "fastest"),
        ({}, "nowhere", "o dask scheduler answers at nowhere"),
    ):
        view = SweepView(small(tiny_folder, **more), tmp_path / "out.jsonl", workers)
        view.start()
        assert view.wait(60)
        assert why in view.box.error, view.box.error
        assert "\n" not in view.box.error
        view.close()


def test_thousands_of_rows(tmp_path):
    "The page gets what it can show, and quickly"
    many = [dict(r, cell=i, seed=i) for i, r in enumerate(made_up()[:-1] * 150)]
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in many))
    start = time.monotonic()
    view = SweepView(path)
    assert time.monotonic() - start < 5
    assert len(view.box.lines) == 300
    assert view.box.rest == "1,800 more rows match: narrow the filter, or sort"
    view.controls["words"].value = "distill"
    assert [len(view.table()), view.box.rest] == [300, ""]
    view.controls["words"].value = "no such thing"
    assert view.box.rest == "none of 2,100 rows matches"
    view.close()


SHOW = """from smollm_nb.lab.sweep_view import SweepView
view = SweepView("rows.jsonl")
view"""
COMPUTE = """from smollm_nb import SweepView
view = SweepView({grid!r}, "out.jsonl", 1)
view"""
MODEL = "print(view.picked['cell'], view.model.generate_text('Hello', max_tokens=1) != '')"


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_folder, kernel_built):
    "JupyterLab on a folder with the results of a sweep"
    with lab_folder(tmp_path_factory, tiny_folder) as (url, token, d):
        (d / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in made_up()))
        write(d, "show", [SHOW])
        write(d, "compute", [COMPUTE.format(grid=small(tiny_folder, seeds=[*range(30)])), MODEL])
        yield url, token, d


def point_at(page, cell) -> None:
    "Click on a point, where the mark of another one may lie over it"
    box = page.locator(f'.lab-spot[data-cell="{cell}"] .lab-reach').bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_a_person_looks(browser, server, artefacts):
    "Filter, sort, choose by mouse and by keys; dark and narrow; rows that come meanwhile"
    url, token, d = server
    lab = Lab(browser, url, token, "show.ipynb", height=1300)
    page = lab.page
    panel = page.locator(".lab-panel")
    lab.run(0)
    wait_status(page, "^15 cells, 1 failed; following rows.jsonl")
    rows = page.locator(".lab-grid-table tbody tr[data-cell]")
    expect(rows).to_have_count(15)
    expect(page.locator(".lab-spot")).to_have_count(14)
    lab.shot(artefacts / "sweep_light.png")
    assert page.evaluate(NAMELESS) == []
    point_at(page, 1)
    expect(page.locator(".lab-detail")).to_contain_text("cell 1: int8")
    expect(page.locator('.lab-spot[aria-selected="true"]')).to_have_attribute("data-cell", "1")
    expect(page.locator(".lab-picked-row")).to_have_attribute("data-cell", "1")
    rows.nth(4).locator("td").last.click()
    expect(page.locator(".lab-detail")).to_contain_text("cell 4: minmax-g128")
    lab.shot(artefacts / "sweep_chosen.png")
    sort = page.locator(".lab-sort", has_text="MB")
    sort.click()
    expect(page.locator('th[aria-sort="ascending"]')).to_contain_text("MB")
    expect(rows.first).to_contain_text("69.2")
    sort.press("Enter")
    expect(page.locator('th[aria-sort="descending"]')).to_contain_text("MB")
    expect(rows.first).to_contain_text("float32")
    page.locator(".lab-plane").focus()
    page.keyboard.press("End")
    expect(page.locator(".lab-said").first).to_contain_text("float32")
    page.keyboard.press("Enter")
    expect(page.locator(".lab-detail")).to_contain_text("float32")
    page.locator(".lab-link").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".lab-picked-row")).to_have_attribute("data-cell", rows.nth(1).get_attribute("data-cell"))
    panel.get_by_label("filter").fill("fast seed=3")
    expect(rows).to_have_count(0)
    expect(page.locator(".lab-legend", has_text="none of 15 rows")).to_be_visible()
    panel.get_by_label("filter").fill("fast")
    expect(rows).to_have_count(4)
    panel.get_by_label("filter").fill("")
    panel.get_by_label("cost").select_option("seconds")
    expect(page.locator(".lab figcaption")).to_contain_text("time to quantize")
    panel.get_by_label("cost").select_option("bytes")
    lab.theme("Dark")
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)
    panel.screenshot(path=str(artefacts / "sweep_dark.png"))
    for width in (700, 480):
        lab.narrow(width, height=2200)
        assert_fits(page)
        panel.screenshot(path=str(artefacts / f"sweep_dark_{width}.png"))
    lab.theme("Light")
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)
    panel.screenshot(path=str(artefacts / "sweep_light_480.png"))
    (d / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in made_up(3)))
    expect(rows).to_have_count(22)
    assert not lab.errors, lab.errors


def test_a_person_computes(browser, server, artefacts):
    "Start, workers and points as they come, Stop, the model of a point, the kernel restarts"
    url, token, d = server
    lab = Lab(browser, url, token, "compute.ipynb", height=1300)
    page = lab.page
    lab.run(0)
    wait_status(page, "^0 of 60 cells in out.jsonl; Start")
    press(page, "Start")
    expect(page.locator(".lab-workers li").first).to_contain_text("seed")
    page.locator(".lab-spot").nth(1).wait_for(state="attached")
    lab.shot(artefacts / "sweep_running.png")
    press(page, "Stop")
    status = wait_status(page, "^stopped; .* are kept")
    expect(page.locator(".lab-workers li")).to_have_count(0)
    assert 0 < int(status.split()[1]) < 60
    assert page.get_by_role("button", name="Load model").is_disabled()
    point_at(page, page.locator(".lab-spot").first.get_attribute("data-cell"))
    expect(page.get_by_role("button", name="Load model")).to_be_enabled()
    press(page, "Load model")
    wait_status(page, "^view.model is ")
    lab.run(1)
    output = page.locator(".jp-Notebook .jp-Cell").nth(1).locator(".jp-OutputArea-output")
    expect(output).to_contain_text("True")
    press(page, "Start")
    expect(page.locator(".lab-workers li").first).to_contain_text("seed")
    lab.restart()
    wait_status(page, "the kernel was restarted: run the cell again")
    lab.wait_idle()  # a server that ends while a kernel restarts hangs
    assert not lab.errors, lab.errors
