import ast, sys
from pathlib import Path
P=Path("smollm_nb")
ORDER="core models text inference fidelity quant engine browser api explore tune bench scale plots lab serving cli".split()
def room(m): return m.split(".")[0]
for p in sorted(P.rglob("*.py")):
    if p.name.startswith("_"): continue
    mod=".".join(p.relative_to(P).with_suffix("").parts)
    for n in ast.walk(ast.parse(p.read_text())):
        if isinstance(n, ast.ImportFrom):
            if n.level:
                base=list(p.relative_to(P).parent.parts); base=base[:len(base)-(n.level-1)] if n.level>1 else base
                tgt=".".join([*base, *( [n.module] if n.module else [])])
            elif (n.module or "").startswith("smollm_nb"): tgt=n.module.removeprefix("smollm_nb").lstrip(".")
            else: continue
            tgts=[tgt] if tgt and (P/(tgt.replace(".","/")+".py")).exists() else [f"{tgt}.{a.name}".lstrip(".") for a in n.names]
            for t in tgts:
                if t in("__version__","Model"): print(mod,"->",t); continue
                a,b=ORDER.index(room(mod)),ORDER.index(room(t))
                if b>a: print("UP",mod,"->",t, "late" if n.col_offset else "")
            priv=[a.name for a in n.names if a.name.startswith("_") and a.name!="__version__"]
            if priv: print("PRIV",mod,t,priv)
