# The deployment's own targets, included by ../Makefile. They prepare .venv-infra themselves.

INFRA_PYTHON = .venv-infra/bin/python
INFRA_PYTEST = $(INFRA_PYTHON) -m pytest -c tests/infra/pytest.ini --confcutdir=tests/infra
# Where the Pulumi CLI is kept that the engine's tests build once, about 7 minutes from nothing.
SALDO_CACHE ?= $(HOME)/.cache/saldo
PULUMI_VERSION = v3.259.0
PULUMI = $(SALDO_CACHE)/pulumi/$(PULUMI_VERSION)/bin/pulumi
# Of `make manifests`: its folder, a stack file of the shape cluster, a file of images.
MANIFESTS ?= build/manifests
STACK_FILE ?= infra_pulumi/Pulumi.cluster.yaml

.PHONY: test-infra test-infra-quick lint-infra lock-infra manifests pulumi-cli clean-infra

.venv-infra/.made: locks/infra.txt
	@$(PYTHON) -m local.bootstrap uv
	.venv/bin/uv venv --quiet --clear --python '>=3.11,<3.14' .venv-infra
	.venv/bin/uv pip sync --quiet --python $(INFRA_PYTHON) --require-hashes $<
	@touch $@

# `make test` runs the others.
test-infra: .venv-infra/.made pulumi-cli ## the deployment: the slow checks, with the real engine
	PULUMI=$(PULUMI) $(INFRA_PYTEST) -m slow tests/infra

test-infra-quick: .venv-infra/.made lint-infra ## the deployment: the program under mocks, and its policies
	$(INFRA_PYTEST) -m 'not slow' tests/infra

lint-infra: .venv-infra/.made
	$(INFRA_PYTHON) -m ruff check infra_pulumi tests/infra
	$(INFRA_PYTHON) -m ruff format --check infra_pulumi tests/infra
	$(INFRA_PYTHON) -m mypy --config-file infra_pulumi/mypy.ini

# Without Go, or without its module proxy, the engine's tests say so and are skipped.
pulumi-cli:
	@command -v go >/dev/null || { echo 'no Go: the engine tests will be skipped'; exit 0; }; \
	test -x $(PULUMI) || sh infra_pulumi/build_pulumi.sh $(PULUMI_VERSION) $(PULUMI)

manifests: .venv-infra/.made ## the objects of the shape cluster as files: make manifests IMAGES=images.yaml
	$(INFRA_PYTHON) -m infra_pulumi.render --out $(MANIFESTS) \
	  --stack-file $(STACK_FILE) $(if $(IMAGES),--images $(IMAGES))

lock-infra: ## make locks/infra.txt from pyproject.toml's dependency group
	@$(PYTHON) -m local.bootstrap uv
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --custom-compile-command 'make lock-infra' \
	  --group infra --output-file locks/infra.txt

clean-infra: ## delete the deployment's environments and what it rendered
	rm -rf .venv-infra build/manifests
