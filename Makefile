# Every target sets itself up: on a fresh machine only Python 3.11+ (with venv) and make are needed.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# One intra-op thread: the environments use one each, and small networks are no faster with more.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test lint perf tables

help:
	@echo "make demo    train the agent for a few rounds, compare it with scripted ones: a table and a picture"
	@echo "make test    run the test suite"
	@echo "make lint    ruff and mypy"
	@echo "make perf    measure every speed of docs/performance.md and write its tables (an hour)"
	@echo "make tables  rewrite the generated tables in docs/"

demo: $(VENV)/.installed
	$(RUN) -m esper_agents.demo

test: $(VENV)/.installed
	$(RUN) -m pytest

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

perf: $(VENV)/.installed
	$(RUN) -m benchmarks.perf run
	$(RUN) -m benchmarks.perf report

tables: $(VENV)/.installed
	$(RUN) docs/tables.py

$(VENV)/.installed: pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -e ".[dev]"
	touch $@
