"fixc.py NB CELLID < replacement for the (single) conflict region; repeated regions separated by a line '@@@@'"
import json, re, sys
p, cid = sys.argv[1:3]; reps = sys.stdin.read().rstrip("\n").split("\n@@@@\n")
nb = json.load(open(p, encoding="utf-8"))
for c in nb["cells"]:
    if c["id"] == cid:
        s = "".join(c["source"]) + "\n"; it = iter(reps)
        s = re.sub(r"<<<<<<< ours\n.*?>>>>>>> theirs\n", lambda m: next(it) + "\n", s, flags=re.S).rstrip("\n")
        c["source"] = s.splitlines(True)
open(p, "w", encoding="utf-8").write(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
