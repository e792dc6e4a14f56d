# Every target works on a fresh clone: the first one that needs it makes .venv, which takes some minutes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# An environment for the older release of RD-Agent, which cannot share one with the newest.
OLD_VENV := .venv-0.8.0
OLD_INSTALLED := $(OLD_VENV)/.installed
OLD_PIP := $(OLD_VENV)/bin/python -m pip install --quiet --disable-pip-version-check
OLD_NEEDS := tests/integration/requirements-0.8.0.txt
RELEASES ?= 1.0.0 0.8.0

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-matrix $(RELEASES:%=test-on-%) lint types files bench proof wheel ci clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Touched last, so that an installation that was interrupted is begun again. The pip that comes with Python 3.11
# downloads version after version of RD-Agent's dependencies before it finds a set that fits; a current one is quick.
$(INSTALLED): pyproject.toml patches/startup.pth.in
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed: make PYTHON=python3.11 …")'
	@echo "Making $(VENV) with RD-Agent, Qlib and torch: some minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	@$(PIP) -e '.[dev]'
	@touch $@

# By uv: RD-Agent 0.8.0 leaves most versions open, and pip tries them for more than ten minutes. Torch comes first and by
# pip, which finds the index with a CPU build where one is configured.
$(OLD_INSTALLED): pyproject.toml patches/startup.pth.in $(OLD_NEEDS)
	@echo "Making $(OLD_VENV) with RD-Agent 0.8.0: some minutes."
	@$(PYTHON) -m venv $(OLD_VENV)
	@$(OLD_PIP) --upgrade pip uv
	@$(OLD_PIP) torch==2.13.0
	@$(OLD_VENV)/bin/uv pip install --quiet --python $(OLD_VENV)/bin/python -e . -r $(OLD_NEEDS)
	@touch $@

demo: $(INSTALLED) ## factor stage, then the model stage three ways, offline, and one table
	$(BIN)/rdagent-sota demo

# Two processes take module after module from one queue; tests on the same real runs stay together (tests/conftest.py).
WORKERS ?= 2
TEST = -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder --durations=25

test: $(INSTALLED) ## all tests, those that run the real rdagent and Qlib included
	$(BIN)/python $(TEST)

test-fast: $(INSTALLED) ## the tests that do not run rdagent
	$(BIN)/python $(TEST) -m 'not real and not proof'

test-matrix: $(RELEASES:%=test-on-%) ## the tests that meet RD-Agent, on each supported release (or on those in RELEASES="…")

# The tests that are about the host; all others know nothing of its release.
test-on-1.0.0: $(INSTALLED)
	$(BIN)/python $(TEST) tests/plugin tests/integration

test-on-0.8.0: $(OLD_INSTALLED)
	$(OLD_VENV)/bin/python $(TEST) tests/plugin tests/integration

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check rdagent_sota_patch tests
	$(BIN)/ruff format --check rdagent_sota_patch tests

types: $(INSTALLED) ## mypy, strict, on the package
	$(BIN)/mypy

files: $(INSTALLED) ## docs/files.md, from the modules' docstrings
	$(BIN)/python -m tests.file_tree

bench: $(INSTALLED) ## the measurements of docs/benchmarks.md
	$(BIN)/python -m tests.benchmarks

proof: $(INSTALLED) ## attacks, faults, crowds, sizes and mutants: the figures of docs/reliability.md
	-@$(PIP) -e '.[proof]'
	$(BIN)/python -m tests.proof

wheel: ## build the wheel and check it in an environment of its own
	$(PYTHON) tests/packaging/check_wheel.py

ci: ## what CI runs
	.ci/run

clean: ## back to a fresh clone
	rm -rf $(VENV) $(OLD_VENV) .demo dist build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find rdagent_sota_patch tests -name __pycache__ -type d -prune -exec rm -rf {} +
