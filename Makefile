# The commands of this project. `make` needs Python 3.10 to 3.14 on the path, and nothing else.
#
#   make demo     run the whole road on drawn data, ending in a report page
#   make test     run the tests; ARGS="-m slow --dist load" runs the slow ones
#   make lint     check style, types, layers and dead code
#   make docs     build the documentation site into build/site (Python 3.11 and later)
#   make format   let ruff mend what it can
#   make clean    remove the environment and all build products

# The first interpreter that runs and is of a supported version; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3.10 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin

# The environment is rebuilt when what it is made from changes, and reused otherwise.
RECIPE := $(shell cat pyproject.toml constraints.txt Makefile | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.made-from-$(RECIPE)

ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint docs format clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

$(STAMP):
	@test -n "$(PYTHON)" || { echo "make: no Python 3.10 to 3.14 found on the path; say PYTHON=/path/to/python" >&2; exit 2; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@# Type checkers do not follow the editable install; this is the same tree laid out as it is imported.
	mkdir -p $(VENV)/typing/tinyvit
	for room in backbones detection benchmarks export; do ln -sfn ../../../$$room $(VENV)/typing/tinyvit/$$room; done
	for part in __init__.py __main__.py cli.py mmdet.py api commands core demo pages; do ln -sfn ../../../tinyvit/$$part $(VENV)/typing/tinyvit/$$part; done
	touch $@

demo: $(STAMP)
	$(BIN)/tinyvit demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# Layers are checked in the laid-out tree: import-linter reads the package below the current folder.
	cd $(VENV)/typing && $(abspath $(BIN))/lint-imports --no-cache --no-logo $(CURDIR)/pyproject.toml
	@# Arguments and attributes are often for a library to read; functions, methods and classes are not.
	! $(BIN)/vulture | grep -E "unused (class|function|method|property|import) "
	$(BIN)/basedpyright
	@# The rules of English in CONTRIBUTING.
	$(BIN)/python docs/english.py

docs: $(STAMP)
	TINYVIT_TREE=$(VENV)/typing NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .ruff_cache
