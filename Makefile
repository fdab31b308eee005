# Everything runs in .venv, which the first target that needs it makes.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The first Python that is new enough and can make a virtual environment; some installed names are only stubs.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$python; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-gpu lint format lock bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv and install the project into it; again only when its dependencies changed

# torch comes first, alone and by its exact version: so pip takes a CPU build where its indexes offer one. Left to the
# other packages' needs it brings several gigabytes of CUDA libraries, also to machines without a GPU.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 with venv found; install one, or say make PYTHON=path" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED) ## make a small corpus and show every step on it, in minutes
	$(BIN)/python -m pipelines.demo

# In three processes: tests on Ray often wait.
test: $(INSTALLED) ## run the tests, but the slow ones, in 19 minutes on two cores
	$(BIN)/python -m pytest -n 3

test-slow: $(INSTALLED) ## run the tests that take over a minute each
	$(BIN)/python -m pytest -m slow

test-gpu: $(INSTALLED) ## run the tests that need a GPU, and fail without one
	STTN_REQUIRE_GPU=1 $(BIN)/python -m pytest -m gpu

lint: $(INSTALLED) ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code, and mend what can be mended without thought
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## write clusters/lock*.txt anew, after a change of constraints.txt (needs uv)
	sh clusters/write_locks.sh

bench: $(INSTALLED) ## measure the engine, a job, shards, sizing, start-up and a training step, shortly
	$(BIN)/python -m benchmarks.engine --quick
	$(BIN)/python -m benchmarks.inpaint --quick
	$(BIN)/python -m benchmarks.shards --quick
	$(BIN)/python -m benchmarks.sizing --quick
	$(BIN)/python -m benchmarks.startup --quick
	$(BIN)/python -m benchmarks.train_step --quick

clean: ## remove .venv, builds and caches; what runs have written stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
