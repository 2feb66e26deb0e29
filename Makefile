# Two commands on a fresh machine: `make demo` and `make test`. A second run installs nothing anew.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo chat test test-more bench-learning install check format bench clean

demo: .venv/installed ## watch an AI form a habit and grow it into its weights
	$(BIN)/habitus demo

chat: .venv/installed ## talk with it
	$(BIN)/habitus chat

test: .venv/installed-dev ## format, lint, types, import direction, tests with real training (20 minutes)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

test-more: .venv/installed-dev ## the whole loop with further rules
	$(BIN)/pytest -m more

bench: .venv/installed ## figures of this machine, medians of several runs
	$(BIN)/python -m bench.loop

bench-learning: .venv/installed-dev ## what is learned stays learned: hours, resumable; QUICK=1 for minutes
	$(BIN)/python -m bench.learning $(if $(QUICK),--quick,--write)

install: .venv/installed

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ .venv/installed

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
