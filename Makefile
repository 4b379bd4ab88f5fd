# The targets for work on this machine. `make up` and `make test` prepare .venv themselves.

# Any Python from 3.11 on; it only creates .venv.
PYTHON ?= python3
PYTEST = .venv/bin/python -m pytest
# Counts the lines of src that run in the tests' own processes, at a few per cent of their time.
COVERAGE = .saldo/coverage.json
COVERED = .venv/bin/python -m slipcover --source src/saldo --json --out $(COVERAGE) -m pytest
# Without an installation nothing can be running, so `down` and `status` need not install anything.
INSTALLED = ls .venv/*.stamp >/dev/null 2>&1 || { echo 'saldo: it was never started here'; exit 0; }

# What `make lint` looks at; `make lint-infra` does the rest.
LINTED = src functions local benchmarks docs tests --exclude tests/infra

# Two tests at a time by default, because their servers need the rest of a small machine.
WORKERS ?= 2

# A run in CI takes the same order and the same values each time, so that chance blocks no change.
# Every other run takes new ones and may find more. tests/conftest.py does the same for Hypothesis.
SEED ?= $(if $(CI),--randomly-seed=20261124)

# Without cached bytecode, each of a dozen processes started here would compile it again.
unexport PYTHONDONTWRITEBYTECODE
# Ports of the functions and of Kafka: make up RECORD_PORT=9080
export RECORD_PORT BALANCE_PORT PROJECT_PORT KAFKA_PORT

.DEFAULT_GOAL := help
.PHONY: help up down status demo test check lint format lock clean browser console-picture
.PHONY: simulate mutants faults measure-verify bench bench-long bench-docs reference docs-site

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

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

test: lint browser ## lint, then all tests but the slow ones
	$(COVERED) -m 'not slow' -n $(WORKERS) --maxschedchunk=2 $(SEED) $(TESTS)
	@$(MAKE) --no-print-directory test-infra-quick
	@.venv/bin/python -m local.tasks.coverage_figure $(COVERAGE)

check: ## the slow tests: faults, load, first runs
	@$(PYTHON) -m local.bootstrap dev
	$(PYTEST) -m slow $(SEED) $(TESTS)

lint: ## style, types and layers
	@$(PYTHON) -m local.bootstrap dev
	.venv/bin/ruff check $(LINTED)
	.venv/bin/ruff format --check $(LINTED)
	.venv/bin/mypy
	.venv/bin/lint-imports

format: ## format the code
	@$(PYTHON) -m local.bootstrap dev
	.venv/bin/ruff check --fix-only
	.venv/bin/ruff format

lock: ## compile locks/*.txt from pyproject.toml (UPGRADE=1: with the newest versions)
	@$(PYTHON) -m local.bootstrap uv
	@.venv/bin/python -m local.tasks.lock_files $(if $(UPGRADE),--upgrade)

clean: down ## delete all data, logs and jars of the local stack, and .venv
	rm -rf .saldo .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

browser: ## install Chromium for the console's tests, where it is missing
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m local.tasks.chromium

console-picture: browser ## render docs/console.png from what runs here (make up, make demo)
	@CONSOLE_URL=http://localhost:$(or $(BALANCE_PORT),8081)/console .venv/bin/python -m tests.console.picture

# --- reliability: docs/reliability.md ----------------------------------------------------------

simulate: ## the deterministic simulation: SEEDS=10000 FIRST=0, or one seed: SEED=17 TRACE=1
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m tests.reliability.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST),--first $(FIRST)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(TRACE),--trace)

mutants: ## plant each known defect in a copy, and check that its test catches it
	@$(PYTHON) -m local.bootstrap dev
	.venv/bin/python -m tests.reliability.mutants.planted

faults: ## the fault matrix: every cell 5 times, then docs/reliability.md (FAULTS="--cell NAME --runs N")
	@$(PYTHON) -m local.bootstrap dev
	.venv/bin/python -m tests.reliability.faults.matrix $(FAULTS)

measure-verify: ## how long `saldo verify` takes for a million events
	@$(PYTHON) -m local.bootstrap dev
	.venv/bin/python -m tests.reliability.measure_verify

# --- speed: docs/performance.md ----------------------------------------------------------------

bench: ## Saldo against its limits, about 5 minutes: ROWS=post_cpu,get_cpu ROUNDS= SECONDS= OUT=
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m benchmarks $(if $(ROWS),--rows $(ROWS)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(if $(OUT),--out $(OUT))

bench-long: ## scale curves, about 35 minutes: CURVES=connections,processes,stored,million
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m benchmarks.long $(if $(CURVES),--curves $(CURVES)) \
	  $(if $(EVENTS_MAX),--events-max $(EVENTS_MAX)) $(if $(REQUESTS),--requests $(REQUESTS)) \
	  $(if $(OUT),--out $(OUT))

bench-docs: ## write the tables of docs/ from the reports in benchmarks/reports
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m benchmarks.documents

# --- documentation -----------------------------------------------------------------------------

reference: ## the reference pages of docs/ and the OpenAPI documents from the code
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m local.tasks.reference_pages
	@.venv/bin/python -m local.tasks.metrics_page
	@.venv/bin/python -m local.tasks.modules_page
	@.venv/bin/python -m local.tasks.openapi_documents

docs-site: ## the documentation as a site, in build/site
	@$(PYTHON) -m local.bootstrap dev
	.venv/bin/python -m mkdocs build --strict --quiet

include local/images.mk infra_pulumi/infra.mk
