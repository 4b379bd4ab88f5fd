# The benchmarks, included by ../Makefile. docs/performance.md says what is measured, and how.

.PHONY: bench bench-long bench-docs

bench: ## Saldo against its limits, about 5 minutes: ROWS=post_cpu,get_cpu ROUNDS= SECONDS= OUT=
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m benchmarks $(if $(ROWS),--rows $(ROWS)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(if $(OUT),--out $(OUT))

bench-long: ## scale curves, about 35 minutes: CURVES=connections,processes,stored,million
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m benchmarks.long $(if $(CURVES),--curves $(CURVES)) \
	  $(if $(EVENTS_MAX),--events-max $(EVENTS_MAX)) $(if $(REQUESTS),--requests $(REQUESTS)) \
	  $(if $(OUT),--out $(OUT))

bench-docs: ## the tables of docs/ anew from the reports in benchmarks/reports
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m benchmarks.documents
