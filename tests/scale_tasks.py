"Tasks that processes of a pool compute in test_scale.py: they find functions of modules only"

import os
import signal
import time
from pathlib import Path

from smollm_nb.scale.workers import report


def square(task: dict) -> int:
    report(task["run"], task["key"], "square", 1, 1)
    return task["x"] ** 2


def die_once(task: dict) -> int:
    "The square; one task kills its process, the first time"
    mark = Path(task["mark"])
    if task["x"] == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return task["x"] ** 2


def die_always(task: dict) -> int:
    if task["x"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return task["x"] ** 2


def wait_long(task: dict) -> int:
    "Ends only when nobody waits for it any more"
    for i in range(6000):
        report(task["run"], task["key"], "wait", i, 6000)
        time.sleep(0.05)
    return 0


def sleep_long(task: dict) -> int:
    "Never reports: as a long computation in C"
    report(task["run"], task["key"], "sleep", 0, 1)
    time.sleep(300)
    return 0
