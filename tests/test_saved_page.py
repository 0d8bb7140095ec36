"A page that BrowserRunner saved answers without a kernel: from any server, from ours, from files chosen by hand"

import contextlib
import re
import subprocess
import sys

import pytest
from lab_page import free_port, press_here


@pytest.fixture(scope="module")
def saved(tiny_q4, tmp_path_factory):
    "A page that the view saved, and what natively answers `Hello there`; no kernel is left"
    from smollm_nb.api import Model
    from smollm_nb.lab.browser_runner import BrowserRunner

    d = tmp_path_factory.mktemp("saved")
    view = BrowserRunner(tiny_q4, output=d / "bundle", root=d, prompt="Hello there", max_tokens=12)
    view.run()
    page = view.save_html()
    view.close()
    with Model(tiny_q4, backend="native").load() as m:
        return page, "Hello there" + m.generate("Hello there", max_tokens=12).finish().text


def visit(browser, url: str, **how):
    "A page and what goes wrong in it"
    page, errors = browser.new_context(**how).new_page(), []
    page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(url)
    return page, errors


def asked(page) -> str:
    "What a saved page answers; under a strict policy nothing may be evaluated in it"
    page.locator(".lab-status", has_text=re.compile("^Generate loads the model")).wait_for()
    press_here(page, "Generate")
    page.locator(".lab-status", has_text=re.compile("^12 tokens: the length")).wait_for()
    return page.locator(".lab-answer").text_content()


@pytest.mark.parametrize("strict", [False, True])
def test_a_saved_page_answers_without_a_kernel(browser, saved, strict):
    "From any static server, which sends no headers: one thread; from this package's, under its policy: more"
    from smollm_nb.browser.serve import BundleServer

    path, text = saved
    with contextlib.ExitStack() as stack:
        if strict:
            url = stack.enter_context(BundleServer(path.parent, port=0)).url
        else:
            p = stack.enter_context(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-u",
                        "-m",
                        "http.server",
                        str(port := free_port()),
                        "--bind",
                        "127.0.0.1",
                        "--directory",
                        str(path.parent),
                    ],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(p.terminate)
            p.stdout.readline()  # it listens
            url = f"http://127.0.0.1:{port}/"
        page, errors = visit(browser, url + "runner.html")
        assert asked(page) == text
        about = page.locator(".lab-legend").text_content()
        assert (
            "the page is cross-origin isolated" if strict else "one thread: the page is not cross-origin isolated"
        ) in about
        press_here(page, "Measure")
        page.locator(".lab-status", has_text=re.compile("^measured: ")).wait_for()
        assert page.locator(".lab-native").count() >= 1
        assert page.locator(".lab-browser").count() == 2
        assert not errors, errors


def test_a_saved_page_opened_as_a_file(browser, saved, artefacts):
    "It says what is wrong, and runs from the folder that is chosen"
    path, text = saved
    page, errors = visit(browser, path.as_uri(), color_scheme="dark", viewport=dict(width=700, height=900))
    note = page.locator(".lab-picker")
    assert "opened as a file" in note.text_content()
    assert page.get_by_role("button", name="Generate", exact=True).is_disabled()
    page.screenshot(path=str(artefacts / "saved_file.png"))
    chooser = page.get_by_label("the bundle's folder")
    chooser.set_input_files(str(path.parent / "kernels"))
    page.locator(".lab-error", has_text="no model_manifest.json").wait_for()
    chooser.set_input_files(str(path.parent))
    assert asked(page) == text
    assert not note.is_visible()
    assert page.locator(".lab-error:visible").count() == 0
    assert "a page that was opened as a file" in page.locator(".lab-legend").text_content()
    assert page.evaluate("document.documentElement.scrollWidth <= 700"), "nothing sticks out"
    page.screenshot(path=str(artefacts / "saved_dark.png"))
    assert not errors, errors
