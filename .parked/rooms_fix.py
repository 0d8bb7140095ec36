import json, re
from pathlib import Path
def sub(p, *pairs):
    s = Path(p).read_text(encoding="utf-8")
    for a, b in pairs:
        if a not in s: print("!! not found", p, repr(a)[:100]); continue
        s = s.replace(a, b)
    Path(p).write_text(s, encoding="utf-8")
def nbsub(p, *pairs):
    nb = json.loads(Path(p).read_text(encoding="utf-8")); seen = set()
    for c in nb["cells"]:
        s = t = "".join(c["source"])
        for a, b in pairs:
            if a in t: seen.add(a); t = t.replace(a, b)
        if s != t: c["source"] = t.splitlines(True)
    for a, _ in pairs:
        if a not in seen: print("!! not found", p, repr(a)[:100])
    Path(p).write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
sub('settings.ini',('recursive = False','recursive = True'),('smollm_nb.cli:main','smollm_nb.cli.commands:main'))
sub('pyproject.toml',('recursive = false','recursive = true'))
sub('MANIFEST.in',('prune smollm_nb/_native','prune smollm_nb/engine/_native\nprune smollm_nb/browser/_vendor'))
sub('.gitignore',('smollm_nb/_native/','smollm_nb/engine/_native/\nsmollm_nb/browser/_vendor/'))
sub('.gitattributes',('smollm_nb/*.py linguist','smollm_nb/**/*.py linguist'))
sub('Makefile',('smollm_nb/_native/build.json','smollm_nb/engine/_native/build.json'),('smollm_nb/web/package-lock.json $(wildcard smollm_nb/csrc/* smollm_nb/web/*.js)','smollm_nb/browser/runtime/package-lock.json $(wildcard smollm_nb/engine/csrc/* smollm_nb/browser/runtime/*.js)'),
  ("from smollm_nb.engine import build as kernel; from smollm_nb.browser import vendor; kernel.build(); vendor.build()","from smollm_nb.browser import vendor; from smollm_nb.engine import build; build.build(); vendor.build()"))
sub('setup.py',('''def module(name:str) -> dict:
    "The names of kernel.py or vendor.py, which need no other module and no package but ziglang and Node's"
    return runpy.run_path(str(ROOT/"smollm_nb"/f"{name}.py"))''','''def module(path:str) -> dict:
    "The names of engine/build.py or browser/vendor.py, which need no other module and no package but ziglang and Node's"
    return runpy.run_path(str(ROOT/"smollm_nb"/path))'''),('module("kernel")','module("engine/build.py")'),('module("vendor")','module("browser/vendor.py")'),
 ('"csrc/*", "web/*", "web/**/*", "widgets/*", "peer_pages/*", "_native/*", "_native/vendor/*", "_native/vendor/own/*"','"engine/csrc/*", "engine/_native/*", "browser/runtime/*", "browser/runtime/**/*", "browser/_vendor/*", "browser/_vendor/own/*", "lab/widgets/*", "bench/peer_pages/*"'))
C='nbs/00_core.ipynb'
nbsub(C,('''## Where models live''','''## Where things lie''') if False else ('''#| export
def cache_dir() -> Path:''','''#| export
PACKAGE = Path(globals().get("__file__", "../smollm_nb/core.py")).resolve().parent # the folder of the package

def cache_dir() -> Path:'''))
nbsub('nbs/06_engine/01_build.ipynb',('PACKAGE = Path(globals().get("__file__", "../smollm_nb/engine/build.py")).resolve().parent\nCSRC, NATIVE = PACKAGE/"csrc", PACKAGE/"_native"','HERE = Path(globals().get("__file__", "../../smollm_nb/engine/build.py")).resolve().parent\nCSRC, NATIVE = HERE/"csrc", HERE/"_native"'))
nbsub('nbs/07_browser/01_vendor.ipynb',('PACKAGE = Path(globals().get("__file__", "../smollm_nb/browser/vendor.py")).resolve().parent\nWEB, VENDOR = PACKAGE/"web", PACKAGE/"_native"/"vendor"','HERE = Path(globals().get("__file__", "../../smollm_nb/browser/vendor.py")).resolve().parent\nRUNTIME, VENDOR = HERE/"runtime", HERE/"_vendor"'),('web=WEB','runtime=RUNTIME'),)
nbsub('nbs/07_browser/03_bundle.ipynb',('ABI, NATIVE, PACKAGE, library','ABI, NATIVE, library'),('import VENDOR, small','import RUNTIME, VENDOR, small'),('(PACKAGE/"web")','RUNTIME'))
nbsub('nbs/11_bench/01_worker.ipynb',('from smollm_nb.engine.build import PACKAGE\n',''))
nbsub('nbs/11_bench/08_web_peers.ipynb',('from smollm_nb.engine.build import PACKAGE\n',''),('PACKAGE/"web"','RUNTIME'),('PACKAGE/"peer_pages"','PACKAGE/"bench"/"peer_pages"'))
nbsub('nbs/14_lab/01_jobs.ipynb',('from smollm_nb.engine.build import PACKAGE',''),('PACKAGE/"widgets"','PACKAGE/"lab"/"widgets"'))
sub('tests/kernel_lib.py',('/"smollm_nb"/"csrc"','/"smollm_nb"/"engine"/"csrc"'))
sub('tests/test_lab.py',('from smollm_nb.engine.build import PACKAGE','from smollm_nb.core import PACKAGE'),('PACKAGE/"web"','PACKAGE/"browser"/"runtime"'))
sub('tests/test_wheel.py',('"_native", "build"','"_native", "_vendor", "build"'),('smollm_nb/_native/vendor/','smollm_nb/browser/_vendor/'),('smollm_nb/_native/','smollm_nb/engine/_native/'),('smollm_nb/csrc','smollm_nb/engine/csrc'),
 ('("web", "widgets", "peer_pages")','("browser/runtime", "lab/widgets", "bench/peer_pages")'),('"kernel.py"','"engine/build.py"'),('kernel.PACKAGE','kernel.HERE'),('src/"smollm_nb"/"_native"/"vendor"','src/"smollm_nb"/"browser"/"_vendor"'),
 ('src/"smollm_nb"/"_native"','src/"smollm_nb"/"engine"/"_native"'),('src/"smollm_nb"/"csrc"','src/"smollm_nb"/"engine"/"csrc"'),('src/"smollm_nb"/"web"','src/"smollm_nb"/"browser"/"runtime"'))
sub('tests/web/unit.test.js',('smollm_nb/web/','smollm_nb/browser/runtime/'))
def nbre(p, *pairs):
    nb = json.loads(Path(p).read_text(encoding="utf-8"))
    for c in nb["cells"]:
        s = t = "".join(c["source"])
        for a, b in pairs: t = re.sub(a, b, t)
        if s != t: c["source"] = t.splitlines(True)
    Path(p).write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
nbre('nbs/07_browser/01_vendor.ipynb', (r'\bWEB\b','RUNTIME'), (r'\bweb\b','runtime'))
for p in ('nbs/11_bench/01_worker.ipynb','nbs/11_bench/08_web_peers.ipynb','nbs/14_lab/01_jobs.ipynb'):
    nb = json.loads(Path(p).read_text(encoding="utf-8"))
    for c in nb["cells"]:
        t = "".join(c["source"])
        if "#| export" in t and "from smollm_nb.core import " in t:
            if "PACKAGE," in t: break
            c["source"] = t.replace("from smollm_nb.core import ", "from smollm_nb.core import PACKAGE, ", 1).rstrip("\n").splitlines(True); break
    Path(p).write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
nbre('nbs/11_bench/08_web_peers.ipynb', (r'from smollm_nb\.browser\.vendor import (?!RUNTIME)', 'from smollm_nb.browser.vendor import RUNTIME, '))
sub('tests/test_generated.py',('"nbs/*.ipynb", "smollm_nb/*.py"','"nbs/**/*.ipynb", "smollm_nb/**/*.py"'))
sub('tests/test_notebooks.py',('sorted(p.stem for p in NBS.glob("*.ipynb"))','sorted(p.relative_to(NBS).with_suffix("").as_posix() for p in NBS.rglob("[!.]*.ipynb"))'),
 (r'#\|\s*default_exp (\w+)',r'#\|\s*default_exp ([\w.]+)'),('monkeypatch.chdir(NBS)','monkeypatch.chdir((NBS/name).parent)'),('CaptureShell(path=str(NBS),','CaptureShell(path=str((NBS/name).parent),'))
