# `make` or `make help` lists what there is. Everything runs from .venv, which any target makes when it is missing.
.DEFAULT_GOAL := help
SHELL := bash

VENV := .venv
BIN := $(VENV)/bin
# Named after the place, because an environment does not survive being moved or copied with the tree.
STAMP := $(VENV)/.installed-$(shell pwd -P | cksum | cut -d ' ' -f 1)
# Processes that share the tests of one run, one more than most machines that run them have processors, for they often wait; 0 runs
# them in this one.
TEST_WORKERS ?= 3
# Further arguments for pytest, such as ARGS="-k invoice -x".
ARGS ?=
PYTEST := $(BIN)/pytest
# buf wants a folder of its own even when it fetches nothing, and HOME may not be writable.
export BUF_CACHE_DIR := $(CURDIR)/$(VENV)/buf-cache
UV_COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
	--no-config --no-header --no-annotate --no-emit-index-url --no-emit-find-links

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-16s %s\n", $$1, $$2 }'

# ---- environment

.PHONY: setup
setup: $(STAMP) ## Make .venv and install what the lock names (again only when lock or pyproject changed)

$(STAMP): requirements-dev.lock pyproject.toml clients/python/pyproject.toml scripts/setup.sh
	@bash scripts/setup.sh $(VENV)
	@touch $@

.PHONY: lock
lock: $(STAMP) ## Write requirements.lock and requirements-dev.lock from pyproject.toml, keeping versions where possible
	$(UV_COMPILE) $(ARGS) --output-file requirements.lock
	$(UV_COMPILE) $(ARGS) --extra dev --constraints requirements.lock --output-file requirements-dev.lock

.PHONY: clean
clean: ## Remove caches and build leftovers; the environment and the database in .dunwell stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -path ./.dunwell -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- running

.PHONY: run
run: $(STAMP) ## Run a demonstration service with its own PostgreSQL and sandbox payment gateway
	$(BIN)/dunwell demo $(ARGS)

.PHONY: bench
bench: $(STAMP) ## Run the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

# ---- checking

.PHONY: test
test: $(STAMP) ## Run the tests, without the fault-injection and foreign-client suites
	$(PYTEST) tests --ignore=tests/faults --ignore=tests/clients -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-faults
test-faults: $(STAMP) ## Run the fault-injection suite, which kills processes and breaks connections
	$(PYTEST) tests/faults $(ARGS)

.PHONY: test-clients
test-clients: $(STAMP) ## Run the client suites against a running service
	$(PYTEST) tests/clients $(ARGS)

.PHONY: lint
lint: $(STAMP) ## Check style, format, types, import direction and the contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint

.PHONY: format
format: $(STAMP) ## Rewrite Python and proto files in the house format
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/buf format --write --path protos/dunwell

# ---- the contract

.PHONY: generate
generate: $(STAMP) ## Generate the Python code of the contract
	$(BIN)/python scripts/generate_protos.py

.PHONY: checkgenerate
checkgenerate: $(STAMP) ## Fail if the committed generated code is not what the contract gives
	$(BIN)/python scripts/generate_protos.py --check

.PHONY: breaking
breaking: $(STAMP) ## Fail if the contract breaks callers of the last release (protos/release.binpb)
	@test -f protos/release.binpb || { echo "protos/release.binpb is missing: make release-protos writes it" >&2; exit 1; }
	set -o pipefail; $(BIN)/buf build --path protos/dunwell --output - \
		| $(BIN)/buf breaking - --against protos/release.binpb --exclude-imports --config buf.yaml

.PHONY: release-protos
release-protos: $(STAMP) ## Make the present contract the release that `make breaking` compares with
	$(BIN)/buf build --path protos/dunwell --exclude-source-info --output protos/release.binpb
