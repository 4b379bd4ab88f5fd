# The benchmarks, included by ../Makefile. docs/performance.md says what is measured, and how.

.PHONY: bench bench-long

bench: ## Saldo against its limits, about 5 minutes: ROWS=post_cpu,get_cpu ROUNDS= SECONDS= OUT=
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m benchmarks $(if $(ROWS),--rows $(ROWS)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(if $(OUT),--out $(OUT))
