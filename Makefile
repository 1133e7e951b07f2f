# `make setup` is quick when nothing changed: the stamp is newer than pyproject.toml.
VENV := .venv
PYTHON ?= python3
STAMP := $(VENV)/.installed

define CHECK_PYTHON
$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "hamuco needs Python 3.11 or newer, this is " + sys.version' && { \
$(PYTHON) -c 'import venv, ensurepip' || { echo "Python cannot make virtual environments here: sudo apt install python3-venv"; exit 1; }; }
endef

.PHONY: setup demo test test-slow lint format bench bench-mediapipe kernels wheel clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(CHECK_PYTHON)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing about 2.5 GB of packages, torch among them, which takes some minutes"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# The synthetic clip that comes with the package, or RECORDING=folder. It needs less than the whole development set-up.
DEMO_STAMP := $(VENV)/.demo-installed

demo: $(if $(wildcard $(STAMP)),setup,$(DEMO_STAMP))
	$(VENV)/bin/hamuco demo $(RECORDING)

$(DEMO_STAMP): pyproject.toml
	@$(CHECK_PYTHON)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing about 1 GB of packages, which takes a minute or so"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[view]'
	touch $@

# Rebuilds that clip; needs software OpenGL. The same seed makes the same pictures.
CLIP := app/demo_clip

$(CLIP): | setup
	$(VENV)/bin/hamuco synth $@ --rig ring4 --seconds 8 --hands 2 --seed 10 --preset room --codec h264

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(VENV)/bin/python -m pytest

test-slow: lint
	$(VENV)/bin/python -m pytest -m slow

bench: setup
	$(VENV)/bin/python benchmarks/real_footage.py
	$(VENV)/bin/python benchmarks/set_time.py

# MediaPipe pins old libraries, so it gets an environment of its own, to throw away.
bench-mediapipe: setup
	test -x .venv-mediapipe/bin/python || $(PYTHON) -m venv .venv-mediapipe
	.venv-mediapipe/bin/python -m pip install --quiet --disable-pip-version-check mediapipe==0.10.21
	$(VENV)/bin/python benchmarks/set_time.py --mediapipe .venv-mediapipe/bin/python

# Needs nvcc of the CUDA toolkit, but no GPU.
kernels:
	$(PYTHON) engine/kernels/build.py

# With the compiled kernels in it (0.7 MB of 13): whoever installs it needs no toolkit.
wheel: setup kernels
	$(VENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) .venv-mediapipe build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
