#!/usr/bin/env python3
"git merge driver for notebooks: %O %A %B; cells by id"
import json, subprocess, sys, tempfile, os
base, ours, theirs = (json.load(open(p, encoding="utf-8")) for p in sys.argv[1:4])
B, A, T = ({c["id"]: c for c in nb["cells"]} for nb in (base, ours, theirs))
conflict = []
def merge_text(a, b, t, cid):
    files = []
    for s in (a, b, t):
        f = tempfile.NamedTemporaryFile("w", delete=False, suffix=".txt", encoding="utf-8"); f.write(s + "\n"); f.close(); files.append(f.name)
    r = subprocess.run(["git", "merge-file", "-p", "-L", "ours", "-L", "base", "-L", "theirs", *files], capture_output=True, text=True, encoding="utf-8")
    for f in files: os.unlink(f)
    if r.returncode: conflict.append(cid)
    return r.stdout.removesuffix("\n")
def src(c): return "".join(c["source"])
out = []
# order: ours, with theirs' additions after their predecessor in theirs
order = [c["id"] for c in ours["cells"] if c["id"] in T or c["id"] not in B or src(c) != src(B[c["id"]])]
prev = None
for c in theirs["cells"]:
    i = c["id"]
    if i not in A and i not in B:
        at = order.index(prev) + 1 if prev in order else 0
        order.insert(at, i)
    elif i not in A and i in B and src(c) != src(B[i]): # changed by them, deleted by us
        conflict.append(i + " (deleted here, changed there)"); at = order.index(prev) + 1 if prev in order else 0; order.insert(at, i)
    if i in order: prev = i
for i in order:
    a, b, t = A.get(i), B.get(i), T.get(i)
    if a is None: out.append(t); continue
    if t is None:
        if b is not None: conflict.append(i + " (changed here, deleted there)")
        out.append(a); continue
    c = dict(a)
    if src(a) != src(t):
        if b and src(b) == src(a): c = dict(t)
        elif b and src(b) == src(t): pass
        else:
            m = merge_text(src(a), src(b) if b else "", src(t), i)
            c["source"] = m.splitlines(True)
    elif a.get("outputs") != t.get("outputs") and b is not None and a.get("outputs") == b.get("outputs"): c = dict(t)
    out.append(c)
ours["cells"] = out
open(sys.argv[2], "w", encoding="utf-8").write(json.dumps(ours, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
if conflict: print("notebook conflict in", sys.argv[4] if len(sys.argv) > 4 else "", conflict, file=sys.stderr)
sys.exit(bool(conflict))
