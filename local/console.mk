# The console's browser: its tests, and the picture of docs/console.md; the main Makefile includes this.

.PHONY: browser console-picture

test: browser

browser: ## install Chromium for the console's tests, where it is missing
	@$(PYTHON) -m local.bootstrap dev
	@.venv/bin/python -m local.browser

console-picture: browser ## make docs/console.png anew from what runs here (make up, make demo)
	@CONSOLE_URL=http://localhost:$(or $(BALANCE_PORT),8081)/console .venv/bin/python -m tests.console.picture
