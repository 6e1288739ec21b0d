# Everything runs in .venv, made from pinned constraints on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.installed-for-demo
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
QUICK ?=
# What the bridge, training and recipes are tried by where no further extra is installed.
LOWEST := $(addprefix tests/tuner/test_, $(addsuffix .py, peft bridge saving targets strength steps mixed tied)) \
	tests/run/test_recipe.py tests/run/test_train.py
PYTEST_ARGS ?= -n 2 --dist worksteal
export HF_HUB_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## make .venv and install the package with its tools

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	-$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib
	@touch $@

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) --editable '.[train]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

demo: $(if $(wildcard $(STAMP)),setup,$(DEMO))  ## fine-tune a real model on real data by eleven methods (QUICK=1: in three minutes)
	@# what its set-up left uncompiled is compiled once, as it is imported
	PYTHONDONTWRITEBYTECODE= $(BIN)/subspace demo $(if $(QUICK),--quick)

test: setup  ## run the whole test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-lowest:  ## run the laws and the bridge with the oldest versions that are promised
	test -x build/lowest/bin/python || $(PYTHON) -m venv build/lowest
	$(PYTHON) .ci/lowest.py > build/lowest/constraints.txt
	build/lowest/bin/python -m pip install --quiet --constraint build/lowest/constraints.txt --editable '.[study]' pytest hypothesis
	build/lowest/bin/python -m pytest tests/methods tests/optim $(LOWEST)

check: setup  ## format, lint, types, directions of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup  ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup  ## write the pages that follow from the registry: docs/methods.md and README's table
	$(BIN)/python -m subspace_tuning.docs

site: setup  ## build the site into build/site; links that lead nowhere are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

hooks: setup  ## run `make check` before every commit
	$(BIN)/pre-commit install

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

.PHONY: help setup demo test test-lowest check format docs site hooks clean
