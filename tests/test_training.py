"Training that is killed goes on from its checkpoint and ends with the same bits"

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from smollm_nb.core import ParameterError, StorageError
from smollm_nb.models.tiny import write_tiny
from smollm_nb.tune.training import BEST, CHECKPOINT, IGNORED, Settings, Training, read_tensors, trainable

TESTS = Path(__file__).parent
SETTINGS = Settings(epochs=3, lr=1e-3, rows=2, dtype="float32", evaluate_every=3)

CHILD = """import sys
sys.path.insert(0, sys.argv[2])
import torch
from test_training import SETTINGS, examples
from smollm_nb.tune.training import Training, trainable
torch.set_num_threads(int(sys.argv[3]))
t = Training(trainable(sys.argv[1]), examples(24, 0), examples(6, 1), SETTINGS, sys.argv[1] + "/run")
t.run(lambda p: print(p.step, flush=True))
"""


def examples(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    "Counting, in steps of one to three; the first three tokens are read only"
    rng, pairs = np.random.default_rng(seed), []
    for _ in range(count):
        ids = (rng.integers(20, 200) + rng.integers(1, 4) * np.arange(rng.integers(20, 90))) % 480 + 20
        pairs.append((ids, np.where(np.arange(len(ids)) < 3, IGNORED, ids)))
    return pairs


def bits(training: Training) -> dict[str, torch.Tensor]:
    "Weights and Adam's means at the end"
    training.run()
    state = training.optimizer.state
    means = {f"{k}.{n}": state[p][k] for n, p in training.weights.items() for k in ("exp_avg", "exp_avg_sq")}
    return {n: p.detach() for n, p in training.weights.items()} | means


@pytest.mark.parametrize("step", [4, 7])
def test_killed_and_resumed(tmp_path, step):
    folder = write_tiny(tmp_path / "model")
    command = [sys.executable, "-c", CHILD, str(folder), str(TESTS), str(torch.get_num_threads())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == step:
                child.kill()
                break
    assert child.returncode not in (0, 1)
    names = sorted(p.name for p in (folder / "run").iterdir() if not p.name.startswith("."))
    assert names == [BEST, CHECKPOINT]
    data, held_out = examples(24, 0), examples(6, 1)
    resumed = Training.resume(trainable(folder), data, held_out, folder / "run")
    assert 0 < len(resumed.losses) <= step
    whole = Training(trainable(folder), data, held_out, SETTINGS)
    want, got = bits(whole), bits(resumed)
    assert want.keys() == got.keys()
    assert [n for n in want if not torch.equal(want[n], got[n])] == []
    assert (resumed.losses, resumed.readings) == (whole.losses, whole.readings)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    "Training ends with an error that says so, and what was saved before is whole"
    folder = write_tiny(tmp_path / "model")
    data, held_out = examples(24, 0), examples(6, 1)
    training = Training(trainable(folder), data, held_out, SETTINGS, folder / "run")

    def fill(progress):
        if progress.step == 5:
            monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), dict(free=1000)))

    with pytest.raises(StorageError, match="the disk is too full"):
        training.run(fill)
    tensors, record = read_tensors(folder / "run" / CHECKPOINT)
    assert len(record["losses"]) == 3
    assert sorted(p.name for p in (folder / "run").iterdir()) == [BEST, CHECKPOINT]
    with pytest.raises(StorageError, match="the disk is too full"):
        Training(trainable(folder), data, held_out, SETTINGS, folder / "elsewhere")


def test_short_memory(tmp_path, monkeypatch):
    "Layers are computed again where that helps; where it does not, nothing starts"
    folder = write_tiny(tmp_path)
    data = examples(24, 0)

    def with_free(n, **how):
        monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), dict(available=n)))
        return Training(trainable(folder), data, settings=Settings(dtype="float32", **how)).recompute

    assert not with_free(10**9)
    assert with_free(36 * 10**6)
    assert with_free(10**9, recompute=True)
    with pytest.raises(ParameterError, match="lower length .now 256., train a LoRA adapter"):
        with_free(20 * 10**6)
    with pytest.raises(ParameterError, match="lower length"):
        with_free(36 * 10**6, recompute=False)


def test_nothing_holds_the_weights_afterwards(tmp_path):
    "Not even the graph of the layer whose memory is predicted: it would keep the file mapped"
    model = trainable(write_tiny(tmp_path))
    weight = weakref.ref(model.model.layers[0].self_attn.q_proj.weight)
    Training(model, examples(8, 0), settings=SETTINGS).step()
    del model
    gc.collect()
    assert weight() is None


def test_resume_says_what_differs(tmp_path):
    folder = write_tiny(tmp_path / "model")
    data = examples(8, 0)
    training = Training(trainable(folder), data, settings=SETTINGS, folder=folder / "run")
    training.step()
    training.save()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        with pytest.warns(UserWarning, match="the last bits may differ"):
            Training.resume(trainable(folder), data, [], folder / "run")
    finally:
        torch.set_num_threads(before)


def test_nothing_held_out(tmp_path, monkeypatch):
    "The last step is the one that is kept; a checkpoint of another version of the program is refused"
    folder = write_tiny(tmp_path / "model")
    data = examples(8, 0)
    result = Training(trainable(folder), data, settings=SETTINGS, folder=folder / "run").run()
    assert result["best_step"] == result["steps"] == len(result["losses"])
    assert (result["loss_before"], result["loss_after"]) == (result["losses"][0], result["losses"][-1])
    assert not (folder / "run" / BEST).exists()
    monkeypatch.setattr("smollm_nb.tune.training.VERSION", 2)
    with pytest.raises(ParameterError, match="another version"):
        Training.resume(trainable(folder), data, [], folder / "run")
