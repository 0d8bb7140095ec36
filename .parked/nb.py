#!/usr/bin/env python3
"""nb.py list NB | show NB [ID..] | set NB ID FILE | add NB AFTER_ID code|markdown FILE [NEWID] | del NB ID | sub NB ID OLDFILE NEWFILE
FILE '-' is stdin. IDs are the cell ids (as in the exported .py's '# %% ... #id' lines). set clears the outputs of a code cell only if its source changed."""
import json, sys, uuid
def load(p): return json.load(open(p, encoding="utf-8"))
def save(p, nb): open(p, "w", encoding="utf-8").write(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
def rd(f): return (sys.stdin.read() if f == "-" else open(f, encoding="utf-8").read()).rstrip("\n")
def lines(s): return s.splitlines(keepends=True)
def main():
    cmd, p, *a = sys.argv[1:]
    nb = load(p); cells = nb["cells"]; at = {c.get("id"): i for i, c in enumerate(cells)}
    if cmd == "list":
        for c in cells:
            s = "".join(c["source"]); print(c.get("id"), c["cell_type"][:4], len(s.splitlines()), repr(s[:90]))
    elif cmd == "show":
        for c in cells:
            if not a or c.get("id") in a: print(f"##### {c.get('id')} {c['cell_type']}"); print("".join(c["source"])); 
    elif cmd == "set":
        c = cells[at[a[0]]]; c["source"] = lines(rd(a[1]))
        if c["cell_type"] == "code": c["outputs"] = []
        save(p, nb)
    elif cmd == "sub":
        c = cells[at[a[0]]]; s = "".join(c["source"]); old, new = rd(a[1]), rd(a[2])
        assert s.count(old) == 1, s.count(old); c["source"] = lines(s.replace(old, new)); save(p, nb)
    elif cmd == "add":
        c = dict(cell_type=a[1], id=a[3] if len(a) > 3 else uuid.uuid4().hex[:8], metadata={}, source=lines(rd(a[2])))
        if a[1] == "code": c |= dict(execution_count=None, outputs=[])
        cells.insert(at[a[0]] + 1, c); save(p, nb); print(c["id"])
    elif cmd == "del":
        del cells[at[a[0]]]; save(p, nb)
main()
