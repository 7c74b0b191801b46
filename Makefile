# Each target makes the environment that it needs, with Python 3.11 or later: make PYTHON=python3.12 test
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# setuptools warns of every editable install, which doesn't concern users of the demo
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet
# pip compiles what it installs, but for what is editable; where Python keeps no bytecode, each process would do it again
COMPILE := $(BIN)/python -m compileall -q bencher_job
READY := $(VENV)/.ready

.PHONY: demo test lint docs pictures bench figures clean

demo: $(READY)-demo  ## find out which codec packs real text best, on all cores
	$(BIN)/python examples/compression.py $(ARGS)

test: $(READY)-test  ## run all tests, on all cores
	@echo "All tests take some minutes on 2 cores; ARGS=tests/keys runs some, ARGS='-n 0' one by one."
	$(BIN)/python -m pytest -n auto --max-worker-restart 0 --durations 3 $(ARGS)

lint: $(READY)-test $(READY)-lint  ## formatting, style, types, the order of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(READY)-docs  ## build the documentation into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html

pictures: $(READY)-test  ## run all examples and the tutorial, and draw the documentation's pictures again
	for example in compression digits reaction; do $(BIN)/python examples/$$example.py --out docs/examples || exit 1; done
	cd docs/tutorial && $(CURDIR)/$(BIN)/python pi_study.py
	$(BIN)/python docs/how-to/look_picture.py

bench: $(READY)-bench  ## measure against the peers, as ratios in one run
	$(COMPILE)
	$(BIN)/python bench/run.py $(ARGS)

figures: $(READY)-bench  ## measure all on a quiet machine, and write the documentation's figures
	$(COMPILE)
	$(BIN)/python bench/run.py --save bench/figures.json
	$(BIN)/python bench/page.py bench/figures.json > docs/explanation/figures.inc

clean:
	rm -rf $(VENV) build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(READY):
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade "pip>=25.1"
	touch $@

$(READY)-demo: $(READY) pyproject.toml
	$(INSTALL) --editable ".[demo]"
	$(COMPILE)
	touch $@

$(READY)-test: $(READY) pyproject.toml
	$(INSTALL) --editable ".[cli,compression,dask,objects,plot,postgresql,progress,scoop,slurm,table,web]" --group test
	$(COMPILE)
	touch $@

$(READY)-lint $(READY)-docs $(READY)-bench: $(READY)-%: $(READY) pyproject.toml
	$(INSTALL) --editable ".[cli,compression,dask,objects,plot,postgresql,progress,scoop,slurm,table,web]" --group $*
	$(COMPILE)
	touch $@
