# conversationd: `make demo` shows it, `make test` checks it, `make serve` runs it. Needs Python 3.11 and make.

PYTHON ?= python3
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help demo serve test check format bench simulate torture lock clean

help: ## Show what there is to make
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(STAMP) ## Walk one conversation through its life, live, and leave nothing behind (PROVIDER=process: without Docker)
	@$(BIN)/python -m tests.demo $(PROVIDER)

serve: $(STAMP) ## Run the daemon in the foreground
	$(BIN)/conversationd serve

test: $(STAMP) check ## Run all checks and tests; sets up what they need
	@command -v curl >/dev/null && command -v systemd-analyze >/dev/null || \
		{ $(SUDO) apt-get update -q && $(SUDO) apt-get install -q -y --no-install-recommends curl systemd; }
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

check: $(STAMP) ## Lint and type-check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/flake8
	$(BIN)/mypy

format: $(STAMP) ## Format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(STAMP) ## Measure the daemon beside the raw engine, as ratios
	@$(BIN)/python -m tests.benchmarks

simulate: $(STAMP) ## Play 100,000 seeds of faults (COUNT=n for others), or one again: SEED=n
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--count $(or $(COUNT),100000))

torture: $(STAMP) ## Torture the real daemon over a Docker Engine of its own, and print what was lost
	$(BIN)/python -m tests.torture $(TRIALS)

lock: $(STAMP) ## Pin all dependencies anew, with hashes
	$(BIN)/pip install -q uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --extra test \
		--no-annotate --no-header pyproject.toml -o requirements.lock

clean: ## Remove what was installed and cached here
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build *.egg-info

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ $(SUDO) apt-get update -q && $(SUDO) apt-get install -q -y --no-install-recommends python3-venv; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
