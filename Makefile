# Everything runs inside .venv, which the first target that needs it makes.
# `make help` lists the targets.

PYTHON ?= python3
# Calls that `make fuzz` makes up by chance for each operation.
FUZZ_EXAMPLES ?= 40
# For `make bench`: --only NAME, --quick (see its --help).
BENCH_OPTIONS ?=
# For `make source-bench`: --rows N, --rounds N.
SOURCE_BENCH_OPTIONS ?=
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Compiled modules are kept, whatever the caller has set: `make test` starts some 100 Pythons.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | \
		while IFS='|' read -r name text; do printf '%-14s %s\n' "$$name" "$$text"; done

$(VENV)/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements/dev.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet --requirement requirements/dev.txt
	@touch $@

.PHONY: run
run: $(VENV)/installed ## Serve on http://127.0.0.1:8000: schema to head, seed, gunicorn
	$(BIN)/flask db upgrade
	$(BIN)/flask seed
	$(BIN)/gunicorn

.PHONY: upgrade
upgrade: ## Put the present code into service under Docker Compose, without losing a request
	deploy/upgrade.sh

.PHONY: test
test: $(VENV)/installed-dev ## Run all tests but the slow ones, on SQLite and on a PostgreSQL of their own
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not slow"

.PHONY: lease-test
lease-test: $(VENV)/installed-dev ## Alternate activations under load for two minutes on each database
	LEASE_TEST_SECONDS=120 $(BIN)/python -m pytest tests/test_lease.py -s

.PHONY: fuzz
fuzz: $(VENV)/installed-dev ## Make up calls from the OpenAPI document, and tables, for some minutes on each database
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/test_fuzz.py tests/ml/test_any_table.py -s

.PHONY: faults
faults: $(VENV)/installed-dev ## Run the slow tests at full scale: faults, attacks, fleets; print what survived
	FAULTS=full $(BIN)/python -m pytest -m slow

# Most wait for servers and time-outs: two files at a time take 9 minutes on two cores, one takes 14.
.PHONY: faults-bounded
faults-bounded: $(VENV)/installed-dev ## Run the slow tests at the scale of a few minutes, as CI does
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m slow

.PHONY: memory
memory: $(VENV)/installed-dev ## Measure the memory that 1,000,000 rows take, as the docs quote it
	$(BIN)/python -m benchmarks.resources memory

.PHONY: latency
latency: $(VENV)/installed-dev ## Measure predictions beside trainings and activations, as the docs quote it
	$(BIN)/python -m benchmarks.resources latency

.PHONY: bench
bench: $(VENV)/installed-dev ## Measure this service beside competitors, as the docs quote it
	$(BIN)/python -m benchmarks $(BENCH_OPTIONS)

.PHONY: source-bench
source-bench: $(VENV)/installed-dev ## Measure trainings on Parquet files in parts, as the docs quote it
	$(BIN)/python -m benchmarks.sources $(SOURCE_BENCH_OPTIONS)

.PHONY: lint
lint: $(VENV)/installed-dev ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: format
format: $(VENV)/installed-dev ## Put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: requirements
requirements: ## Pin every package anew from the lists of direct ones (with uv)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	for pair in main:requirements.txt traces:requirements/traces.txt \
		boosting:requirements/boosting.txt dask:requirements/dask.txt \
		objects:requirements/objects.txt dev:requirements/dev.txt; do \
		$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
			--fork-strategy fewest --generate-hashes \
			--custom-compile-command "make requirements" \
			requirements/$${pair%%:*}.in -o $${pair#*:} || exit 1; \
	done

.PHONY: clean
clean: ## Remove what was installed and cached; the database stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
