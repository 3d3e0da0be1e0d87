# Two commands a newcomer needs: `make demo` and `make test`. Each sets up all it needs in .venv.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin
JOBS ?= 2
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo test nightly lint docs benchmarks clean

demo: .venv/.core  ## simulate a small survey, run Templates and ApPipe on it, print what came out
	$(BIN)/nightlab demo --jobs $(JOBS)

test: .venv/.test lint  ## all tests; those on real data where the data is
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not nightly"

nightly: .venv/.test  ## the tests that take minutes each: whole runs of real sky from the pages, twenty sessions
	$(BIN)/pytest -m nightly

lint: .venv/.test  ## ruff, import-linter, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: .venv/.docs  ## the documentation, into build/docs; warnings are errors
	$(BIN)/sphinx-build -q -W --keep-going docs build/docs

benchmarks: .venv/.benchmarks  ## ours and the peers' on the same input
	for room in benchmarks/bench_*.py; do $(BIN)/python $$room || exit 1; done

clean:
	rm -rf .venv demo build dist

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "NightLab needs Python 3.12 or newer; none was found. Install one, or run: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.core: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/.test: .venv/.core
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint]'
	@touch $@

.venv/.benchmarks: .venv/.core
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[benchmarks]'
	@touch $@

.venv/.docs: .venv/.core
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@
