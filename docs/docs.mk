# The reference pages that are made from the code.

.PHONY: reference

reference: ## make docs/settings.md and docs/cli.md anew from the code
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m local.reference
