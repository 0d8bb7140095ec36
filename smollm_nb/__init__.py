__version__ = "0.1.0"

"The SmolLM language models, from notebooks; `Model` is the short way in"

import os

# PyTorch's OpenMP threads spin at every barrier. When another process wants the same cores, that makes a prefill of
# 256 tokens take 24 s instead of 1.3 s; a short spin costs nothing measurable on an idle machine.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# oneDNN keeps a compiled routine for each of the last 1,024 shapes; a growing context makes new ones at every token,
# which came to 650 MB after 512 tokens of a batch of 32.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

def __getattr__(name):
    if name == "Model": # imported when asked for, so that the engine never waits for it
        from smollm_nb.api import Model
        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
