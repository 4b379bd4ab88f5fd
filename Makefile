# Everything one does with Saldo on this machine. `make up` and `make test` prepare .venv themselves.

# Any Python from 3.11 on; it only creates .venv.
PYTHON ?= python3
PYTEST = .venv/bin/python -m pytest
# Where nothing was ever installed nothing runs, and nothing needs to be installed to say so.
INSTALLED = ls .venv/*.stamp >/dev/null 2>&1 || { echo 'saldo: it was never started here'; exit 0; }

# What `make lint` looks at; `make lint-infra` does the rest.
LINTED = src functions local benchmarks tests --exclude tests/infra

# Two tests at a time by default: the servers that they share need the rest of a small machine.
WORKERS ?= 2

# A run in CI draws the same order and the same values each time, so that luck stops nobody's change;
# every other run draws anew, and finds. tests/conftest.py does the same for Hypothesis.
SEED ?= $(if $(CI),--randomly-seed=20261124)

# Bytecode that is not kept is compiled again by each of a dozen processes that start here.
unexport PYTHONDONTWRITEBYTECODE
# Ports of the functions: make up RECORD_PORT=9080
export RECORD_PORT BALANCE_PORT PROJECT_PORT

.DEFAULT_GOAL := help
.PHONY: help up down status demo test check lint format lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

up: ## start everything here until Ctrl-C (DETACH=1: in the background)
	@$(PYTHON) -m local.bootstrap local
	@.venv/bin/python -m local.stack up $(if $(DETACH),--detach)

down: ## stop what `make up DETACH=1` started; the data stay
	@$(INSTALLED) && .venv/bin/python -m local.stack down

status: ## what runs
	@$(INSTALLED) && .venv/bin/python -m local.stack status

demo: ## record a year of several accounts in what `make up` started
	@$(PYTHON) -m local.bootstrap local
	@RECORD_URL=http://127.0.0.1:$(or $(RECORD_PORT),8080) .venv/bin/saldo demo

test: lint ## lint, then all tests but the slow ones
	$(PYTEST) -m 'not slow' -n $(WORKERS) --maxschedchunk=2 $(SEED) $(TESTS)
	@$(MAKE) --no-print-directory test-infra-quick

check: ## the slow tests: faults, load, first runs
	@$(PYTHON) -m local.bootstrap dev
	$(PYTEST) -m slow $(SEED) $(TESTS)

lint: ## style, types and layers
	@$(PYTHON) -m local.bootstrap dev
	.venv/bin/ruff check $(LINTED)
	.venv/bin/ruff format --check $(LINTED)
	.venv/bin/mypy
	.venv/bin/lint-imports

format: ## put the code into its format
	@$(PYTHON) -m local.bootstrap dev
	.venv/bin/ruff check --fix-only
	.venv/bin/ruff format

lock: ## make locks/*.txt anew from pyproject.toml (UPGRADE=1: with the newest versions)
	@$(PYTHON) -m local.bootstrap uv
	@.venv/bin/python -m local.lock $(if $(UPGRADE),--upgrade)

clean: down ## delete all data, logs and jars of the local stack, and .venv
	rm -rf .saldo .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

include $(wildcard */*.mk)
