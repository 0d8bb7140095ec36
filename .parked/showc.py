import json,re,glob
for p in sorted(glob.glob('nbs/**/*.ipynb',recursive=True)):
    for c in json.load(open(p))['cells']:
        s=''.join(c['source'])+"\n"
        for m in re.finditer(r'<<<<<<< ours\n.*?>>>>>>> theirs',s,re.S): print('#####',p,c['id']); print(m[0][:4000])
