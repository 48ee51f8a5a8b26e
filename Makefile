# make demo     the whole pipeline on the synthetic Earth, from nothing but Python 3.11+
# make test     everything CI checks
#
# Both make a .venv first, once. Variables:
#   PYTHON=python3.12       the interpreter the .venv is made with
#   TORCH="torch==2.13.0"   what pip is asked for first, such as another version or a CPU index
#   ARGS="..."              more arguments for the command of the target
#   ROUNDS=10               how many times `make search` looks

PYTHON ?= python3
TORCH ?= torch==2.13.0
ARGS ?=
ROUNDS ?= 10

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test quick search test-dist test-public test-cluster lint fmt types imports clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(VENV)/.demo ## shards, tokenizers, stage 2, generated maps and a report, in minutes; stop and repeat freely
	@$(BIN)/python -m launch.submit all --config configs/experiments/demo.yaml --cluster local $(ARGS)

test: $(VENV)/.dev ## all checks and all tests
	@for check in lint imports types quick test-dist test-public; do \
	    begin=$$(date +%s); \
	    $(MAKE) --no-print-directory $$check || exit; \
	    echo "== make $$check: $$(($$(date +%s) - begin)) s"; \
	done
	@begin=$$(date +%s); \
	if $(BIN)/python -m tests.cluster.packages --check; then \
	    $(MAKE) --no-print-directory test-cluster || exit; \
	    echo "== make test-cluster: $$(($$(date +%s) - begin)) s"; \
	else \
	    echo "== make test-cluster: skipped"; \
	fi

# A file's tests stay together: they share what they made.
quick: $(VENV)/.dev ## the tests that need one process
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

# Elsewhere the examples are the same each time. What is found here becomes a test of its own.
search: $(VENV)/.dev ## property tests on new random examples, ROUNDS times or until one fails
	@for round in $$(seq $(ROUNDS)); do \
	    OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 -q --hypothesis-profile=search \
	        -m "hypothesis and not (dist or mpi or browser or demo or cluster)" $(ARGS) || exit; \
	done

test-dist: $(VENV)/.dev ## the tests that need several ranks, MPI or a browser
	$(BIN)/python -m pytest -m "dist or mpi or browser" $(ARGS)

test-public: $(VENV)/.dev ## models of the public terratorch package against ours, in an environment made for it
	$(BIN)/python -m pytest -m terratorch $(ARGS)

# Swept also when pytest was killed and could not do it itself.
test-cluster: $(VENV)/.dev ## the tests on a real Slurm of two nodes made on this machine (root on Debian)
	@$(BIN)/python -m tests.cluster.packages
	@$(BIN)/python -m pytest -m cluster $(ARGS); code=$$?; \
	    $(BIN)/python -m tests.cluster.up --sweep; exit $$code

lint: $(VENV)/.dev ## ruff and shellcheck
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/shellcheck --external-sources slurm/*.sbatch slurm/*.sh .ci/run

fmt: $(VENV)/.dev ## format and fix what can be fixed
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/.dev ## who may import whom
	$(BIN)/lint-imports

clean: ## caches and build leftovers; .venv and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf .coverage htmlcov
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: $(PYTHON) is not Python 3.11 or newer; write make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	    echo "error: $(PYTHON) cannot make a venv; on Debian: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch comes first and by version: asked for as a dependency, pip may choose a build of several GB.
$(VENV)/.torch: | $(BIN)/python
	@echo "installing $(TORCH)"
	@$(PIP) $(TORCH)
	@touch $@

$(VENV)/.demo: setup.cfg pyproject.toml | $(VENV)/.torch
	@echo "installing the project"
	@$(PIP) -e '.[mpi]' || { \
	    echo "note: no MPI for this platform; shards are built in one process"; $(PIP) -e .; }
	@touch $@

$(VENV)/.dev: setup.cfg pyproject.toml | $(VENV)/.torch
	@echo "installing the project and its tools"
	@$(PIP) -e '.[mpi,onnx,dev]' || { \
	    echo "note: no MPI for this platform; tests that need it are skipped"; $(PIP) -e '.[onnx,dev]'; }
	@touch $@ $(VENV)/.demo
