# The reference pages that are made from the code.

.PHONY: reference

reference: ## make docs/settings.md, docs/cli.md and docs/metrics.md anew from the code
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m local.reference
	@.venv/bin/python -m local.metrics_doc
