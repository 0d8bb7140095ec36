__version__ = "0.1.0"

"The SmolLM language models, from notebooks; `Model` is the short way in"

def __getattr__(name):
    if name == "Model": # imported when asked for, so that the engine never waits for it
        from smollm_nb.api import Model
        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
