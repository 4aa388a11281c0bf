# Needs Python 3.10 or newer and make; no root, nothing outside this folder. `make help` lists the targets.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.installed-for-holdfast
MPICH  := $(VENV)/mpich/.installed-for-holdfast

# What an odd number of ranks may change; the other tests with three ranks are the campaign's.
ODD    := $(addprefix tests/mpi/,test_group.py test_redundancy.py test_recovery_mpi.py test_run_levels.py)

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench campaign clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## heat on 4 ranks: one is killed, the run resumes, the result is compared bit for bit
	$(PY) examples/demo.py

test: lint $(MPICH) ## all tests: static checks, serial (two at a time, then those that must be alone), then MPI at 1, 2, 3 and 4 ranks
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(PY) -m pytest -m alone
	$(PY) tests/run_mpi.py 1 & one=$$!; $(PY) tests/run_mpi.py 2; two=$$?; wait $$one && exit $$two
	$(PY) tests/run_mpi.py 3 $(ODD)
	$(PY) tests/run_mpi.py 4

lint: $(READY) ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: $(READY) ## measure, beside the machine's limits and others; about 25 minutes, 24 GiB of disk (BENCH=--quick: 2 minutes)
	$(PY) benchmarks/run.py $(BENCH)

campaign: $(READY) ## many runs with many faults; takes long
	$(PY) tests/run_mpi.py 3
	$(PY) tests/campaign/run.py

clean: ## remove caches and results; .venv stays, and is brought up to date by the next target
	rm -rf build dist .bench .campaign .mypy_cache .ruff_cache .pytest_cache .hypothesis $(READY)
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Made once, and again when the package's needs change. Everything from wheels, MPI as well.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Holdfast needs Python 3.10 or newer; $(PYTHON) is not. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) lacks the venv module: install it (Debian, Ubuntu: python3-venv) or name another PYTHON" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[mpi-wheels,redundancy,examples,dev]'
	@touch $@

# An environment of its own for MPICH: the wheels of two MPIs have launchers of the same name.
$(MPICH): pyproject.toml $(READY)
	$(PYTHON) -m venv $(VENV)/mpich
	$(VENV)/mpich/bin/python -m pip install --quiet --disable-pip-version-check -e '.[mpich-wheels]'
	@touch $@
