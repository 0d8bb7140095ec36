"Sweeps and long files on real processes and a real dask cluster: some are killed, and nothing is lost or done twice"

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import scale_tasks

from smollm_nb.api import Model
from smollm_nb.core import Cancelled, CheckpointError, ParameterError
from smollm_nb.models.tiny import write_tiny
from smollm_nb.scale import workers as w
from smollm_nb.scale.cell import compute, task_of
from smollm_nb.scale.grid import as_grid
from smollm_nb.scale.pieces import answer_in_pieces
from smollm_nb.scale.sweep import accuracy_of, read_sweep, sweep
from smollm_nb.scale.workers import Dask, Processes, WorkerDiedError, as_workers, completed

TESTS = Path(__file__).parent
SMOLLM = Path(sys.executable).with_name("smollm")
SQUARES = [x * x for x in range(8)]


def gone(processes: list[psutil.Process], seconds: float = 10) -> bool:
    "Whether all have ended by then"
    return not psutil.wait_procs(processes, seconds)[1]


def tasks_of(workers, **more) -> list[dict]:
    return [dict(run=workers.run, key=str(x), x=x, **more) for x in range(8)]


def results(workers, function, **more) -> list:
    "In the order of the tasks"
    found = completed(workers, function, tasks_of(workers, **more))
    return [result for _, result in sorted(found, key=lambda pair: pair[0]["x"])]


class Cluster:
    "A scheduler and workers, each started by dask's own command as a process of its own"

    def __init__(self, folder: Path, count: int = 2, resources: str = ""):
        self.file = folder / "scheduler.json"
        self.env = dict(os.environ, PYTHONPATH=f"{TESTS.parent}{os.pathsep}{TESTS}", OMP_NUM_THREADS="1")
        self.resources = ["--resources", resources] if resources else []
        self.processes = [self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")]
        self.workers = [self.worker() for _ in range(count)]
        for _ in range(300):
            if self.file.exists():
                break
            time.sleep(0.1)
        self.address = json.loads(self.file.read_text())["address"]

    def start(self, *command: str) -> subprocess.Popen:
        args = [sys.executable, "-m", "dask", *command, "--scheduler-file", str(self.file)]
        return subprocess.Popen(args, env=self.env, cwd=self.file.parent, stderr=subprocess.DEVNULL)

    def worker(self) -> subprocess.Popen:
        "One thread; no nanny, so that a worker that is killed stays away"
        process = self.start("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", *self.resources)
        self.processes.append(process)
        return process

    def wait_for(self, count: int) -> None:
        distributed = w.open_distributed()
        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    found.wait_for(2)
    yield found
    found.close()


# a process dies


def test_a_process_that_dies_is_replaced(tmp_path):
    with as_workers(2) as two:
        assert results(two, scale_tasks.die_once, mark=str(tmp_path / "mark")) == SQUARES


def test_a_task_that_kills_its_process_is_given_up_and_the_others_are_done():
    with as_workers(2) as two:
        found = results(two, scale_tasks.die_always)
    assert isinstance(found[3], WorkerDiedError)
    assert found[:3] + found[4:] == SQUARES[:3] + SQUARES[4:]


def test_a_pool_of_the_users_own_stays_open():
    with ThreadPoolExecutor(2) as pool:
        with as_workers(pool) as threads:
            assert results(threads, scale_tasks.square) == SQUARES
            assert len(threads.reports) == 8
        assert pool.submit(int, "3").result() == 3


def test_the_death_of_a_pool_of_the_users_own_is_an_error():
    "Nobody else may start another one"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool, as_workers(pool) as own:
        with pytest.raises(WorkerDiedError, match="start it again"):
            results(own, scale_tasks.die_always)


# cancelled: nothing goes on running


@pytest.mark.parametrize("function", [scale_tasks.wait_long, scale_tasks.sleep_long])
def test_cancel_ends_processes(function):
    me, started = psutil.Process(), []
    before = set(me.children(recursive=True))
    with as_workers(2) as two:

        def look():
            if two.reports:
                started.extend(set(me.children(recursive=True)) - before)
                raise Cancelled("enough")

        with pytest.raises(Cancelled, match="enough"):
            list(completed(two, function, tasks_of(two), look))
    assert len(started) >= 2  # the pool's, and what the system starts with it
    assert gone([p for p in started if "resource_tracker" not in " ".join(command_of(p))])


def command_of(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def test_cancel_reaches_threads():
    with ThreadPoolExecutor(2) as pool, as_workers(pool) as threads:

        def look():
            if len(threads.reports) >= 2:
                raise Cancelled("enough")

        with pytest.raises(Cancelled, match="enough"):
            list(completed(threads, scale_tasks.wait_long, tasks_of(threads), look))
    # leaving the pool's block has waited for its threads: they have ended


def test_a_client_of_the_users_own_is_taken(tmp_path):
    "Workers that are threads of this process, and a client that stays open"
    distributed = w.open_distributed()
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        with as_workers(client) as dask:
            assert results(dask, scale_tasks.square) == SQUARES
            assert {key for key, *_ in wait_for_reports(dask, 8)} == set("01234567")
        assert client.status == "running"
        with as_workers(client) as dask:

            def look():
                if dask.reports:
                    raise Cancelled("enough")

            with pytest.raises(Cancelled):
                list(completed(dask, scale_tasks.wait_long, tasks_of(dask), look))
            assert idle(client)


def wait_for_reports(workers, count: int) -> list:
    "What tasks of a cluster have reported: it comes a moment later than their results"
    for _ in range(100):
        if len(workers.reports) >= count:
            break
        time.sleep(0.1)
    return list(workers.reports)


def test_cancel_reaches_a_cluster(cluster):
    with as_workers(cluster.address) as dask:

        def look():
            if dask.reports:
                raise Cancelled("enough")

        with pytest.raises(Cancelled, match="enough"):
            list(completed(dask, scale_tasks.wait_long, tasks_of(dask), look))
        assert idle(dask.client)


def idle(client, seconds: float = 20) -> bool:
    "Whether no worker computes anything by then"
    for _ in range(int(seconds / 0.1)):
        if not any(client.processing().values()) and not any(client.call_stack() or {}):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_client_leaves_nothing_running(tmp_path):
    "Neither its own processes nor tasks on a cluster"
    code = f"""
import sys; sys.path.insert(0, {str(TESTS)!r})
if __name__ == "__main__":
    import scale_tasks
    from smollm_nb.scale.workers import as_workers, completed
    with as_workers(2) as two:
        tasks = [dict(run=two.run, key=str(x), x=x) for x in range(8)]
        list(completed(two, scale_tasks.sleep_long, tasks, lambda: two.reports and print("under way", flush=True)))
"""
    script = tmp_path / "client.py"
    script.write_text(code)
    client = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline() == "under way\n"
    children = psutil.Process(client.pid).children(recursive=True)
    assert len(children) >= 2
    client.kill()
    client.wait()
    client.stdout.close()
    assert gone(children)


# the same table wherever it is computed


def grid_of(folder: Path, **more) -> dict:
    "Twelve cells"
    return (
        dict(
            models=[str(folder)],
            recipes=["float32", "int8", "fast", dict(base="fast", tokens=256), "minmax-g128-all", dict(budget="1MB")],
            seeds=[0, 1],
            settings=[dict(tokens=96, window=48)],
        )
        | more
    )


def without_measured(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in r.items() if k != "measured"} for r in rows]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("scale") / "tiny")


@pytest.fixture(scope="module")
def serial(tiny, tmp_path_factory) -> list[dict]:
    "The rows, computed one after the other in this process, from an empty cache"
    folder = tmp_path_factory.mktemp("serial")
    with pytest.MonkeyPatch.context() as m:
        m.setenv("SMOLLM_CACHE", str(folder / "cache"))
        found = sweep(grid_of(tiny), folder / "out.jsonl", 0)
    assert (found.computed, len(found.rows), found.errors) == (11, 12, []), "an original has no seed"
    return found.rows


def test_rows_say_what_was_asked_and_found(serial):
    assert [r["cell"] for r in serial] == [*range(12)]
    assert [r["seed"] for r in serial] == [0, 1] * 6
    original, int8, fast = serial[0], serial[2], serial[4]
    assert original["kl_mean"] == 0 and original["bits_per_weight"] is None
    assert original["kl_mean"] < int8["kl_mean"] < fast["kl_mean"]
    assert int8["bytes"] > fast["bytes"]
    assert serial[10]["bytes"] <= 1e6
    assert serial[4]["file_sha256"] != serial[5]["file_sha256"], "another seed is another file"
    assert fast["measured"]["quantize_s"] > 0


def test_processes_give_the_same_rows_and_the_second_time_nothing_is_computed(tiny, serial, tmp_path, monkeypatch):
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    progress, seen = [], []
    grid, out = grid_of(tiny), tmp_path / "out.jsonl"
    found = sweep(grid, out, 2, lambda *x: progress.append(x), lambda cell, x: seen.append((cell, x[1])))
    assert without_measured(found.rows) == without_measured(serial)
    assert without_measured(read_sweep(out).rows) == without_measured(serial)
    assert progress[0] == ("cells", 0, 12) and progress[-1] == ("cells", 12, 12)
    assert {cell for cell, _ in seen} == {*range(12)} - {1}, "all have reported; cell 1 is cell 0 again"
    assert {"quantize", "compare", "done"} <= {stage for _, stage in seen}
    first, time_of = out.read_bytes(), out.stat().st_mtime_ns
    code = f"""
import sys
from smollm_nb.scale.sweep import sweep
print(sweep({grid!r}, {str(out)!r}).computed, "torch" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "0 False\n"
    assert out.read_bytes() == first and out.stat().st_mtime_ns >= time_of


def test_a_cluster_gives_the_same_rows_with_a_worker_killed(tiny, serial, tmp_path, monkeypatch):
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    cluster, killed = Cluster(tmp_path), []
    try:
        cluster.wait_for(2)

        def kill(stage, done, total):
            if done >= 3 and not killed:
                killed.append(cluster.workers[0].kill())

        found = sweep(grid_of(tiny), tmp_path / "out.jsonl", cluster.address, kill)
    finally:
        cluster.close()
    assert killed
    assert without_measured(found.rows) == without_measured(serial)


def test_a_sweep_that_was_stopped_goes_on(tiny, serial, tmp_path, monkeypatch):
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    grid, out = grid_of(tiny, recipes=["float32", "int8"]), tmp_path / "out.jsonl"

    def stop(stage, done, total):
        if done == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        sweep(grid, out, 0, stop)
    assert len(read_sweep(out).rows) == 3
    found = sweep(grid, out, 0)
    assert found.computed == 1, "the last one"
    assert without_measured(found.rows) == without_measured(serial[:4])


def test_a_cell_that_fails_is_a_row_and_the_others_are_done(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    grid = grid_of(tiny, recipes=["int8", dict(budget=1000)], seeds=[0])
    found = sweep(grid, tmp_path / "out.jsonl", 0)
    assert [("error" in r) for r in found.rows] == [False, True]
    assert "bytes are too few" in found.rows[1]["error"]
    assert "1 failed" in str(found)
    assert sweep(grid, tmp_path / "out.jsonl", 0).computed == 1, "what failed is tried again"


def test_two_names_of_one_text_are_computed_once(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    text = "Once upon a time there was a model that answered. " * 40
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(text)
    grid = grid_of(tiny, recipes=["int8"], seeds=[0], texts=[str(tmp_path / n) for n in ("a.txt", "b.txt")])
    found = sweep(grid, tmp_path / "out.jsonl", 0)
    assert found.computed == 1 and len(found.rows) == 2
    assert found.rows[0]["kl_mean"] == found.rows[1]["kl_mean"]


def test_a_cell_has_the_accuracy_on_questions(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    tasks = [str(TESTS / "harness_tasks" / f"{name}.yaml") for name in ("facts", "short_answers")]
    grid = grid_of(tiny, recipes=["float32", "int8"], seeds=[0], settings=[dict(tokens=64, window=32)])
    grid["settings"][0] |= dict(tasks=tasks, limit=12)
    found = sweep(grid, tmp_path / "out.jsonl", 0)
    assert not found.errors
    for row in found.rows:
        by_metric = {(s["task"], s["metric"].partition(",")[0]): s for s in row["scores"]}
        facts = by_metric["smollm_facts", "acc"]
        assert facts["questions"] == 12 and 0 <= facts["value"] <= 1
        assert ("smollm_short_answers", "exact_match") in by_metric
        mean, half = accuracy_of(row)
        assert 0 <= mean <= 1 and half > 0
    assert "accuracy" in str(found) or accuracy_of(found.rows[0]) == accuracy_of(found.rows[1])
    assert sweep(grid, tmp_path / "out.jsonl", 0).computed == 0


# what is refused


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(recipes=["fastest"]), "fast"),
        (dict(recipes=[dict(base="fast", token=3)]), "cell 0"),
        (dict(settings=[dict(window=5000)]), "longer than the model"),
        (dict(texts=["nowhere.txt"]), "nowhere.txt"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_starts(tiny, tmp_path, monkeypatch, change, says):
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ParameterError, match=says):
        sweep(grid_of(tiny, **change), tmp_path / "out.jsonl", 0)


def test_a_worker_with_another_model_or_another_version_is_an_error(tiny, tmp_path):
    [cell] = as_grid(dict(models=[str(tiny)], recipes=["int8"], settings=[dict(tokens=64, window=32)])).cells()
    task = task_of(cell, tiny)
    other = write_tiny(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="not those"):
        compute(task | dict(folder=str(other)))
    with pytest.raises(CheckpointError, match="copy it there"):
        compute(task | dict(folder=str(tmp_path / "none"), name=str(tmp_path / "none")))
    with pytest.raises(ParameterError, match="another version"):
        compute(task | dict(code="0" * 64))


def test_memory_is_a_resource_of_a_cluster(tmp_path):
    with pytest.raises(ParameterError, match="no dask scheduler answers"):
        Dask("tcp://127.0.0.1:9", timeout=1)
    cluster = Cluster(tmp_path, 1, "memory=1000")
    try:
        cluster.wait_for(1)
        with pytest.raises(ParameterError, match="no worker of the cluster has more than 1,000"):
            Dask(cluster.address, memory=2000)
        with Dask(cluster.address, memory=600) as dask:
            assert results(dask, scale_tasks.square) == SQUARES
    finally:
        cluster.close()


# a long file of prompts


def write_prompts(path: Path, count: int) -> None:
    lines = [json.dumps(dict(id=i, prompt=f"Prompt number {i}:", max_tokens=1 + i % 5)) for i in range(count)]
    lines[7] = "no JSON"
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_long_file_on_a_cluster_killed_twice(tiny, cluster, tmp_path):
    "Each prompt is answered once, and its text is that of one machine"
    source, target, count = tmp_path / "in.jsonl", tmp_path / "out.jsonl", 240
    write_prompts(source, count)
    code = f"""
from smollm_nb.api import Model
from smollm_nb.scale.pieces import answer_in_pieces
say = lambda done, total: print(done, flush=True)
with Model({str(tiny)!r}) as m:
    how = dict(temperature=0.7, seed=5)
    found = answer_in_pieces(m, {str(source)!r}, {str(target)!r}, {cluster.address!r}, 16, 4, say, **how)
print("kept", found.kept)
"""
    command = [sys.executable, "-c", code]
    for least in (32, 96):
        client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in client.stdout:
            if int(line) >= least:
                break
        client.send_signal(signal.SIGKILL)
        client.wait()
        client.stdout.close()
        assert not target.exists()
    assert len([*target.with_name("out.jsonl.pieces").iterdir()]) >= 6, "what was answered is kept"
    kept = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    assert kept.startswith("kept ") and int(kept.split()[1]) >= 96, "what earlier runs have answered is counted"
    with Model(tiny) as m:
        m.answer_file(source, tmp_path / "alone.jsonl", 1, temperature=0.7, seed=5)
    assert target.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert [json.loads(line)["line"] for line in target.read_text().splitlines()] == [*range(1, count + 1)]
    assert not target.with_name("out.jsonl.pieces").exists()


def test_pieces_of_processes_and_more_prompts_later(tiny, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_prompts(source, 20)
    with Model(tiny) as m:
        report = answer_in_pieces(m, source, target, 2, 8, max_tokens=3)
        assert (report.answers, report.errors, report.kept) == (20, 1, 0)
        with source.open("a") as f:
            f.write(json.dumps("one more") + "\n")
        report = answer_in_pieces(m, source, target, 2, 8, max_tokens=3)
        assert (report.answers, report.kept) == (21, 20)
        with pytest.raises(Exception, match="other prompts, options or weights"):
            answer_in_pieces(m, source, target, 0, 8, max_tokens=4)


def test_a_worker_without_the_model_says_so(tiny, tmp_path):
    from smollm_nb.scale.pieces import answer_piece

    model = dict(path=str(tmp_path / "none"), sha256="", backend="torch", options={})
    with pytest.raises(CheckpointError, match="copy it there"):
        answer_piece(dict(model=model, first=0))
    with pytest.raises(CheckpointError, match="another model"):
        answer_piece(dict(model=model | dict(path=str(tiny), sha256="0"), first=0))


def test_processes_are_counted_by_memory():
    assert w.default_count(1, 10**15) == 1
    assert isinstance(as_workers(None, memory=1).executor, type(Processes(1).executor))


# the command line


def smollm(*args) -> subprocess.CompletedProcess:
    return subprocess.run([SMOLLM, *map(str, args)], capture_output=True, text=True)


def test_the_command_computes_a_grid_from_a_file(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SMOLLM_CACHE", str(tmp_path / "cache"))
    grid, out = tmp_path / "grid.json", tmp_path / "out.jsonl"
    write_tiny(tmp_path / "tiny")
    (tmp_path / "prose.txt").write_text("The sea was calm, and the ship sailed on. " * 60)
    record = dict(models=["tiny"], recipes=["int8"], texts=["prose.txt"], settings=[dict(tokens=64, window=32)])
    grid.write_text(json.dumps(record | dict(budgets=[1000])))
    done = smollm("sweep", grid, "--output", out, "--workers", 1, "--json")
    assert done.returncode == 1, "one of its cells failed"
    assert "smollm: cell 1: 1,000 bytes are too few" in done.stderr
    found = json.loads(done.stdout)
    assert (found["cells"], found["computed"], found["failed"]) == (2, 2, 1)
    grid.write_text(json.dumps(record))
    done = smollm("sweep", grid, "--output", out)
    assert done.returncode == 0 and "1 of 1 cells, 0 computed now" in done.stdout


@pytest.mark.parametrize(
    "args, says",
    [
        (["sweep", "nowhere.json"], "nowhere.json"),
        (["sweep", "grid.json", "--workers", 1, "--dask", "tcp://127.0.0.1:9"], "exclude each other"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.json").write_text("{}")
    done = smollm(*args, "--output", tmp_path / "out.jsonl")
    assert done.returncode == 1
    assert says in done.stderr and "Traceback" not in done.stderr


def test_the_command_answers_a_file_by_processes(tiny, tmp_path):
    source = tmp_path / "in.jsonl"
    write_prompts(source, 12)
    for name, more in (("one", []), ("two", ["--workers", 2])):
        how = ["--input", source, "--output", tmp_path / name, "--backend", "torch", "--model", tiny]
        assert smollm("generate-many", *how, *more).returncode == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_command_scores_a_task_of_the_users_own(tiny):
    task = TESTS / "harness_tasks" / "facts.yaml"
    done = smollm("score", "--model", tiny, "--tasks", task, "--limit", 8, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {s["questions"] for s in found["scores"]} == {8}
    done = smollm("score", "--model", tiny, "--tasks", "nowhere.yaml")
    assert done.returncode == 1 and "nowhere.yaml" in done.stderr and "Traceback" not in done.stderr
