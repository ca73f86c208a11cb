# One set of commands for people, hooks and CI; `make help` lists them.
# Every command makes its own virtual environment first; a second call finds it ready.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(VERSION))
BIN := $(VENV)/bin
# Dense linear algebra inside a sampler runs slower on OpenBLAS's own threads.
export OPENBLAS_NUM_THREADS ?= 1
PYTEST := $(BIN)/python -m pytest -n 2
# The tests compile much and run little: half of the time is XLA's.
FAST_COMPILE = XLA_FLAGS="$$($(BIN)/python tests/xla_flags.py)"

# Which third of the cases `make test` runs, and of the slow tests `make third`.
COMMIT = $(shell git rev-parse HEAD 2>/dev/null || date +%j)

.DEFAULT_GOAL := help
.PHONY: help setup demo test cases slow third snapshots lint type format docs site pictures bench clean
.PHONY: package newest lowest

help: ## List these commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Make the virtual environment

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("numpyro_ebm needs Python 3.11 to 3.13, got $(VERSION); try make PYTHON=python3.12" if not (3, 11) <= sys.version_info < (3, 14) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

demo: setup ## Learn a prior for handwritten digits and fill in what is hidden (3 minutes)
	$(BIN)/python examples/01_digits_prior.py

test: setup ## Run every test, with a third of its cases, chosen by the commit
	$(FAST_COMPILE) $(PYTEST) --third-by $(COMMIT)

cases: setup ## Run every test with all of its cases
	$(FAST_COMPILE) $(PYTEST)

slow third snapshots: export ANNOTATIONS = unchecked

slow: setup ## Run the tests that take longer, one at a time
	$(PYTEST) -n 0 -m "slow and not snapshot"

third: setup ## Run a third of those, chosen by the commit, for 30 minutes at most
	$(PYTEST) -m "slow and not timing and not snapshot" --dist worksteal --minutes 30 --third-by $(COMMIT)

snapshots: setup ## Compare kernels, fits and log Z with the numbers of an earlier version
	XLA_FLAGS=--xla_backend_optimization_level=0 $(PYTEST) -m snapshot

lint: setup ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup ## Check types
	$(BIN)/basedpyright

format: setup ## Put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs ## Build the documentation in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

site: docs ## Look at each page of it in a browser (Chromium and its driver)
	$(BIN)/python -m pytest -n 0 -m site tests/test_site.py

pictures: setup ## Draw the pictures of the documentation anew
	$(BIN)/python docs/pictures.py

$(VENV)/.installed-release: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[release]'
	touch $@

package: $(VENV)/.installed-release ## Build wheel and sdist in dist/, and check what they contain
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/contents.py

newest: package ## Try the wheel in an empty environment, with the newest of all it needs
	.ci/smoke $(PYTHON)

lowest: package ## The same with the lowest versions that pyproject.toml allows
	$(BIN)/python .ci/lowest.py > dist/lowest.txt
	.ci/smoke $(PYTHON) --constraint dist/lowest.txt

bench: setup ## Compare speed with hand-written JAX loops
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/drivers.py
	$(BIN)/python benchmarks/effective.py
	$(BIN)/python benchmarks/normalizers.py
	$(BIN)/python benchmarks/posteriors.py

clean: ## Remove what these commands made
	rm -rf .venv .venv-* dist site .pytest_cache .ruff_cache
