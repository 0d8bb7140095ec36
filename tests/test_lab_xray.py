"The view that looks inside a model: in a real JupyterLab, and in a page that was saved"

import re

import pytest
from lab_page import NAMELESS, Lab, assert_fits, lab_folder, press, wait_status, write
from playwright.sync_api import expect

XRAY = """from smollm_nb.lab.xray import XRay
view = XRay({model!r}, "torch fp32", "native int8", {prompt!r})
view"""
# ten seconds before each lens
SLOW = """import time
from smollm_nb.lab.xray import Reader
fast = Reader.read
def slowly(self, streams, check):
    for _ in range(100):
        check()
        time.sleep(0.1)
    return fast(self, streams, check)
Reader.read = slowly"""
PROMPT = "Hello there, hello there again"


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_folder, kernel_built):
    "JupyterLab on a folder with a notebook"
    with lab_folder(tmp_path_factory, tiny_folder) as (url, token, d):
        write(d, "xray", [XRAY.format(model=str(tiny_folder), prompt=PROMPT), SLOW])
        yield url, token, d


def focused(page) -> str:
    "What a screen reader says of the element with the focus"
    return page.evaluate("document.activeElement.getAttribute('aria-label')")


def test_a_person_looks_inside(browser, server, artefacts):
    "Read, hover, go by keyboard, choose a head, switch parts off; dark and narrow; without the kernel"
    url, token, _ = server
    lab = Lab(browser, url, token, "xray.ipynb", height=1500)
    page = lab.page
    lab.run(0)
    press(page, "Look inside")
    wait_status(page, "tokens; next is .* chooses the same at")
    tables, detail, said = page.locator(".lab-lens"), page.locator(".lab-detail").first, page.locator(".lab-said")
    n = tables.first.locator("thead th").count() - 1
    layers = tables.first.locator("tbody tr").count() - 1
    assert tables.count() == 2
    assert tables.first.locator("td").count() == n * (layers + 1)
    assert page.locator(".lab-shares tr").count() == 8
    # the mouse: a cell of one table, the same in the other; five likeliest of both
    tables.first.locator("td").nth(n + 2).hover()
    expect(detail).to_contain_text("after layer 0, at token 3")
    assert detail.locator(".lab-likely tr").count() == 10
    assert tables.last.locator(".lab-here").get_attribute("data-at") == "1 2"
    page.locator(".lab-status").hover()
    expect(detail).to_contain_text(f"after layer {layers - 1}, at token {n}")
    # the keyboard: one stop, arrows, Enter
    assert tables.first.locator("td[tabindex='0']").count() == 1
    tables.first.locator("td[tabindex='0']").focus()
    for key in ("ArrowUp", "ArrowLeft", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    assert focused(page).startswith(f"after layer {layers - 2} at ")
    page.keyboard.press("Enter")
    page.locator(".lab-status").hover()
    expect(tables.first.locator(".lab-picked")).to_have_attribute("data-at", f"{layers - 1} {n - 2}")
    expect(detail).to_contain_text(f"after layer {layers - 2}, at token {n - 1}")
    assert page.evaluate(NAMELESS) == []
    # a head by a click, its attention sums to one; another map
    page.locator(".lab-head-map [data-at='1 1']").click()
    expect(page.locator("figcaption", has_text="where L1H1 looks")).to_be_visible()
    shares = page.locator(".lab-looks").evaluate_all("all => all.map((e) => parseFloat(e.title) || 0)")
    assert abs(sum(shares) - 100) < 3, shares
    page.get_by_role("tab", name="induction").click()
    page.locator(".lab-head-map [data-at='0 1']").hover()
    expect(said).to_have_text(re.compile(r"^L1H0: [0-9.]+ %$"))
    lab.shot(artefacts / "xray_light.png")
    # parts are switched off by a click and by a key, and on again
    page.get_by_role("button", name="switches it off").click()
    page.locator(".lab-head-map [data-at='1 1']").click()
    without = page.locator(".lab-without")
    expect(without).to_contain_text("The first choice changes at")
    last = page.locator(".lab-head-map [role=row]").count() - 1  # the MLPs
    page.locator(f".lab-head-map [data-at='{last} 0']").focus()
    page.keyboard.press("x")
    expect(without.locator(".lab-chip")).to_have_text(["L1H1 ×", "L0MLP ×"])
    expect(without).to_contain_text("without L1H1, L0MLP")
    lab.shot(artefacts / "xray_without.png")
    without.locator(".lab-chip").first.click()
    expect(without).to_contain_text("without L0MLP")
    # a prompt that is too long, in one line; then a stop
    prompt = page.locator(".lab-panel textarea")
    prompt.fill("word " * 200)
    press(page, "Look inside")
    expect(page.locator(".lab-error:visible")).to_contain_text("shows at most 48: shorten it")
    assert tables.first.is_visible(), "what was found stays"
    prompt.fill("<img src=x> and")
    press(page, "Look inside")
    page.wait_for_function("document.querySelector('.lab-lens thead').textContent.includes('img')")
    assert page.locator(".lab img").count() == 0
    lab.theme("Dark")
    for width in (700, 480):
        lab.narrow(width, height=2200)
        assert_fits(page)
        page.locator(".lab-panel").screenshot(path=str(artefacts / f"xray_dark_{width}.png"))
    page.set_viewport_size(dict(width=1200, height=1500))
    lab.run(1)
    press(page, "Look inside")
    wait_status(page, "^reading")
    press(page, "Stop")
    wait_status(page, "^stopped")
    # without its kernel the view still answers the mouse; switching off needs one
    lab.restart()
    wait_status(page, "the kernel was restarted: run the cell again")
    tables.first.locator("td").nth(2).hover()
    expect(detail).to_contain_text("after the embedding, at token 3")
    page.locator(".lab-head-map [data-at='0 0']").click()
    expect(page.locator("figcaption", has_text="where L0H0 looks")).to_be_visible()
    assert page.locator(".lab-toggle:visible").count() == 0
    lab.wait_idle()  # a server that ends while a kernel restarts hangs
    assert not lab.errors, lab.errors


@pytest.fixture(scope="module")
def saved(tiny_folder, tmp_path_factory):
    "The saved form of a view, in a page of its own"
    from smollm_nb.lab.xray import XRay

    view = XRay(tiny_folder, prompt=PROMPT)
    view.run()
    without = view.ablate(["L1H0"])
    path = tmp_path_factory.mktemp("saved") / "view.html"
    path.write_text(f'<!doctype html><meta charset="utf-8"><title>saved</title>{view.to_html()}', encoding="utf-8")
    view.close()
    return path, view.look, without


def test_a_saved_view_is_alive(browser, saved, artefacts):
    "Hover, keys and choice work in a file without a kernel"
    path, look, without = saved
    page, errors = browser.new_context(viewport=dict(width=700, height=1500)).new_page(), []
    page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(path.as_uri())
    page.locator(".lab-lens td").first.wait_for()
    assert not page.locator(".lab-still").is_visible()
    n, detail = len(look.ids), page.locator(".lab-detail").first
    page.locator(".lab-lens td").nth(n + 1).hover()
    expect(detail).to_contain_text("after layer 0, at token 2")
    word = look.spell([int(look.sides[0].top[1, 1, 0])])[0].strip()
    assert word in detail.locator(".lab-likely tr").first.text_content()
    expect(page.locator(".lab-without")).to_contain_text(f"{without['loss'][1]:.2f} nats")
    page.locator(".lab-lens td[tabindex='0']").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator(".lab-lens .lab-picked")).to_have_attribute("data-at", re.compile(" 0$"))
    page.locator(".lab-shares button").first.click()
    page.locator(".lab-head-map [data-at='1 0']").click()
    expect(page.locator("figcaption", has_text="where L0H1 looks")).to_be_visible()
    page.locator(".lab-apart select").select_option("2")
    expect(page.locator(".lab-shares tr")).to_have_count(8)
    assert page.evaluate("document.documentElement.scrollWidth <= 700"), "nothing sticks out"
    page.screenshot(path=str(artefacts / "xray_saved.png"), full_page=True)
    assert not errors, errors


def test_a_saved_view_without_scripts_is_a_picture(browser, saved):
    "Where scripts are not allowed"
    path, look, _ = saved
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(path.as_uri())
    assert page.locator(".lab-still img").is_visible()
    assert page.locator(".lab-still tbody tr").count() == len(look.sides[0].top)
