# Two commands do everything on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EXTRAS ?= test

.PHONY: demo test lint bench docs notebooks clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	touch $(STAMP)

demo: $(STAMP)   ## plays an hour of production traffic through Llama-3.1-70B on 8 x H100
	$(BIN)/mist-jax mode=play experiment=demo

test: $(STAMP)   ## lint, types and all tests that are not marked slow
	$(BIN)/ruff check .
	$(BIN)/pyright mist_jax
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright mist_jax

docs: $(STAMP)   ## the site in site/, warnings are errors
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python -m mkdocs build --strict

notebooks: $(STAMP)   ## all notebooks to their conclusions
	$(BIN)/python -m pip install --quiet --editable ".[notebooks]"
	$(BIN)/python -m pytest -m slow tests/test_notebooks.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run --json benchmarks.jsonl

clean:
	rm -rf $(VENV) outputs multirun
