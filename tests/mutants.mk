.PHONY: mutants
mutants: ## plant each known defect in a copy, and see its test catch it
	@$(PYTHON) -m local.bootstrap dev
	.venv/bin/python -m tests.mutants.planted
