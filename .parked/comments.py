"Move trailing comments of long lines to a line of their own above; cells of notebooks and .py files"
import io, json, sys, tokenize
from pathlib import Path
LIMIT = 112 # a formatted line gains some characters
def move(src):
    if "#" not in src: return src
    body = src
    try: toks = list(tokenize.generate_tokens(io.StringIO(body).readline))
    except Exception: return src
    lines = body.split("\n"); todo = []; depth = 0; insig = False; start_of_stmt = 1; strings = set()
    for t in toks:
        if t.type == tokenize.STRING and t.start[0] != t.end[0]:
            strings |= set(range(t.start[0], t.end[0] + 1))
    depth = 0; insig = False
    for t in toks:
        if t.type == tokenize.NAME and t.string == "def" and depth == 0: insig = True
        if t.type == tokenize.OP:
            if t.string in "([{": depth += 1
            elif t.string in ")]}": depth -= 1
            elif t.string == ":" and depth == 0: insig = False
        if t.type == tokenize.COMMENT and not t.string.startswith("#|"):
            row, col = t.start; line = lines[row - 1]
            if len(line) > LIMIT and line[:col].strip() and not insig and row not in strings: todo.append((row, col, t.string))
            # the return comment of a def stands behind its colon
    for row, col, comment in reversed(todo):
        line = lines[row - 1]; code = line[:col].rstrip(); indent = line[:len(line) - len(line.lstrip())]
        if code.lstrip().startswith(("def ", ")")): continue
        words = comment.lstrip("# ").split(); out = []; cur = indent + "#"
        for w in words:
            if len(cur) + 1 + len(w) > 118: out.append(cur); cur = indent + "#"
            cur += " " + w
        out.append(cur)
        lines[row - 1:row] = [*out, code]
    return "\n".join(lines)
for root in sys.argv[1:]:
    for p in ([Path(root)] if Path(root).is_file() else sorted(Path(root).rglob("*"))):
        if p.suffix == ".ipynb" and "checkpoints" not in str(p):
            nb = json.loads(p.read_text(encoding="utf-8"))
            for c in nb["cells"]:
                if c["cell_type"] != "code": continue
                s = "".join(c["source"]); t = move(s)
                if s != t: c["source"] = t.splitlines(True)
            p.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        elif p.suffix == ".py":
            s = p.read_text(encoding="utf-8"); t = move(s)
            if s != t: p.write_text(t, encoding="utf-8")
