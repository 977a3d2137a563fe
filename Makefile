# Every target sets up what it needs. All it takes is Python >= 3.10 with venv, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENVS := .venvs
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo quick test check lint format dist layer docs docs-serve release-check pins bench clean

help:
	@echo "make demo     run the examples against the local ingestion server"
	@echo "make quick    format and lint checks, types, imports, and the tests that are not slow: under a minute"
	@echo "make test     run all tests with their coverage, and the wheels on every CPython that is found"
	@echo "make lint     format and lint checks, types, imports"
	@echo "make check    the same, the templates of the examples, then all tests"
	@echo "make format   format the code"
	@echo "make dist     build wheel and sdist of leanbase and of leanbaseanalytics into dist/"
	@echo "make layer    build dist/leanbase-layer.zip, a Lambda layer with the package and urllib3"
	@echo "make docs     build the docs site into site/; make docs-serve shows it while pages are edited"
	@echo "make release-check TAG=v3.0.0   check that what is in dist/ may be released"
	@echo "make pins     resolve the tools of requirements/ again"
	@echo "make bench    measure side by side with other SDKs; writes benchmarks/results.md"
	@echo "make clean    remove the virtual environments and caches"

# The tools are pinned, with hashes, in requirements/; `make pins` resolves them again from pyproject.toml.
# pip 23.2, which comes with CPython 3.11, does not accept the pins of packages with extras: it is pinned, too.
PINNED = install --quiet --require-hashes --requirement
$(VENV)/ready: pyproject.toml requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip $(PINNED) requirements/pip.txt
	$(BIN)/python -m pip $(PINNED) requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# aws-sam-cli carries AWS's runtime interface emulator; its pins conflict with ours.
$(ENVS)/sam/ready: requirements/sam.txt
	$(PYTHON) -m venv $(ENVS)/sam
	$(ENVS)/sam/bin/python -m pip $(PINNED) requirements/pip.txt
	$(ENVS)/sam/bin/python -m pip $(PINNED) requirements/sam.txt
	@touch $@

# The demo installs the package alone, as a user would.
$(ENVS)/demo/ready: pyproject.toml
	$(PYTHON) -m venv $(ENVS)/demo
	$(ENVS)/demo/bin/pip install --quiet --editable .
	@touch $@

$(ENVS)/bench/ready: requirements/bench.txt
	$(PYTHON) -m venv $(ENVS)/bench
	$(ENVS)/bench/bin/python -m pip $(PINNED) requirements/pip.txt
	$(ENVS)/bench/bin/python -m pip $(PINNED) requirements/bench.txt
	@touch $@

$(ENVS)/site/ready: requirements/docs.txt
	$(PYTHON) -m venv $(ENVS)/site
	$(ENVS)/site/bin/python -m pip $(PINNED) requirements/pip.txt
	$(ENVS)/site/bin/python -m pip $(PINNED) requirements/docs.txt
	@touch $@

setup: $(VENV)/ready $(ENVS)/sam/ready

demo: $(ENVS)/demo/ready
	@$(ENVS)/demo/bin/python examples/demo.py

# Many tests wait, so three processes keep two cores busy.
quick: lint
	$(BIN)/python -m pytest -q -n 3 --dist worksteal -m 'not slow' --hypothesis-profile quick

# Programs that a test kills leave damaged data files, which are passed over.
test: setup
	@rm -f .coverage .coverage.*
	LEANBASE_TEST_SUMMARY=$(ENVS)/summary $(BIN)/coverage run -m pytest -n 2 --dist worksteal -m 'not untraced'
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m untraced
	@$(BIN)/coverage combine --quiet 2>/dev/null
	@$(BIN)/coverage report
	$(BIN)/python scripts/every_python.py
	@cat $(ENVS)/summary

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
	$(ENVS)/bench/bin/pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	$(ENVS)/bench/bin/python benchmarks/run.py

dist: $(VENV)/ready
	@$(BIN)/python scripts/dist.py

layer: $(VENV)/ready
	@$(BIN)/python -m scripts.layer

docs: $(ENVS)/site/ready
	@$(ENVS)/site/bin/python -m scripts.copied_pages
	@$(ENVS)/site/bin/zensical build --strict --clean

docs-serve: $(ENVS)/site/ready
	@$(ENVS)/site/bin/python -m scripts.copied_pages
	@$(ENVS)/site/bin/zensical serve

release-check: $(VENV)/ready
	@$(BIN)/python -m scripts.release_check "$(TAG)"

# One resolution for CPython 3.10 to 3.14 on Linux, macOS and Windows.
COMPILE = $(ENVS)/pins/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--no-strip-extras --no-emit-index-url --no-emit-find-links --no-header --no-annotate
pins:
	$(PYTHON) -m venv $(ENVS)/pins
	$(ENVS)/pins/bin/pip install --quiet uv
	$(COMPILE) --upgrade pyproject.toml --group dev --output-file requirements/dev.txt
	$(COMPILE) --upgrade pyproject.toml --group core-tests --constraint requirements/dev.txt --output-file requirements/core-tests.txt
	$(COMPILE) --upgrade pyproject.toml --group bench --output-file requirements/bench.txt
	$(COMPILE) --upgrade --group sam --output-file requirements/sam.txt
	$(subst 3.10,3.11,$(COMPILE)) --upgrade --group docs --output-file requirements/docs.txt
	$(COMPILE) --upgrade --group layer --output-file requirements/layer.txt
	$(COMPILE) --upgrade --group pip --output-file requirements/pip.txt

clean:
	rm -rf $(VENV) $(ENVS) dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
