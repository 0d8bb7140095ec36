"Move notebooks and modules into rooms; run from the root of a clone"
import json, re, subprocess, sys
from pathlib import Path
ROOMS = [ # (number, room, [(old notebook, old module, new module)])
 ("00", "", [("00_core", "core", "core")]),
 ("01", "models", [("01_registry","registry","registry"),("01b_checkpoint","checkpoint","checkpoint"),("01c_gguf","gguf_import","gguf"),("01d_tiny","tiny","tiny"),("02_hub","hub","hub")]),
 ("02", "text", [("03_tokenizer","tokenizer","tokenizer"),("03a_template_text","template_text","template_text"),("03aa_template_values","template_values","template_values"),("03ab_template_methods","template_methods","template_methods"),("03ac_template_filters","template_filters","template_filters"),("03ad_template_expressions","template_expressions","template_expressions"),("03ae_template","template","template"),("03b_chat","chat","chat")]),
 ("03", "inference", [("04_model","model","llama"),("05_generate","generate","generation")]),
 ("04", "fidelity", [("09_evaluate","evaluate","evaluate"),("09b_anatomy","anatomy","anatomy")]),
 ("05", "quant", [("05b_formats","formats","formats"),("06_q4file","q4file","q4file"),("07_quantize","quantize","rounding"),("08_calibrate","calibrate","calibrate"),("08b_distill","distill","distill"),("10_recipes","recipes","recipes"),("10b_budget","budget","budget")]),
 ("06", "engine", [("11_kernel","kernel","build"),("12_engine","engine","native"),("12b_wasm","wasm","wasm")]),
 ("07", "browser", [("11b_vendor","vendor","vendor"),("12c_deflate","deflate","deflate"),("13_bundle","bundle","bundle"),("13b_serve","serve","serve")]),
 ("08", "", [("17_api","api","api")]),
 ("11", "bench", [("13b_runner","runner","worker"),("13c_browsers","browsers","browsers"),("13d_page","page","browser_worker"),("13e_watch","watch","memory"),("14_bench","bench","bench"),("14b_report","report","history"),("14c_peers","peers","llama_cpp"),("14d_browser_peers","browser_peers","web_peers")]),
 ("13", "plots", [("15_plots","plots","base"),("15b_quant_plots","quant_plots","quant"),("15c_tradeoff_plots","tradeoff_plots","tradeoff"),("15d_engine_plots","engine_plots","engine"),("15e_bench_plots","bench_plots","bench"),("15e_bundle_plots","bundle_plots","bundle"),("15f_headline","headline","headline")]),
 ("14", "lab", [("16_lab","lab","jobs"),("16a_view","view","view"),("16b_prompt_panel","prompt_panel","prompt_panel"),("16c_compare_view","compare_view","compare_view"),("16d_exploration","exploration","exploration"),("16e_quant_explorer","quant_explorer","quant_explorer"),("16f_browser_runner","browser_runner","browser_runner"),("16g_bench_dashboard","bench_dashboard","bench_dashboard")]),
 ("16", "cli", [("17b_terminal","terminal","output"),("17c_demo","demo","demo"),("18_cli","cli","commands")]),
]
MOD, NB = {}, {}
for num, room, items in ROOMS:
    for i, (nb, old, new) in enumerate(items, 1):
        MOD[old] = f"{room}.{new}" if room else new
        NB[nb] = f"{num}_{room}/{i:02}_{new}" if room else f"{num}_{new}"
def sh(*a): subprocess.run(a, check=True)
def exists_nb(n): return Path(f"nbs/{n}.ipynb").exists()
missing = [n for n in NB if not exists_nb(n)]
extra = [p.stem for p in Path("nbs").glob("*.ipynb") if p.stem not in NB and p.stem != "index"]
print("not there:", missing, "not mapped:", extra); assert not extra
for old, new in NB.items():
    if old in missing: continue
    Path(f"nbs/{new}.ipynb").parent.mkdir(parents=True, exist_ok=True)
    if old != new: sh("git", "mv", f"nbs/{old}.ipynb", f"nbs/{new}.ipynb")
for old, new in MOD.items():
    p = Path(f"smollm_nb/{old}.py")
    if not p.exists() or old == new: continue
    q = Path("smollm_nb")/(new.replace(".", "/") + ".py"); q.parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(f"smollm_nb/{old}.moving"); sh("git", "mv", str(p), str(tmp))
for old, new in MOD.items():
    tmp = Path(f"smollm_nb/{old}.moving")
    if not tmp.exists(): continue
    q = Path("smollm_nb")/(new.replace(".", "/") + ".py"); q.parent.mkdir(parents=True, exist_ok=True); sh("git", "mv", str(tmp), str(q))
for d, to in (("csrc","engine/csrc"),("web","browser/runtime"),("widgets","lab/widgets"),("peer_pages","bench/peer_pages")):
    Path(f"smollm_nb/{to}").parent.mkdir(parents=True, exist_ok=True); sh("git", "mv", f"smollm_nb/{d}", f"smollm_nb/{to}")
old_alt = "|".join(sorted(map(re.escape, MOD), key=len, reverse=True))
RX = re.compile(rf"\bsmollm_nb\.({old_alt})\b(?!\.(?:py|ipynb)\b)")
PATHS = re.compile(rf"\bsmollm_nb/({old_alt})\.py\b")
def text(s):
    s = RX.sub(lambda m: "smollm_nb." + MOD[m[1]], s)
    s = PATHS.sub(lambda m: "smollm_nb/" + MOD[m[1]].replace(".", "/") + ".py", s)
    def several(m): # from smollm_nb import kernel, vendor
        names = [n.strip() for n in m[1].split(",")]
        if not any(n.split(" as ")[0] in MOD for n in names): return m[0]
        out = []
        for n in names:
            base, _, alias = n.partition(" as ")
            if base not in MOD or "." not in MOD[base]: out.append(f"from smollm_nb import {n}"); continue
            room, new = MOD[base].rsplit(".", 1)
            out.append(f"from smollm_nb.{room} import {new}" + (f" as {alias or base}" if (alias or base) != new else ""))
        return m[2].join([]) if False else ("\x00".join(out))
    s2 = re.sub(r"from smollm_nb import ([a-z_]+(?: as \w+)?(?:, [a-z_]+(?: as \w+)?)*)()", several, s)
    return s2
def lines_with_breaks(s, nl):
    # a \x00 stands where one import became several
    def fix(m):
        indent = m[1]; return indent + m[2].replace("\x00", nl + indent)
    return re.sub(r"(?m)^([ \t]*)(.*\x00.*)$", fix, s) if "\x00" in s else s
def source(s):
    s = text(s)
    s = "\n".join((l if "\x00" not in l else (l.replace("\x00", "; ") if re.match(r'\s*(code|subprocess|\$|.*-c )', l) or l.lstrip().startswith(("'", '"')) else "\n".join((re.match(r"\s*", l)[0] + part) if i else part for i, part in enumerate(l.split("\x00")))) ) for l in s.split("\n"))
    return s
for p in sorted(Path("nbs").rglob("*.ipynb")):
    if ".ipynb_checkpoints" in str(p): continue
    nb = json.loads(p.read_text(encoding="utf-8")); stem = p.relative_to("nbs").with_suffix("").as_posix()
    for c in nb["cells"]:
        s = "".join(c["source"]); t = source(s)
        t = re.sub(rf"^#\| default_exp ({old_alt})$", lambda m: "#| default_exp " + MOD[m[1]], t, flags=re.M)
        def link(m):
            new = NB.get(m[1])
            if not new: return m[0]
            return f"](./{new}.ipynb)" if p.parent == Path("nbs") else "](" + ("../" + new if "/" in new else "../" + new) + ".ipynb)"
        t = re.sub(r"\]\(\./([0-9a-z_]+)\.ipynb\)", link, t)
        t = re.sub(r"\b(" + "|".join(map(re.escape, NB)) + r")\b", lambda m: NB[m[1]] if c["cell_type"] == "markdown" else m[1], t) if c["cell_type"] == "markdown" else t
        if t != s: c["source"] = t.splitlines(True)
        for o in c.get("outputs", []):
            j = json.dumps(o, ensure_ascii=False); k = RX.sub(lambda m: "smollm_nb." + MOD[m[1]], j)
            if j != k: c["outputs"][c["outputs"].index(o)] = json.loads(k)
    p.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
for p in [*Path("tests").rglob("*.py"), *Path("tests").rglob("*.js"), *Path("tests").rglob("*.mjs"), Path("setup.py"), Path("Makefile"), Path("pyproject.toml"), *Path("smollm_nb").rglob("*.js"), *Path("smollm_nb").rglob("*.json")]:
    s = p.read_text(encoding="utf-8"); t = source(s)
    if s != t: p.write_text(t, encoding="utf-8")
