"GGUF files that are written: the same numbers in every reader, and what llama.cpp makes of them"

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from smollm_nb.api import Model
from smollm_nb.cli.commands import app
from smollm_nb.core import Cancelled, CheckpointError, ParameterError, StorageError, TokenizerError
from smollm_nb.engine.formats import Format
from smollm_nb.fidelity.evaluate import builtin_text, evaluate, text_ids
from smollm_nb.inference.llama import load
from smollm_nb.models.gguf import gguf_name, import_gguf, read_gguf, unpermute
from smollm_nb.models.tiny import TINY, write_tiny
from smollm_nb.quant.export_gguf import GGML, GGUF_TYPES, export_gguf, from_blocks
from smollm_nb.quant.rounding import relative_error
from smollm_nb.text.chat import encode_chat
from smollm_nb.text.tokenizer import SmolLMTokenizer

FORMAT = {kind: name for name, kind in GGML.items()}
FILE_TYPE = dict(f16=1, q8_0=7, q4_0=2, iq4_nl=25)
PROMPTS = ("The capital of France is", "Water boils at", "def add(a, b):\n    return", "  In 2024,  ünïcode ")


def short(kind):
    "A recipe of a type that takes seconds on the tiny model"
    r = GGUF_TYPES[kind]
    return replace(r, tokens=256, window=64) if r.tokens else r


def nearest(kind):
    "A recipe of a type without calibration"
    return replace(GGUF_TYPES[kind], tokens=0)


@pytest.fixture(scope="module")
def files(tiny_folder, tmp_path_factory):
    "The tiny model in every type"
    d = tmp_path_factory.mktemp("gguf")
    with pytest.MonkeyPatch.context() as m:
        m.setenv("SMOLLM_CACHE", str(d / "cache"))
        for kind in GGUF_TYPES:
            out = export_gguf(tiny_folder, d / f"{kind}.gguf", short(kind))
            assert out["bytes"] == (d / f"{kind}.gguf").stat().st_size
    return {kind: d / f"{kind}.gguf" for kind in GGUF_TYPES}


def heads_of(name, config=TINY):
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_every_reader_finds_the_same_numbers(kind, files, tiny_folder, tmp_path):
    "This package's, the `gguf` package's, and the blocks read back as codes; rows of queries and keys in our order"
    ours = load_file(import_gguf(files[kind], tmp_path / "x") / "model.safetensors")
    theirs = {t.name: t for t in gguf.GGUFReader(files[kind]).tensors}
    whole, worst = load_file(tiny_folder / "model.safetensors"), dict(f16=1e-6, q8_0=1e-4, q4_0=0.04, iq4_nl=0.04)
    assert {gguf_name(n) for n in ours} == set(theirs)
    for name, w in ours.items():
        t, heads = theirs[gguf_name(name)], heads_of(name)
        want = gguf.quants.dequantize(np.asarray(t.data), t.tensor_type).reshape(w.shape)
        assert np.array_equal(w, unpermute(want, heads) if heads else want), name
        if w.ndim == 1:
            assert t.tensor_type.name == "F32"
            assert np.array_equal(w, whole[name])
            continue
        q = from_blocks(np.asarray(t.data).view(np.uint8), Format.parse(FORMAT[t.tensor_type.name]))
        assert np.array_equal(q.dequantize(), want), name
        assert t.tensor_type.name == GGML[GGUF_TYPES[kind].embedding if "embed" in name else GGUF_TYPES[kind].linear]
        off = np.square(w - whole[name]).sum() / np.square(whole[name]).sum()
        assert off < (1e-4 if "embed" in name else worst[kind]), name


def test_transformers_reads_it(files, tmp_path):
    "Its own reading of a GGUF gives this package's logits"
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    shutil.copy(files["q8_0"], tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="q8_0.gguf", dtype=torch.float32)
    ids = [*range(17, 80)]
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(load(import_gguf(files["q8_0"], tmp_path / "x")).logits(ids) - theirs).max() < 1e-3


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_metadata(kind, files, tiny_folder, tmp_path):
    "Shape, ids, template and text come back; people find what the file is"
    meta = read_gguf(files[kind])[0]
    assert meta["general.architecture"] == "llama"
    assert meta["general.file_type"] == FILE_TYPE[kind]
    assert meta["tokenizer.ggml.pre"] == "smollm"
    assert meta["general.quantized_by"].startswith("smollm_nb ")
    assert json.loads(meta["smollm_nb.recipe"])["name"] == kind
    assert json.loads(meta["smollm_nb.source"])["sha256"]
    folder = import_gguf(files[kind], tmp_path / "x")
    config = json.loads((folder / "config.json").read_text())
    assert {k: config[k] for k in TINY.to_dict()} == TINY.to_dict()
    mine, again = SmolLMTokenizer.load(tiny_folder), SmolLMTokenizer.load(folder)
    assert again.chat_templates == mine.chat_templates
    assert again.special_tokens.items() >= mine.special_tokens.items()
    for text in (*PROMPTS, "<|im_start|>user\nHi<|im_end|>"):
        for special in (False, True):
            assert again.encode(text, special=special) == mine.encode(text, special=special)
    chat = [dict(role="user", content="What is 12 + 30?")]
    assert encode_chat(again, chat) == encode_chat(mine, chat)


def test_the_same_file_again(files, tiny_folder, tmp_path):
    "The calibration text is written anew, since the cache is another one"
    export_gguf(tiny_folder, tmp_path / "again.gguf", short("q4_0"))
    assert (tmp_path / "again.gguf").read_bytes() == files["q4_0"].read_bytes()


def test_rounding_is_better_than_nearest(files, tiny_folder, tmp_path):
    "The searched scales are those of the least error, before GPTQ moves the codes"
    import torch

    from smollm_nb.quant.export_gguf import iq4_nl_book
    from smollm_nb.quant.rounding import round_to_nearest, search_scales

    w = torch.from_numpy(load_file(tiny_folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"])
    for name in (GGUF_TYPES["q4_0"].linear, GGUF_TYPES["iq4_nl"].linear):
        f = Format.parse(name)
        plain = relative_error(w, round_to_nearest(w, f, iq4_nl_book()))
        assert relative_error(w, search_scales(w, f, book=iq4_nl_book())) < 0.9 * plain
    stock = gguf.quants.dequantize(
        gguf.quantize(w.numpy(), gguf.GGMLQuantizationType.Q4_0), gguf.GGMLQuantizationType.Q4_0
    )
    off = float(np.square(stock - w.numpy()).sum() / np.square(w.numpy()).sum())
    assert relative_error(w, search_scales(w, Format.parse(GGUF_TYPES["q4_0"].linear))) < 0.9 * off


def test_a_head_of_its_own(tmp_path):
    config = replace(TINY, tie_word_embeddings=False, num_hidden_layers=1)
    folder = write_tiny(tmp_path / "untied", config)
    export_gguf(folder, tmp_path / "x.gguf", nearest("iq4_nl"))
    assert read_gguf(tmp_path / "x.gguf")[1]["output.weight"].kind == "Q8_0"
    again = load_file(import_gguf(tmp_path / "x.gguf", tmp_path / "x") / "model.safetensors")
    want = load_file(folder / "model.safetensors")["lm_head.weight"]
    assert np.abs(again["lm_head.weight"] - want).max() < 0.01


def test_what_is_refused(tiny_folder, tiny_q4, tmp_path, monkeypatch):
    "One line each, before any work, and nothing is left behind"
    odd = write_tiny(tmp_path / "odd", replace(TINY, intermediate_size=500, num_hidden_layers=1))
    spoiled = shutil.copytree(tiny_folder, tmp_path / "spoiled")
    rules = json.loads((spoiled / "tokenizer.json").read_text())
    rules["pre_tokenizer"] = dict(type="Whitespace")
    (spoiled / "tokenizer.json").write_text(json.dumps(rules))
    (spoiled / "provenance.json").unlink()
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "x.gguf"
    cases = (
        (tiny_q4, target, "q4_0", ParameterError, "quantized already"),
        (tiny_q4.parent, target, "q4_0", CheckpointError, "holds a quantized model"),
        (tmp_path / "none", target, "q4_0", CheckpointError, "no such folder"),
        (tiny_folder, target, "q4_1", ParameterError, "iq4_nl"),
        (tiny_folder, tmp_path / "out", "q4_0", ParameterError, "is a folder; name a file"),
        (odd, target, "q4_0", ParameterError, "500 wide, no multiple of the 32"),
        (spoiled, target, "f16", TokenizerError, "no name for this pre-tokenizer"),
        (tiny_folder, tiny_q4 / "x.gguf", "f16", StorageError, "cannot be written"),
    )
    for folder, path, kind, error, message in cases:
        with pytest.raises(error, match=message) as e:
            export_gguf(folder, path, kind)
        assert "\n" not in str(e.value)
    export_gguf(odd, tmp_path / "odd.gguf", "f16")  # which holds any width
    for wrong in (dict(text=3), dict(on_progress="print")):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            export_gguf(tiny_folder, target, **wrong)
    with pytest.raises(ParameterError, match="is quantized already"):
        Model(str(tiny_q4)).export_gguf(target)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=7))
    with pytest.raises(StorageError, match="too full"):
        export_gguf(tiny_folder, target, "f16")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("stage", ["write text", "quantize"])
def test_cancelled(stage, tiny_folder, tmp_path):
    "At any stage nothing is left, and a file that was there stays as it was"
    path = tmp_path / "x.gguf"
    path.write_bytes(b"before")

    def stop(now, done, total):
        assert 0 <= done <= total
        if now == stage:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        export_gguf(tiny_folder, path, short("iq4_nl"), on_progress=stop)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["x.gguf"]


def test_the_command(tiny_folder, tiny_q4, tmp_path):
    path = str(tmp_path / "new" / "x.gguf")
    r = CliRunner().invoke(
        app, ["export-gguf", "--model", str(tiny_folder), "--type", "q8_0", "--output", path, "--json"]
    )
    assert r.exit_code == 0, r.output
    out = json.loads(r.stdout)
    assert (out["path"], out["type"], set(out)) == (
        path,
        "q8_0",
        {"path", "bytes", "type", "bits_per_weight", "seconds"},
    )
    r = CliRunner().invoke(app, ["export-gguf", "--model", str(tiny_q4), "--output", path, "--json"])
    assert r.exit_code == 1
    assert json.loads(r.stdout)["type"] == "ParameterError"


# ---- the real llama.cpp, where it has been built


@pytest.fixture(scope="module")
def llama_cpp(real_folder):
    "Opens a GGUF file in llama.cpp"
    from smollm_nb.bench.llama_cpp import LLAMA_CPP, llama_package, load_llama_cpp
    from smollm_nb.models.gguf import bundled_gguf

    if not LLAMA_CPP.home.exists():
        pytest.skip("llama.cpp is not built here: smollm bench --peers builds it")
    package = llama_package(real_folder, bundled_gguf())
    return lambda path, folder: load_llama_cpp(
        str(package), str(path), str(folder), threads=2, context=256, flash=False
    )


def greedy(backend, ids, n):
    "The likeliest tokens, and by how much each leads"
    scores, out, leads = backend.prefill(ids), [], []
    for pos in range(len(ids), len(ids) + n):
        first = np.sort(scores)[-2:]
        out.append(int(scores.argmax()))
        leads.append(float(first[1] - first[0]))
        scores = backend.decode(out[-1], pos)
    return out, leads


def agree(theirs, ours, tok, tokens=8, sure=0.5):
    "Greedy answers are the same as long as no choice is a close one: llama.cpp rounds activations to eight bits"
    same = 0
    for prompt in PROMPTS:
        ids = tok.encode(prompt)
        theirs.reset()
        ours.reset()
        (a, _), (b, leads) = greedy(theirs, ids, tokens), greedy(ours, ids, tokens)
        for x, y, lead in zip(a, b, leads):
            if x != y:
                assert lead < sure, prompt
                break
            same += 1
    return same


@pytest.mark.slow
@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_llama_cpp_runs_the_tiny_model(kind, files, llama_cpp, tmp_path):
    "Its logits are ours on the same dequantized weights: in fp16 all but exactly, else its activations have eight bits"
    folder = import_gguf(files[kind], tmp_path / "x")
    theirs, ours = llama_cpp(files[kind], folder), load(folder)
    e = evaluate(ours, theirs, np.random.default_rng(0).integers(17, 512, 512), window=128)
    theirs.close()
    # random weights with outliers make much of the rounded activations
    assert e.kl_mean < (0.001 if kind == "f16" else 0.15), e
    assert e.top1 > (0.98 if kind == "f16" else 0.6), e


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["iq4_nl", "q4_0", "q8_0"])
def test_llama_cpp_runs_the_real_model(kind, real_folder, llama_cpp, tmp_path):
    "The same tokens and answers, and logits whose distance from the original is the one that PyTorch finds"
    export_gguf(real_folder, tmp_path / "x.gguf", nearest(kind))
    folder = import_gguf(tmp_path / "x.gguf", tmp_path / "x")
    theirs, ours, tok = llama_cpp(tmp_path / "x.gguf", folder), load(folder), SmolLMTokenizer.load(folder)
    chat = tok.encode(text := "<|im_start|>user\nHi 123<|im_end|>\n", special=True)
    assert native_ids(theirs, text, True) == chat
    for text in PROMPTS:
        assert native_ids(theirs, text, False) == tok.encode(text)
    assert agree(theirs, ours, tok) >= 16
    ids = text_ids(tok, builtin_text()[0], 512)
    whole = load(real_folder)
    by_them, by_us = (evaluate(whole, x, ids).kl_mean for x in (theirs, ours))
    theirs.close()
    assert by_them == pytest.approx(by_us, rel=0.1, abs=0.006)  # eight-bit activations alone cost 0.003


def native_ids(peer, text, special):
    "The ids that llama.cpp's own tokenizer makes of a text"
    import ctypes

    lib, raw = peer._lib, text.encode()
    ids = (ctypes.c_int32 * 256)()
    n = lib.llama_tokenize(lib.llama_model_get_vocab(peer._model), raw, len(raw), ids, 256, True, special)
    return list(ids[:n])


@pytest.fixture(scope="module")
def llama_perplexity(tmp_path_factory):
    "llama.cpp's own tool for perplexity and KL on a text of 2,100 tokens: options → what it prints"
    program = os.environ.get("SMOLLM_LLAMA_PERPLEXITY") or shutil.which("llama-perplexity")
    if not program:
        pytest.skip(
            "llama-perplexity is not here: build it in llama.cpp's source (cmake --build build --target "
            "llama-perplexity) and put it on the PATH, or name it in SMOLLM_LLAMA_PERPLEXITY"
        )
    text = tmp_path_factory.mktemp("perplexity") / "text.txt"
    text.write_text(builtin_text()[0][:10_000], encoding="utf-8")

    def run(*options):
        cmd = [program, "-f", text, "-t", "1", *options]
        done = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
        return done.stdout.decode("utf-8", "replace")

    run.text = text.read_text(encoding="utf-8")
    return run


def figure(said, name):
    "A figure that llama-perplexity prints"
    return float(re.search(rf"^{re.escape(name)}\s*:\s*([\d.]+)", said, re.M)[1])


@pytest.mark.slow
def test_llama_perplexity_finds_the_same(real_folder, llama_perplexity, llama_cpp, tmp_path, monkeypatch):
    "Its perplexity, KL and first choices are those of `evaluate` in the same windows"
    from smollm_nb.bench.llama_cpp import FORMATS, LLAMA_CPP, quantize_gguf

    base, logits = tmp_path / "f16.gguf", tmp_path / "f16.kld"
    export_gguf(real_folder, base, "f16")
    said = llama_perplexity("-m", base, "-c", "512", "--kl-divergence-base", logits)
    alone = float(re.search(r"Final estimate: PPL = ([\d.]+)", said)[1])
    folder = import_gguf(base, tmp_path / "f16")
    whole, ids = load(folder), SmolLMTokenizer.load(folder).encode(llama_perplexity.text)
    windows, read = np.fromfile(logits, np.int32, 1, offset=16)[0], len(ids) // 512 * 512
    assert windows == read // 512
    assert np.fromfile(logits, np.int32, read, offset=20).tolist() == ids[:read]
    monkeypatch.setitem(FORMATS, "Q4_K_M", 15)
    for kind in ("Q4_0", "Q4_K_M"):
        path = tmp_path / f"{kind}.gguf"
        quantize_gguf(str(LLAMA_CPP.home), str(base), str(path), kind)
        said = llama_perplexity("-m", path, "-c", "512", "--kl-divergence-base", logits, "--kl-divergence")
        found = evaluate(whole, load(import_gguf(path, tmp_path / kind)), ids, window=512, warmup=256, stride=512)
        assert found.windows == windows
        # it rounds activations to eight bits, and its file of logits to 16
        assert figure(said, "Mean    KLD") == pytest.approx(found.kl_mean, abs=0.006)
        assert alone == pytest.approx(found.ppl_reference, rel=0.001)
        assert figure(said, "Mean PPL(Q)") == pytest.approx(found.ppl_candidate, rel=0.01)
        assert figure(said, "Same top p") == pytest.approx(100 * found.top1, abs=3)


@pytest.mark.slow
def test_llama_perplexity_finds_the_same_in_windows_that_overlap(real_folder, llama_perplexity, tmp_path):
    "With half the stride added to its context, it reads windows of 512"
    export_gguf(real_folder, tmp_path / "f16.gguf", "f16")
    said = llama_perplexity("-m", tmp_path / "f16.gguf", "-c", "384", "-b", "384", "--ppl-stride", "256")
    whole = load(folder := import_gguf(tmp_path / "f16.gguf", tmp_path / "f16"))
    ids = SmolLMTokenizer.load(folder).encode(llama_perplexity.text)
    found = evaluate(whole, whole, ids, window=512, stride=256)
    windows, theirs = re.findall(r"\[(\d+)\]([\d.]+),", said)[-1]
    assert int(windows) == found.windows
    assert float(theirs) == pytest.approx(found.ppl_reference, rel=0.001)
