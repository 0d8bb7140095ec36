"""How `pytest -n 2` shares the tests out over its workers

What shares a preparation (a file's fixtures, a browser's start) stays together on one worker; the longest begins first.
"""

import re

# Groups that take half a minute or more, the longest first: what begins last leaves the other worker idle
LONGEST = """
test_notebooks:06_quant/07_budget test_browsers:webkit test_browsers:firefox test_notebooks:14_lab/08_bench_dashboard
test_lab test_lab_life test_notebooks:06_quant/06_recipes test_kernel_builds test_page test_scale test_harness
test_sweep_view test_browsers:chromium test_export_gguf
test_notebooks:14_lab/06_quant_explorer test_kernel_c test_engine test_notebooks:04_fidelity/01_evaluate test_wheel
test_bench test_storage test_process test_generate test_notebooks:index test_notebooks:11_bench/10_web_peers
""".split()
PLACES = {name: i for i, name in enumerate(LONGEST)}


def group_of(nodeid: str) -> str:
    "Whose tests one worker runs in one go: a file's, but of the two longest files one browser's and one notebook's"
    if m := re.search(r"test_browsers\.py::\w+\[(\w+)", nodeid):
        return f"test_browsers:{m[1]}"
    if m := re.search(r"test_notebooks\.py::\w+\[([\w/]+)", nodeid):
        return f"test_notebooks:{m[1]}"
    return nodeid.split(".py::")[0].rpartition("/")[2]


def place_of(nodeid: str) -> int:
    "By which a test is sorted"
    return PLACES.get(group_of(nodeid), len(PLACES))
