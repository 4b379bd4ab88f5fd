# Container images and the stack in containers; the main Makefile includes this. docs/images.md.

# BASE_BUILD, BASE_RUN and WHEELS go to the build where they are set: make images BASE_RUN=...
export BASE_BUILD BASE_RUN WHEELS
TAG ?= dev
COMPOSE = docker compose --file local/compose.yaml $(if $(STAND_IN_BASES),--file local/compose.local-base.yaml)

.PHONY: images images-push compose-up compose-down test-images

images: ## build the container images (STAND_IN_BASES=1: on bases made here, with no registry)
	@$(PYTHON) -m local.bootstrap local
	@$(if $(STAND_IN_BASES),.venv/bin/python -m local.containers.stand_in_bases.bases)
	@.venv/bin/python -m local.containers.images --tag $(TAG) build $(if $(STAND_IN_BASES),--stand-in-bases)

images-push: ## push the images to REGISTRY=... and print their digests for the Pulumi program
	@.venv/bin/python -m local.containers.images --tag $(TAG) push $(REGISTRY)

compose-up: images ## start everything in containers
	@.venv/bin/python -m local.containers.compose_secrets
	$(COMPOSE) up --detach --no-build --wait --wait-timeout 300

compose-down: ## stop the containers; the data stay (VOLUMES=1: delete them)
	$(COMPOSE) down $(if $(VOLUMES),--volumes)

test-images: ## build the images and run them; start an engine if none runs
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m local.containers.engine $(PYTEST) -m slow -p no:randomly tests/tooling/local/test_images.py
