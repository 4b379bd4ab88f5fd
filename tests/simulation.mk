# The simulation on demand; `make test` and `make check` run some of its seeds, too.

.PHONY: simulate

simulate: ## the deterministic simulation: SEEDS=10000 FIRST=0, or one seed: SEED=17 TRACE=1
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST),--first $(FIRST)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(TRACE),--trace)
