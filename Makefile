# Every target sets up what it needs. All it takes is Python >= 3.10 with venv, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENVS := .venvs
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo quick test check lint format dist bench clean

help:
	@echo "make demo     run the examples against the local ingestion server"
	@echo "make quick    format and lint checks, types, imports, and the tests that are not slow: about a minute"
	@echo "make test     run all tests, on every CPython that is found"
	@echo "make lint     format and lint checks, types, imports"
	@echo "make check    the same, the templates of the examples, then all tests"
	@echo "make format   format the code"
	@echo "make dist     build wheel and sdist of leanbase and of leanbaseanalytics into dist/"
	@echo "make bench    measure side by side with other SDKs; writes benchmarks/results.md"
	@echo "make clean    remove the virtual environments and caches"

# pip knows dependency groups from 25.1 on.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet 'pip>=25.1'
	$(BIN)/pip install --quiet --editable . --group dev
	@touch $@

# aws-sam-cli carries AWS's runtime interface emulator; its pins do not get along with ours.
$(ENVS)/sam/ready:
	$(PYTHON) -m venv $(ENVS)/sam
	$(ENVS)/sam/bin/pip install --quiet 'aws-sam-cli>=1.130'
	@touch $@

# The demo installs the package alone, as a user would.
$(ENVS)/demo/ready: pyproject.toml
	$(PYTHON) -m venv $(ENVS)/demo
	$(ENVS)/demo/bin/pip install --quiet --editable .
	@touch $@

$(ENVS)/bench/ready: pyproject.toml
	$(PYTHON) -m venv $(ENVS)/bench
	$(ENVS)/bench/bin/pip install --quiet . posthog==7.91.1 segment-analytics-python awslambdaric django sentry-sdk
	@touch $@

setup: $(VENV)/ready $(ENVS)/sam/ready

demo: $(ENVS)/demo/ready
	@$(ENVS)/demo/bin/python examples/demo.py

quick: lint
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow'

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal
	$(BIN)/python scripts/every_python.py

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: setup lint
	@for template in examples/lambda/template*.yaml; do \
		SAM_CLI_TELEMETRY=0 $(ENVS)/sam/bin/sam validate --lint --region eu-west-1 --template $$template || exit 1; \
	done
	$(MAKE) test

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# callgrind counts instructions, which a busy machine does not change.
bench: $(ENVS)/bench/ready $(ENVS)/sam/ready
	@command -v valgrind >/dev/null || apt-get install -y valgrind || echo "valgrind is missing: no instructions are counted"
	$(ENVS)/bench/bin/pip install --quiet --no-deps --force-reinstall .
	$(ENVS)/bench/bin/python benchmarks/run.py

dist: $(VENV)/ready
	@$(BIN)/python scripts/dist.py

clean:
	rm -rf $(VENV) $(ENVS) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
