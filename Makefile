# `make demo` and `make test` work on a fresh clone: they install once, then never again
# until pyproject.toml or constraints.txt changes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# For the smaller CPU-only torch: make install PIP_FLAGS='--extra-index-url https://download.pytorch.org/whl/cpu'
PIP_FLAGS ?=
# Empty runs the benchmarks at their full scale, which takes an hour.
BENCH_SCALE ?= --quick

# The tests and the demo use what ships in this repository and nothing else.
demo test bench notebooks: export HF_HUB_OFFLINE := 1
demo test bench notebooks: export TOKENIZERS_PARALLELISM := false
notebooks: export HF_HUB_DISABLE_PROGRESS_BARS := 1

.PHONY: help install demo test lint bench notebooks picture clean

help: ## Show this text.
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with every extra, at the tested versions.

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make install PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[all]'
	@# The stock class of a test's program; it asks for an older huggingface-hub than transformers.
	$(BIN)/python -m pip install --quiet --no-deps langchain-huggingface==1.2.3
	@touch $@

demo: $(STAMP) ## Ask the shipped model in every mode; prints a table, draws a routing heat map.
	@$(BIN)/lag demo

test: $(STAMP) ## Run the tests (no network, no GPU).
	@$(BIN)/python -m pytest

lint: $(STAMP) ## Check format, style and types.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

notebooks: $(STAMP) ## Run the cookbook; RUN='--write 3' keeps what notebook 3 prints.
	@$(BIN)/python cookbook/run.py $(RUN)

picture: demo ## Make the README's picture anew.
	@cp demo-output/routing.png cookbook/routing.png

# All but the one that needs a GPU.
BENCHMARKS := $(sort $(filter-out %/bench_gpu.py,$(wildcard tests/benchmarks/bench_*.py)))

bench: $(STAMP) ## Run the benchmark programs at a small scale; BENCH_SCALE= runs them in full.
	@for program in $(BENCHMARKS); do \
		echo "== $$program"; $(BIN)/python "$$program" $(BENCH_SCALE) || exit 1; done

clean: ## Remove .venv, caches and the demo's output.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache demo-output
