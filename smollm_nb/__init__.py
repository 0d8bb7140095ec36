"""Load, look at, quantize and ship the SmolLM language models.

The shortest program:

    from smollm_nb import Model
    m = Model("SmolLM2-135M-Instruct").load()
    print(m.generate_text("The capital of France is", max_tokens=8))

What most people touch (each is imported when it is first used, so that `import smollm_nb` takes no time):

    Model              a language model by name: load, generate, chat, quantize, evaluate, export
    ModelRegistry      which models there are, and what is known of each
    fetch, validate    a model from the hub into a checked folder; the check alone
    SmolLMTokenizer    text to token ids and back
    generate           the generation loop, for any backend
    quantize           a checkpoint to four or eight bits a weight (SmolLMQuantizer: the same as a class)
    evaluate           what a quantized model costs: KL divergence, top-1 agreement, perplexity
    export             a folder that runs the model in any browser
    finetune           a model of your own from a file of examples
    trace              one forward pass that keeps what the model computes: the way to look inside
    benchmark          speed and memory, beside llama.cpp and others
    sweep              a table of many quantized models, on all processors or a cluster
    PromptPanel, CompareView, XRay, QuantExplorer, BrowserRunner, BenchDashboard, TunePanel, SweepView
                       views for JupyterLab

The rooms, in the order in which they import each other: `models` (from a name to a checked folder), `text` (tokens and
conversations), `inference` (the readable Llama and the generation loop), `fidelity` (what a change costs), `quant`
(four bits a weight), `engine` (the C kernel), `browser` (the exported folder), `explore` (what is inside a model),
`tune` (a model of your own), `api` (`Model`), `bench`, `scale` (many runs), `plots`, `lab` (JupyterLab), `cli`
(the `smollm` command). ARCHITECTURE.md shows how they fit together.
"""

__version__ = "0.1.0"

import os
from importlib import import_module

# PyTorch's OpenMP threads spin at every barrier. When another process wants the same cores, that makes a prefill of
# 256 tokens take 24 s instead of 1.3 s; a short spin costs nothing measurable on an idle machine.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# oneDNN keeps a compiled routine for each of the last 1,024 shapes; a growing context makes new ones at every token,
# which came to 650 MB after 512 tokens of a batch of 32.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

_EXPORTS = {  # name → the module that it is imported from when it is first used
    "Model": "api",
    "ModelRegistry": "models.registry",
    "fetch": "models.hub",
    "validate": "models.checkpoint",
    "SmolLMTokenizer": "text.tokenizer",
    "generate": "inference.generation",
    "quantize": "quant.recipes",
    "SmolLMQuantizer": "quant.recipes",
    "evaluate": "fidelity.evaluate",
    "export": "browser.bundle",
    "finetune": "tune.finetune",
    "trace": "explore.trace",
    "benchmark": "bench.suite",
    "sweep": "scale.sweep",
    "PromptPanel": "lab.prompt_panel",
    "CompareView": "lab.compare_view",
    "XRay": "lab.xray",
    "QuantExplorer": "lab.quant_explorer",
    "BrowserRunner": "lab.browser_runner",
    "BenchDashboard": "lab.bench_dashboard",
    "TunePanel": "lab.tune_panel",
    "SweepView": "lab.sweep_view",
}


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*_EXPORTS, "__version__"])
