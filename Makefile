# Every target sets up what it needs; only python3 (3.11, 3.12 or 3.13) and make must be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One more than the two cores of a small machine: long tests spend a third of their time waiting.
WORKERS ?= 3
PYTEST_ARGS ?=

export DAGSTER_DISABLE_TELEMETRY := 1
# Compiled modules halve the start time of a process, and the tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE
# uv uses the system's certificates, as pip does, so that a company's own certificates work.
export UV_SYSTEM_CERTS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint format coverage examples docs bench up down status lock clean

help: ## Show all targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "  make %-11s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv and install the pinned dependencies into it

$(STAMP): requirements.lock pyproject.toml
	@echo "setup: virtual environment in $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@awk '/^[a-z]/ {keep = /^uv==/} keep' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.lock
	@echo "setup: installing the pinned dependencies of requirements.lock"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(STAMP)
	@echo "setup: done"

demo: setup ## Run the main job on a real PostgreSQL, end to end
	@$(BIN)/atdm demo

test: setup ## Run all tests but the long proofs
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not long" $(PYTEST_ARGS)

test-long: setup ## Run the long proofs: a day with a daemon, kills, deployment, wheel, browsers
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m long $(PYTEST_ARGS)

coverage: setup ## Run all tests; fail below 90 % coverage of engine, resources, services and assets
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --cov --cov-report= $(PYTEST_ARGS)
	@$(BIN)/coverage report --include 'atdm_engine/*,atdm_resources/*,atdm_services/*,atdm_assets/*' --fail-under 90

lint: setup ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

examples: setup ## Run the example application's two suites in a real browser
	@$(BIN)/python examples/run.py

docs: setup ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "docs: open site/index.html"

bench: setup ## Run every benchmark; each prints both sides and their ratio
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

up: setup ## Start PostgreSQL, the Dagster webserver and the daemon
	@$(BIN)/atdm up

down: setup ## Stop what make up started
	@$(BIN)/atdm down

status: setup ## Show what is running and what is leased
	@$(BIN)/atdm status

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

lock: setup ## Update the pinned dependencies
	@$(COMPILE) --all-extras pyproject.toml --output-file requirements.lock
	@$(COMPILE) --extra server --extra kubernetes --extra otel --constraint requirements.lock pyproject.toml \
		--output-file deploy/requirements.lock

clean: ## Remove the virtual environment and caches (run make down first)
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* site
	@rm -rf packages/playwright/node_modules packages/playwright/dist examples/claims_app/playwright/node_modules
