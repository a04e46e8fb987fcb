# Everything starts here: `make help`. PYTHON=... uses an interpreter that is set up already; without it a .venv is made.
ifeq ($(origin PYTHON), undefined)
PYTHON := .venv/bin/python
READY := .venv/ready
endif
SYSTEM_PYTHON ?= python3
SCRIPTS = $$($(PYTHON) -c "import sysconfig; print(sysconfig.get_path('scripts'))")

PAGES = $(or $(NB),$(wildcard nbs/*/[0-9]*.ipynb nbs/tutorials/*.ipynb nbs/explanations/*.ipynb))

.PHONY: help demo test test-all check check-docs lab notebooks readme docs bench gpu clean

help: ## list what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(READY) ## see a network fall for a shortcut, and MaskTune pull it out (under 3 minutes); results in runs/demo
	@$(SCRIPTS)/masktune run biased_mnist -p n_seeds=3 -p epochs=8 --out runs/demo

# processes of one thread each: small networks gain little from a second thread; a third process works while tests of Slurm and of killed runs wait
test: export OMP_NUM_THREADS ?= 1
test: $(READY) ## all tests but the slow ones
	$(PYTHON) -m pytest -q -m "not slow" --durations=15 -n 3 --dist loadscope --no-loadscope-reorder
	$(SCRIPTS)/nbdev_test --n_workers 2 $(if $(MASKTUNE_DATA),--flags data)

test-all: $(READY) ## the slow ones as well
	$(PYTHON) -m pytest -q --durations=10
	$(SCRIPTS)/nbdev_test --flags "slow $(if $(MASKTUNE_DATA),data)"

check: $(READY) ## notebooks are clean, and the library and README are what they say
	$(PYTHON) -m pytest -q tests/test_project.py tests/test_docs.py tests/test_style.py

check-docs: $(READY) ## every page is whole: outputs, links, alt texts, sidebar, README; nothing exported is undocumented
	@$(PYTHON) tests/docs.py

lab: $(READY) ## open JupyterLab on the notebooks
	$(PYTHON) -m jupyterlab nbs

notebooks: $(READY) ## export the library, run its pages in place (one: NB=nbs/training/01_loop.ipynb), note what ran, clean them
	$(SCRIPTS)/nbdev_export
	MASKTUNE_LOG=/dev/null $(PYTHON) tests/docs.py run $(PAGES)
	$(SCRIPTS)/nbdev_clean

bench: $(READY) ## measure maps, masks, training and reading side by side (a quarter of an hour on two cores); results/bench_<device>.csv; ONLY=DFR,start for some rows
	BENCH_ONLY=$(ONLY) MASKTUNE_LOG=/dev/null $(PYTHON) tests/docs.py run nbs/experiments/bench.ipynb
	$(SCRIPTS)/nbdev_clean

gpu: $(READY) ## tests, speed and the papers' experiments on this machine's GPU; ARGS="--minutes 8 --data FOLDER"; results/gpu
	$(PYTHON) -c "from masktune.runs.cli import main; main()" selftest $(ARGS)

docs: $(READY) ## render the site into _docs, where Quarto is installed
	@command -v quarto >/dev/null || { echo "The site is rendered by Quarto, which is not installed: get it from https://quarto.org/docs/get-started. The notebooks themselves hold all text and pictures: make lab."; exit 1; }
	$(SCRIPTS)/nbdev_docs
	$(MAKE) readme

readme: $(READY) ## write what comes from the notebooks: README.md, the index of names, the gallery, llms.txt
	$(PYTHON) tests/generated.py

clean: ## remove what was made, but not results/
	rm -rf .venv runs _docs _proc build dist *.egg-info

.venv/ready: pyproject.toml
	@$(SYSTEM_PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "masktune needs Python 3.11 or newer; this is $$($(SYSTEM_PYTHON) --version). Name another: make SYSTEM_PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(SYSTEM_PYTHON) -c "import ensurepip, venv" 2>/dev/null || { echo "This Python came without venv and ensurepip. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(SYSTEM_PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet --no-compile --editable ".[dev]"
	@.venv/bin/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib >/dev/null 2>&1 || true  # on all cores, which pip doesn't; templates among the files don't compile
	@touch $@
