import json, re, sys
from pathlib import Path
ALL = {"nbs/13_plots": {"_new":"new_picture","_drawable":"drawable","_numbers":"check_numbers","_short":"short_number","_count":"count_of","_spread":"spread_labels","_label_lines":"label_lines","_wrap":"wrap_cells","_ink_on":"ink_on","_tokens":"token_cells","_strip_axes":"strip_axes","_draw_cells":"draw_cells","_colour_bar":"colour_bar","_caption":"caption","_colours":"runner_colours","_who":"runner_label","_kl":"check_kl","_name":"short_name"},
 "nbs/05_quant": {"_remembered":"cached_array"},
 "nbs/11_bench": {"_bundle":"bundle_for", "_end":"end_process"},
 "nbs/14_lab": {"_bundle":"bundle_for"},
 "nbs/06_engine": {"_Part":"PartRecord","_pick_context":"pick_context","_Random":"RandomState","_Sampling":"SamplingRecord","_Shape":"ShapeRecord"}}
for folder, names in ALL.items():
    for p in Path(folder).glob("*.ipynb"):
        nb = json.loads(p.read_text(encoding="utf-8")); n = dict(names)
        if p.name.endswith("memory.ipynb"): n.pop("_end", None)
        if folder == "nbs/14_lab":
            if "llama_cpp import _bundle" not in p.read_text(): continue
        for c in nb["cells"]:
            s = t = "".join(c["source"])
            for a, b in n.items():
                if c["cell_type"] == "code" or f"`{a}`" in t: t = re.sub(rf"(?<![\w.]){a}\b(?!=[^=])", b, t)
            if s != t: c["source"] = t.splitlines(True)
        p.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
