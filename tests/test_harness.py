"lm-evaluation-harness: the numbers of its own `hf` model, shared prefixes read once, errors in one line"

import contextlib
import importlib.util
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from smollm_nb.api import Model
from smollm_nb.core import (
    Cancelled,
    ContextOverflowError,
    FetchError,
    InvalidStateError,
    NonFiniteError,
    ParameterError,
    code_command,
)
from smollm_nb.scale import harness
from smollm_nb.scale.harness import EndingReader, harness_class, harness_model, questions_of
from smollm_nb.scale.scores import load_tasks, no_tasks, quiet_harness, scores, task_files, task_hash, wilson

pytest.importorskip("lm_eval")
TASKS = Path(__file__).parent / "harness_tasks"
FACTS, PROSE, SHORT = (TASKS / f"{name}.yaml" for name in ("facts", "prose", "short_answers"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    "No request leaves this machine, and no data set lands in the user's cache"
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    with Model(tiny_folder, backend="torch") as m:
        yield m


@pytest.fixture(scope="module")
def native(tiny_q4):
    with Model(tiny_q4, backend="native", threads=1) as m:
        yield m


def hf_model(folder, **options):
    "The harness's own model of a checkpoint. In float32 its softmax would be 7e-6 a token too high"
    from lm_eval.api.registry import get_model

    how = dict(dtype="float32", softmax_dtype="float64", device="cpu", batch_size=8)
    return get_model("hf")(pretrained=str(folder), **(how | options))


@pytest.fixture(scope="module")
def hf(tiny_folder):
    return hf_model(tiny_folder)


def evaluate(lm, tasks, **options):
    "The harness's own results, with the model's replies"
    from lm_eval import simple_evaluate

    with quiet_harness():
        options |= dict(bootstrap_iters=0, log_samples=True, task_manager=no_tasks())
        return simple_evaluate(model=lm, tasks=load_tasks(tasks), **options)


def replies(results) -> dict:
    "What the model returned for each request"
    return {task: [r["resps"] for r in records] for task, records in results["samples"].items()}


def requests(*args):
    "Requests as the harness makes them"
    return [SimpleNamespace(args=a, task_name="") for a in args]


def same_as_hf(ours, theirs, tasks, **options) -> None:
    "Every reply and every metric"
    mine, his = (evaluate(lm, tasks, **options) for lm in (ours, theirs))
    for task, records in replies(his).items():
        for a, b in zip(replies(mine)[task], records, strict=True):
            for (x,), (y,) in zip(a, b, strict=True):
                if isinstance(y, str):
                    assert x == y
                    continue
                (x, *greedy), (y, *hf_greedy) = (r if isinstance(r, tuple) else (r,) for r in (x, y))
                assert abs(x - y) <= 1e-4 * max(1, abs(y) / 500), "24 bits of a float are no more than that"
                assert greedy == hf_greedy
    for task, metrics in his["results"].items():
        for name, value in metrics.items():
            if isinstance(value, float):
                # a perplexity is e to the power of what is compared
                assert abs(mine["results"][task][name] - value) <= 1e-4 * max(1, abs(value)), (task, name)


# ---- the numbers of hf


@pytest.mark.parametrize("task", [FACTS, PROSE, SHORT], ids=lambda p: p.stem)
def test_tasks_as_hf(tiny, hf, task):
    same_as_hf(harness_model(tiny), hf, task)


def test_few_shots_and_chats_as_hf(tiny, hf):
    "Worked examples before each question, and prompts through the chat template"
    same_as_hf(harness_model(tiny), hf, FACTS, num_fewshot=2, limit=6)
    same_as_hf(harness_model(tiny), hf, [FACTS, SHORT], apply_chat_template=True, limit=6)
    args = dict(apply_chat_template=True, num_fewshot=1, fewshot_as_multiturn=True, system_instruction="Be brief.")
    same_as_hf(harness_model(tiny), hf, FACTS, limit=6, **args)


def test_requests_as_hf(tiny, hf):
    "Empty contexts, spaces, special tokens, contexts that are too long"
    asked = requests(
        ("", "Once upon a time"),
        ("", "<|im_start|>user"),
        (" ", "Once"),
        ("Once upon  ", "a time"),
        ("Once upon", "\n\n a time"),
        ("<|im_start|>user\nHi<|im_end|>\n", "<|im_start|>assistant\nHello<|im_end|>"),
        ("The quick brown fox " * 60, "jumps over the lazy dog"),
        ("The quick brown fox " * 60, "jumps"),
        ("Ünï ©øde ", "✓ 的"),
    )
    theirs = [hf.loglikelihood([r], disable_tqdm=True)[0] for i, r in enumerate(asked) if i != 2]
    mine = harness_model(tiny).loglikelihood(asked)
    alone = harness_model(tiny).loglikelihood(requests(("", " Once")))[0]
    assert np.isclose(mine.pop(2)[0], alone[0], atol=1e-5), "hf refuses a context of spaces"
    for (x, greedy), (y, hf_greedy) in zip(mine, theirs, strict=True):
        assert abs(x - y) <= 1e-4
        assert greedy is hf_greedy
    texts = requests(("word " * 400,), ("",), ("Once",))
    for x, y in zip(harness_model(tiny).loglikelihood_rolling(texts), hf.loglikelihood_rolling(texts, True)):
        assert abs(x - y) <= 1e-4 * max(1, abs(y) / 500)


def test_texts_as_hf(tiny, hf):
    "Stop strings, prompts that are too long, lengths; greedy however it is said"
    how = [
        dict(until=["\n"], max_gen_toks=12, do_sample=False),
        dict(until="W", max_gen_toks=30),
        dict(until=[], max_new_tokens=5, temperature=0.0),
        dict(until=["sb", "xyz"], max_gen_toks=20, do_sample=False, temperature=0.7),
    ]
    asked = requests(*(("Once upon a time there was " * n, dict(h)) for h in how for n in (1, 40)))
    ours = harness_model(tiny).generate_until(asked)
    assert ours == [hf.generate_until([r], disable_tqdm=True)[0] for r in asked]


def test_conversations_as_hf(tiny, hf):
    ours = harness_model(tiny)
    talk = [dict(role="system", content="Be kind."), dict(role="user", content="Name a color. ")]
    assert ours.apply_chat_template(talk) == hf.apply_chat_template(talk)
    for end in ("Blue, or ", "Blue", ""):
        on = [*talk, dict(role="assistant", content=end)]
        assert ours.apply_chat_template(on, False) == hf.apply_chat_template(on, False)
    assert ours.chat_template(True) == ours.chat_template("any") == hf.chat_template(True)
    assert ours.chat_template(False) is None
    assert "/" not in ours.tokenizer_name


def test_templates_of_other_models(tiny):
    "One that refuses system messages, one that trims, several with names, none"
    templates = dict(
        default="{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "[{{ m.content | trim }}]{% endfor %}",
        short="-",
    )
    ours = harness_model(tiny)
    ours.tokenizer = SimpleNamespace(chat_templates=templates, special_tokens={})
    talk = [dict(role="system", content="s"), dict(role="user", content=" a ")]
    assert ours.apply_chat_template(talk) == "[a]"
    assert ours.apply_chat_template([*talk, dict(role="assistant", content="b ")], False) == "[a][b"
    assert ours.chat_template("short") == "-"
    with pytest.raises(ParameterError, match="no chat template 'long': there are default, short"):
        ours.chat_template("long")
    ours.tokenizer.chat_templates = {}
    with pytest.raises(ParameterError, match="it is a base model"):
        ours.apply_chat_template(talk)


# ---- what is read


def test_shared_prefixes_are_read_once(tiny):
    "A question's prefix, worked examples over all waves, and of each ending all but its last token"
    rng = np.random.default_rng(1)
    shots = rng.integers(20, 512, 70).tolist()
    contexts = [shots + rng.integers(20, 512, 9).tolist() for _ in range(20)]
    pairs = [(c, rng.integers(20, 512, 1 + k).tolist()) for c in contexts for k in range(4)]
    ours = harness_model(tiny, batch_size=9)
    got = ours._loglikelihood_tokens([("", *p) for p in pairs])
    assert ours.reader.tokens == 70 + 20 * (9 + 0 + 1 + 2 + 3)
    assert ours.reader.passes < 40
    order = rng.permutation(len(pairs))
    again = ours._loglikelihood_tokens([("", *pairs[i]) for i in order])
    assert np.allclose([got[i][0] for i in order], [x for x, _ in again], atol=1e-5)


def test_more_endings_than_sequences(tiny):
    "One question with 23 endings in 4 sequences: its prefix is read once, but for its last token"
    rng = np.random.default_rng(2)
    prefix = rng.integers(20, 512, 50).tolist()
    endings = [rng.integers(20, 512, 3).tolist() for _ in range(23)]
    few, many = harness_model(tiny, batch_size=4), harness_model(tiny, batch_size=32)
    a, b = (np.array(m._loglikelihood_tokens([("", prefix, e) for e in endings])) for m in (few, many))
    assert np.allclose(a, b, atol=1e-5)
    assert many.reader.tokens == 50 + 23 * 2
    assert few.reader.tokens == 50 + 5 + 23 * 2


def test_long_texts_share_the_memory(tiny, monkeypatch):
    "Fewer sequences for longer texts, where nobody says how many; the scores stay"
    asked = requests(*((f"{i} " + "word " * 30,) for i in range(9)))
    many, few = harness_model(tiny), harness_model(tiny)
    a = many.loglikelihood_rolling(asked)
    monkeypatch.setattr(harness, "POSITIONS", 500)
    assert np.allclose(a, few.loglikelihood_rolling(asked), atol=1e-4)
    assert (many.reader.size, few.reader.size) == (32, 500 // (1 + len(few.tok_encode(asked[0].args[0]))))
    assert harness_model(tiny, batch_size=7).loglikelihood_rolling(asked[:1])


def test_engine_does_not_depend_on_batches(native):
    "The engine's scores are the same to the bit, whatever shares a pass"
    rng = np.random.default_rng(3)
    pairs = [
        (rng.integers(20, 512, n).tolist(), rng.integers(20, 512, 1 + n % 6).tolist()) for n in rng.integers(1, 200, 40)
    ]
    got = [harness_model(native, batch_size=n)._loglikelihood_tokens([("", *p) for p in pairs]) for n in (1, 7, 32)]
    assert got[0] == got[1] == got[2]


def test_engine_as_torch(native, tiny_q4):
    "The same quantized file"
    with Model(tiny_q4, backend="torch") as m:
        theirs = scores(m, [FACTS, PROSE])
        far = [harness_model(x).loglikelihood(requests(("Once upon", " a time"))) for x in (m, native)]
    mine = scores(native, [FACTS, PROSE])
    assert abs(far[0][0][0] - far[1][0][0]) < 0.5
    a, b = (s["smollm_prose", "bits_per_byte"].value for s in (mine, theirs))
    assert abs(a - b) < 0.02 * b
    low, high = theirs["smollm_facts", "acc"].interval
    assert low < mine["smollm_facts", "acc"].value < high
    assert mine.model["backend"] == "native"
    assert mine.model["file_sha256"]


def test_requests_that_cannot_be_scored(tiny):
    ours = harness_model(tiny)
    with pytest.raises(ContextOverflowError, match="does not fit a context of 256"):
        ours.loglikelihood(requests(("Once", "word " * 400)))
    with pytest.raises(ParameterError, match="at least one token"):
        ours.loglikelihood(requests(("Once", "")))
    assert ours.loglikelihood([]) == ours.loglikelihood_rolling([]) == ours.generate_until([]) == []
    for bad, what in (
        (dict(num_beams=2), "num_beams is not supported"),
        (dict(max_gen_toks=256), "less than the context of 256"),
    ):
        with pytest.raises(ParameterError, match=what):
            ours.generate_until(requests(("Once", bad)))


def test_scores_that_are_not_numbers():
    e = harness.Ending(0, [1])
    with pytest.raises(NonFiniteError, match="weights are damaged"):
        harness.add_scores(np.array([[0, np.nan]], np.float32), [[(e, 1)]])


def test_sampled_texts_are_the_same_again(tiny):
    how = dict(until=["\n"], max_gen_toks=20, do_sample=True, temperature=0.9, top_k=20)
    asked = requests(*(("Once upon", dict(how)) for _ in range(3)))
    a, b = (harness_model(tiny).generate_until(asked) for _ in range(2))
    assert a == b
    assert len(set(a)) > 1, "each request has a seed of its own"
    how.pop("temperature")
    assert harness_model(tiny).generate_until(requests(("Once upon", how)))


# ---- the harness's ways in


def test_model_by_name(tiny_q4):
    "`--model smollm --model_args …`"
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM

    args = f"pretrained={tiny_q4},backend=native,threads=1"
    with quiet_harness():
        how = dict(tasks=load_tasks(FACTS), limit=8, bootstrap_iters=0, task_manager=no_tasks())
        r = simple_evaluate(model="smollm", model_args=args, batch_size="auto", **how)
    assert 0 <= r["results"]["smollm_facts"]["acc,none"] <= 1
    assert r["config"]["smollm_backend"]["backend"] == "native"
    lm = harness_class().create_from_arg_obj(dict(pretrained=str(tiny_q4), backend="native"), dict(batch_size=3))
    assert isinstance(lm, LM)
    assert isinstance(lm, harness.HarnessModel)
    assert lm.batch_size == 3
    lm.model.close()
    with pytest.raises(AttributeError, match="no attribute 'Harnes'"):
        harness.Harnes


def test_model_with_options(tiny):
    with pytest.raises(ParameterError, match="threads is an option of a model by its name"):
        harness_class()(tiny, threads=2)
    with pytest.raises(ParameterError, match="batch_size"):
        harness_model(tiny, batch_size=0)


def test_without_the_harness(tmp_path):
    "The module imports; a call says what to install. In another process, which finds no lm_eval"
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'lm_eval' else find(name, *a)\n"
        "from smollm_nb.core import InvalidStateError\n"
        "from smollm_nb.scale.scores import scores\n"
        "assert not {'lm_eval', 'torch', 'datasets'} & set(sys.modules)\n"
        "try: scores('nothing', 'nothing')\n"
        "except InvalidStateError as e: print(e)\n"
    )
    p = subprocess.run(code_command(code), capture_output=True, text=True, cwd=tmp_path)
    assert p.stdout.strip().endswith("pip install 'smollm_nb[eval]'"), p.stderr


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidStateError, match=r"smollm_nb\[eval\]"):
        harness.open_harness()


# ---- scores


def test_scores(tiny, tiny_folder):
    "Values, errors, intervals; the same again by the model's name; nothing is printed"
    seen = []
    s = scores(tiny, TASKS, limit=20, on_progress=lambda *a: seen.append(a))
    again = scores(str(tiny_folder), [FACTS, PROSE, SHORT], limit=20)
    a, b = s.to_dict(), again.to_dict()
    assert {k: v for k, v in a.items() if k not in ("seconds", "model")} == {
        k: v for k, v in b.items() if k not in ("seconds", "model")
    }
    assert json.loads(json.dumps(a))["limit"] == 20
    assert seen[-1][0] == "answers"
    assert ("endings", 80, 80) in seen
    acc = s["smollm_facts", "acc"]
    assert acc.interval == wilson(round(20 * acc.value), 20)
    assert (acc.method, acc.questions, acc.higher_is_better) == ("Wilson", 20, True)
    loss = s["smollm_prose", "word_perplexity"]
    assert loss.method == "Student t"
    assert loss.interval[0] < loss.value < loss.interval[1]
    assert s["smollm_short_answers", "exact_match"].metric == "exact_match,trimmed"
    assert str(s).splitlines()[0].startswith("task")
    assert s._repr_markdown_().splitlines()[1].startswith("| --- |")
    assert "smollm_facts acc" in repr(s)
    assert len(str(s).splitlines()) == 7
    with pytest.raises(ParameterError, match="there are smollm_facts acc"):
        s["smollm_facts", "f1"]


def test_nothing_is_printed(tiny, capfd):
    scores(tiny, FACTS, limit=4)
    assert capfd.readouterr() == ("", "")


def test_errors_of_means_as_the_harness(tiny):
    from lm_eval.api.metrics import mean_stderr

    r = evaluate(harness_model(tiny), FACTS)
    values = [x["acc"] for x in r["samples"]["smollm_facts"]]
    assert abs(scores(tiny, FACTS)["smollm_facts", "acc"].stderr - mean_stderr(values)) < 1e-12


@pytest.mark.parametrize("error", [Cancelled, KeyboardInterrupt])
@pytest.mark.parametrize("task", [FACTS, PROSE, SHORT], ids=lambda p: p.stem)
def test_cancel(native, error, task):
    "The backend is free: no sequence is left, and it answers"

    def stop(*args):
        raise error("enough")

    with pytest.raises(error):
        scores(native, task, on_progress=stop)
    assert all(c.closed for c in native.backend._children)
    assert scores(native, task, limit=2).scores


def test_tasks_from_anywhere(tmp_path, monkeypatch, tiny):
    "Data is looked for beside the task's file; includes and Python files count for the hash"
    (tmp_path / "t").mkdir()
    base = FACTS.read_text().replace("task: smollm_facts\n", "").replace("facts.jsonl", "d.jsonl")
    (tmp_path / "t" / "_base.yaml").write_text(base)
    (tmp_path / "t" / "mine.yaml").write_text("include: _base.yaml\ntask: mine\nprocess_docs: !function own.first\n")
    (tmp_path / "t" / "own.py").write_text("def first(docs):\n    return docs.select(range(3))\n")
    (tmp_path / "t" / "d.jsonl").write_text((TASKS / "facts.jsonl").read_text())
    monkeypatch.chdir(tmp_path)
    assert [p.name for p in task_files("t")] == ["mine.yaml"]
    assert scores(tiny, "t")["mine", "acc"].questions == 3
    seen = {task_hash("t")}
    assert task_hash(tmp_path / "t" / "mine.yaml") in seen
    for name, text in (
        ("own.py", "# more\n"),
        ("d.jsonl", "\n"),
        ("_base.yaml", "# more\n"),
        ("mine.yaml", "# more\n"),
    ):
        with open(tmp_path / "t" / name, "a") as f:
            f.write(text)
        seen.add(task_hash("t"))
    assert len(seen) == 5
    assert task_hash(["arc_easy"]) != task_hash(["arc_challenge"])


def test_tasks_that_are_not_there(tiny, tmp_path):
    "Each in one line that says what is wrong"
    (tmp_path / "bad.yaml").write_text("task: [\n")
    (tmp_path / "none.yaml").write_text("group: x\n")
    (tmp_path / "data.yaml").write_text(FACTS.read_text())  # its data is not beside it
    for task, what in (
        (tmp_path / "bad.yaml", "is no task"),
        (tmp_path / "none.yaml", "no key `task`"),
        (tmp_path / "data.yaml", "facts.jsonl"),
        (tmp_path / "nowhere", "no such file or folder"),
        ("no/such.yaml", "no such file or folder"),
        (tmp_path.parent / tmp_path.name / "x.yaml", "no such file"),
        ([], "must be names, YAML files or folders"),
        (3, "must be names"),
    ):
        with pytest.raises(ParameterError, match=what) as e:
            scores(tiny, task)
        assert "\n" not in str(e.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParameterError, match="holds no task"):
        scores(tiny, tmp_path / "empty")


def test_tasks_of_the_hub(tiny):
    "A name that is not known, and one whose data set cannot be fetched"
    with pytest.raises(ParameterError, match="knows no task 'arc_eazy'.*arc_easy"):
        scores(tiny, "arc_eazy")
    with pytest.raises(FetchError, match="'arc_easy' needs its data set from the hub.*local data_files") as e:
        scores(tiny, "arc_easy")
    assert "\n" not in str(e.value)


def test_readers_close(tiny):
    "Questions that fail on the way give their sequences back"
    reader = EndingReader(tiny.backend, 2, 16)
    with contextlib.closing(reader), pytest.raises(ContextOverflowError):
        reader.score(questions_of([(list(range(20, 60)), [5, 6])], 256, 2))


# ---- the real model


@pytest.mark.slow
def test_real_model_as_hf(real_folder):
    with Model(real_folder, backend="torch") as m:
        ours, theirs = harness_model(m), hf_model(real_folder)
        same_as_hf(ours, theirs, [FACTS, PROSE, SHORT], limit=16)
        same_as_hf(ours, theirs, [FACTS, SHORT], limit=8, apply_chat_template=True)
        plain = evaluate(hf_model(real_folder, softmax_dtype=None), [FACTS, PROSE], limit=16)["results"]
        mine = evaluate(ours, [FACTS, PROSE], limit=16)["results"]
        for task, metric in (("smollm_facts", "acc"), ("smollm_facts", "acc_norm"), ("smollm_prose", "bits_per_byte")):
            assert abs(plain[task][f"{metric},none"] - mine[task][f"{metric},none"]) <= 1e-4, "as `hf` comes"


@pytest.mark.slow
def test_real_engine(real_q4):
    "Far above chance"
    with Model(real_q4, backend="native") as m:
        s = scores(m, TASKS)
    assert s["smollm_facts", "acc"].interval[0] > 0.45
    assert s["smollm_short_answers", "exact_match"].value > 0
