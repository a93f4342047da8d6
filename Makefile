# Everything runs in .venv, made from pyproject.toml; what is downloaded or written lies under .cache.
# `make` alone lists the targets.

.DEFAULT_GOAL := help
SHELL := /bin/sh
.SUFFIXES:
.DELETE_ON_ERROR:

VENV := .venv
READY := $(VENV)/.ready
PYTHON := $(VENV)/bin/python
REPORTS := .cache/reports
DIST := dist

# Interpreters to choose from, best first; `make PYTHONS=/path/to/python3 …` chooses another.
PYTHONS := python3.13 python3.12 python3.11 python3 /usr/bin/python3
# More arguments for every pytest run, such as PYTEST_ARGS='-k lease'.
PYTEST_ARGS ?=
# Most tests wait more than they work.
WORKERS ?= -n 2
SIMULATE_SECONDS ?= 300
CHAOS_SECONDS ?= 600
CHAOS_TERMS ?= 5000
SOAK_SECONDS ?= 1800

# A run of a part of the tests cannot fill the table.
FULL_TABLE := $(if $(filter -k% -m% --deselect% --lf --ff,$(PYTEST_ARGS)),,--full-table)

PYTEST := $(PYTHON) -m pytest $(WORKERS) $(PYTEST_ARGS)
# Coverage is measured on these; the rest of tests/ runs without it. What the doctor sees, what goes wrong on the way to
# a voter, and what databases answer to a fence, real servers alone can show.
MEASURED := tests/unit tests/contract tests/simulation $(wildcard tests/integration/test_doctor*.py) \
            tests/integration/test_redis_trouble.py tests/integration/test_redis_secure.py \
            $(wildcard tests/integration/test_sqlfence_[bu]*.py tests/integration/test_sqlfence_con*.py) \
            $(wildcard tests/integration/test_[efrz]*fence.py) \
            tests/integration/test_fencemiddleware.py tests/integration/test_fence_command.py

.PHONY: help venv demo test lint format types servers unit measured unmeasured faults coverage expected simulate bench build \
        chaos soak clean compose-up compose-down test-compose

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s%s\n", $$1, $$2 }'

# An interpreter is tried, not only looked up: a name on the PATH may be a launcher that has nothing to launch.
$(READY): pyproject.toml
	@found=; bare=; \
	for python in $(PYTHONS); do \
	    "$$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	    if "$$python" -c 'import ensurepip' >/dev/null 2>&1; then found=$$python; break; fi; \
	    bare=$$python; \
	done; \
	if [ -z "$$found" ]; then \
	    if [ -n "$$bare" ]; then \
	        echo "$$bare cannot make virtual environments; this mends it: apt-get install -y python3-venv" >&2; \
	    else \
	        echo "no Python of at least 3.11 works; this mends it: apt-get install -y python3 python3-venv" >&2; \
	    fi; \
	    exit 1; \
	fi; \
	if ! $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$found"; \
	    rm -rf $(VENV); \
	    "$$found" -m venv $(VENV) || exit 1; \
	fi
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

venv: $(READY)  ## make .venv with the package and everything for its development

demo: $(READY)  ## three processes, a crash, a pause and a stale write refused
	@$(VENV)/bin/coordkit demo

# Each step runs even if an earlier one failed; the report at the end judges them all.
test: $(READY)  ## lint, types, servers and every test, with branch coverage
	@$(PYTHON) -m tests.report clear
	@failed=; \
	for step in lint types servers measured unmeasured faults; do \
	    echo "== make $$step"; \
	    $(MAKE) --no-print-directory $$step || failed="$$failed $$step"; \
	done; \
	$(PYTHON) -m tests.report judge $(FULL_TABLE) $$failed

lint: $(READY)  ## ruff: format and rules
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

format: $(READY)  ## let ruff format and mend what it can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

types: $(READY)  ## mypy --strict and pyright
	$(VENV)/bin/mypy
	$(VENV)/bin/basedpyright

servers: $(READY)  ## provide the programs that the tests need, without root
	$(PYTHON) -m tests.servers

unit: $(READY)  ## the fast tests alone
	$(PYTEST) tests/unit

measured: $(READY)
	@mkdir -p .cache/coverage $(REPORTS)
	$(PYTHON) -m coverage erase
	$(PYTHON) -m coverage run -m pytest $(WORKERS) $(PYTEST_ARGS) --junit-xml=$(REPORTS)/measured.xml $(MEASURED)
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

unmeasured: $(READY)
	@mkdir -p $(REPORTS)
	$(PYTEST) --junit-xml=$(REPORTS)/unmeasured.xml $(MEASURED:%=--ignore=%) --ignore=tests/chaos tests

faults: $(READY)
	@mkdir -p $(REPORTS)
	$(PYTEST) --junit-xml=$(REPORTS)/faults.xml tests/chaos

# The containers of docker-compose.yml; `compose-up` is for trying things by hand, `test-compose` has its own.
compose-up: $(READY)  ## start the servers of docker-compose.yml and wait for them
	$(PYTHON) -m tests.servers.compose up

compose-down: $(READY)  ## take them down, with their data
	$(PYTHON) -m tests.servers.compose down

test-compose: $(READY)  ## the contract and integration tests on the containers of docker-compose.yml
	$(PYTHON) -m tests.servers.compose test $(PYTEST_ARGS)

coverage: measured  ## branch coverage from unit, contract and simulation tests, as text and HTML
	$(PYTHON) -m coverage html --quiet --directory=.cache/coverage/html
	@echo "line by line: .cache/coverage/html/index.html"

expected: $(READY)  ## write the table of expected tests anew, to be committed
	$(PYTHON) -m tests.update_expected

simulate: $(READY)  ## random schedules on virtual time, for SIMULATE_SECONDS; seeds that fail are named
	$(PYTHON) -m tests.simulation --seconds $(SIMULATE_SECONDS)

chaos: $(READY)  ## many processes under all kinds of faults, each backend for CHAOS_SECONDS and CHAOS_TERMS
	COORDKIT_CHAOS_SECONDS=$(CHAOS_SECONDS) COORDKIT_CHAOS_TERMS=$(CHAOS_TERMS) $(PYTHON) -m pytest -n 0 -s $(PYTEST_ARGS) tests/chaos

soak: $(READY)  ## electors on all backends at once, for SOAK_SECONDS: does anything grow?
	$(PYTHON) -m tests.chaos.soak --seconds $(SOAK_SECONDS)

bench: $(READY)  ## measure acquire, release, handover and many elections, and the price of a fence
	$(PYTHON) -m tests.bench
	$(PYTHON) -m tests.bench_sql
	$(PYTHON) -m tests.bench_stores
	$(PYTHON) -m tests.bench_redis

# The wheel is made from the sdist, and tried in an environment of its own before it gets to dist/.
build: $(READY)  ## sdist and wheel in dist/
	@place=$$(mktemp -d) && trap 'rm -rf "$$place"' EXIT && \
	$(PYTHON) -m build --outdir "$$place/made" . && \
	$(PYTHON) -m venv "$$place/venv" && \
	"$$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$$place"/made/*.whl && \
	(cd "$$place" && venv/bin/python -W error -c 'import coordkit') && \
	rm -rf $(DIST) && mkdir $(DIST) && mv "$$place"/made/* $(DIST)/ && ls -l $(DIST)

clean:  ## remove .venv, .cache, dist and caches
	rm -rf $(VENV) .cache $(DIST) .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
