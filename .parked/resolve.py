"resolve.py NB ours|theirs [cell ids]: keep one side of conflict markers in cells"
import json, re, sys
p, side, *ids = sys.argv[1:]
nb = json.load(open(p, encoding="utf-8"))
rx = re.compile(r"<<<<<<< ours\n(.*?)(?:\|\|\|\|\|\|\| base\n.*?)?=======\n(.*?)>>>>>>> theirs\n?", re.S)
for c in nb["cells"]:
    s = "".join(c["source"])
    if "<<<<<<< ours" in s and (not ids or c["id"] in ids):
        t = rx.sub(lambda m: m[1] if side == "ours" else m[2] if side == "theirs" else m[1] + m[2], s + "\n").rstrip("\n")
        c["source"] = t.splitlines(True)
json.dump(nb, open(p, "w", encoding="utf-8"), indent=1, ensure_ascii=False, sort_keys=True); open(p, "a").write("\n")
