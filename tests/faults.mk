# The fault matrix in its long form, and what else is measured of reliability: docs/reliability.md.

.PHONY: faults measure-verify

faults: ## the fault matrix: every cell 5 times, then docs/reliability.md (FAULTS="--cell NAME --runs N")
	@$(PYTHON) -m local.bootstrap dev
	.venv/bin/python -m tests.faults.matrix $(FAULTS)

measure-verify: ## how long `saldo verify` takes for a million events
	@$(PYTHON) -m local.bootstrap dev
	.venv/bin/python -m tests.faults.million
