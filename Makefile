# Two commands on a fresh machine:  make demo   make test
# Each installs what is missing (Debian packages when root, else it prints the line to run).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
PYTEST_ARGS ?=
# Two at once, since many tests wait for a daemon or a launcher; neighbours stay in one process,
# which starts their services once. `make test WORKERS=0` runs one after the other.
WORKERS ?= 2

.PHONY: help demo test check docs system clean

help:
	@echo "make demo    first campaign, end to end, in ./$(DEMO)"
	@echo "make test    everything installed, all tests, nothing skipped"
	@echo "make check   ruff, mypy, import layers, documentation build"
	@echo "make docs    documentation site in ./site"
	@echo "make clean   remove $(VENV) and build products (not ./$(DEMO))"

system:
	@sh scripts/install-system.sh

# The stamps are files, so that an unchanged pyproject.toml installs nothing.
$(BIN)/python: | system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77"

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[local,webgui,agents]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.demo

demo: system $(VENV)/.demo
	$(BIN)/orionflow demo $(DEMO) $(DEMO_ARGS)

test: system $(VENV)/.dev
	ORIONFLOW_REQUIRE_ALL=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

check: system $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet

docs: system $(VENV)/.dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
