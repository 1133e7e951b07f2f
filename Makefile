# `make setup` is quick when nothing changed: the stamp is newer than pyproject.toml.
VENV := .venv
PYTHON ?= python3
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-slow lint format bench bench-mediapipe clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "hamuco needs Python 3.11 or newer, this is " + sys.version'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "Python cannot make virtual environments here: sudo apt install python3-venv"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: setup
	$(VENV)/bin/hamuco demo $(if $(RECORDING),--recording '$(RECORDING)')

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(VENV)/bin/python -m pytest

test-slow: lint
	$(VENV)/bin/python -m pytest -m slow

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
