# All development commands. A target that needs the environment sets it up first; only Python 3.11 or newer, make and git
# must be installed.
#
#   PYTHON=...    the interpreter to build .venv with (default: the first of python3, python3.14 .. python3.11 that fits)
#   WORKERS=...   processes that the tests are spread over (default 3; 0 runs them in one)
#   CALLS=...     how many calls `make fuzz` sends (default 1000000)
#   MINUTES=...   how long `make faults-soak` goes on (default 30)
#   SEED=..., SEEDS=...  for make simulate: the seed to show, or how many to run (default 1000)
#   TIGERBEETLE=...  for make bench-peers: a server program of TigerBeetle
#   ARGS=...      passed on: make test ARGS="-k bid -x", make demo ARGS="--json"

# Processes that the tests start by the hundred would compile all modules each time, which is half of a start's work.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?=
WORKERS ?= 3
ARGS ?=
SEED ?=
SEEDS ?= 1000
CALLS ?= 1000000
MINUTES ?= 30
SERVICE ?= pypi
# The last release; before the first one, main.
RELEASE := $(shell git describe --tags --match 'v*' --abbrev=0 2>/dev/null)
AGAINST ?= .git\#$(if $(RELEASE),tag=$(RELEASE),branch=main)

VENV := .venv
BIN := $(VENV)/bin
# Twice quiet: errors only. pip's warnings (about its user, its own age, an index that lacks a package) stop nothing.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
LOCKED := $(VENV)/.locked
READY := $(VENV)/.ready
# Only `make lock` needs it, in an environment of its own.
UV := uv==0.13.9
# In an environment of their own, as for `make lock`.
AUDIT := pip-audit==2.10.1 cyclonedx-bom==7.5.0
PEERS := eventsourcing==9.5.6 psycopg[binary,pool]==3.3.9 tigerbeetle==0.17.9
KUBERNETES_VALIDATE := kubernetes-validate==1.37.0
COMPILE := build/lock/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" $(ARGS) pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help setup demo bench bench-quick bench-soak bench-peers test simulate faults faults-soak fuzz e2e-secure audit-deps sbom check static lint format types wire breaking protos pages pictures protos-fresh lock tools clean FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## Build .venv from requirements/dev.lock, if it is not there yet

demo: $(READY) ## Run a router and three cells, play auctions across them, prove the books
	@$(BIN)/cellbook demo $(ARGS)

bench: $(READY) ## Measure, and compare with reference programs, half an hour (ARGS="--only batch_bids"); writes bench.json
	$(BIN)/python -m tests.bench $(ARGS)

bench-quick: $(READY) ## The same in two minutes, with a smaller store
	$(BIN)/python -m tests.bench --quick $(ARGS)

bench-soak: $(READY) ## The same for hours
	$(BIN)/python -m tests.bench --soak $(ARGS)

bench-peers: $(READY) build/peers/bin/python ## The same work in other ledgers, beside what each guarantees (TIGERBEETLE=/path/to/it, ARGS="--json")
	@TIGERBEETLE="$(TIGERBEETLE)" $(BIN)/python -m tests.bench.peers $(ARGS)

# In an environment of their own: the project does not depend on its peers.
build/peers/bin/python: Makefile
	@$(or $(PYTHON),python3) -m venv --clear build/peers
	@build/peers/bin/python -m pip --quiet --quiet install $(addsuffix ',$(addprefix ',$(PEERS))) || \
		{ rm -rf build/peers; echo "The peers could not be installed ($(PEERS)): is there a package index?" >&2; exit 1; }
	@touch $@

test: $(READY) ## Run every test
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

simulate: $(READY) ## Run SEEDS simulations, or show the one of SEED
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

faults: $(READY) ## Break real processes at every leg of a settlement, a quarter of an hour (ARGS="-k clock")
	FAULTS=all $(BIN)/python -m pytest -n 0 tests/faults/test_matrix.py $(ARGS)

faults-soak: $(READY) ## Faults of every kind under load, MINUTES long (default 30); puts the times of recovery into docs/faults.md
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --write $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: $(READY) ## Send CALLS invalid calls (default 1000000) to a cluster of real processes (SEED=7, ARGS="--secure")
	$(BIN)/python -m tests.fuzz --calls $(CALLS) $(if $(SEED),--seed $(SEED)) $(ARGS)

e2e-secure: $(READY) ## Run the end-to-end tests with TLS and proofs of identity, except chaos and Temporal
	E2E=secure $(BIN)/python -m pytest -n 0 tests/e2e --ignore tests/e2e/test_cable_cut.py --ignore tests/e2e/test_temporal.py $(ARGS)

check: $(READY) tools ## Run every check: lint, types, wire, stubs, tests
	@$(MAKE) --no-print-directory --jobs=2 static test

# Beside the tests, which wait more than they compute. Its output comes in one piece.
static:
	@mkdir -p build
	@nice $(MAKE) --no-print-directory lint types wire $(if $(RELEASE),breaking) protos-fresh >build/static.log 2>&1; \
		failed=$$?; cat build/static.log; exit $$failed

lint: $(READY) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## Format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY) ## Check types, strictly
	$(BIN)/mypy

wire: $(READY) ## Lint the wire
	$(BIN)/buf lint

breaking: $(READY) ## Check for breaking changes of the wire since AGAINST (the last release)
	$(BIN)/buf breaking --against "$(AGAINST)"

protos: $(READY) ## Generate the stubs from the .proto files
	$(BIN)/python tools/protos.py

pages: $(READY) ## Write what the docs draw from the code: refusals, events, sagas, roles and bounds
	$(BIN)/python -m tests.pages

pictures: $(READY) build/chromium ## Take the pictures of the console in docs/pictures, by its tests
	CONSOLE_PICTURES=docs/pictures $(BIN)/python -m pytest -q -n 0 tests/console

protos-fresh: $(READY) ## Check that the committed stubs are the ones that `make protos` generates
	$(BIN)/python tools/protos.py --check

lock: build/lock/bin/uv ## Resolve the dependencies again (ARGS=--upgrade: newest of everything)
	$(COMPILE) --extra temporal --extra otel --extra console --output-file requirements/run.lock
	$(COMPILE) --all-extras --output-file requirements/dev.lock

# pip-audit asks the package index, or the OSV database with SERVICE=osv; a package that neither knows is a failure, too.
audit-deps: build/audit/bin/pip-audit ## Check all locked packages for known vulnerabilities (SERVICE=osv: ask OSV)
	@build/audit/bin/pip-audit --vulnerability-service $(SERVICE) --require-hashes --disable-pip --progress-spinner off \
		--format json --requirement requirements/dev.lock 2>build/audit/said | $(BIN)/python tools/audit_deps.py || \
		{ grep -i error build/audit/said | tail -1 >&2; exit 1; }

sbom: build/audit/bin/pip-audit ## Write build/sbom.json: the packages of an installation as CycloneDX, from the lock
	@build/audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --spec-version 1.6 \
		--output-file build/sbom.json requirements/run.lock 2>/dev/null
	@echo "build/sbom.json"

build/audit/bin/pip-audit: Makefile
	@$(or $(PYTHON),python3) -m venv --clear build/audit
	@build/audit/bin/python -m pip --quiet --quiet install $(AUDIT)
	@touch $@

tools: ## Fetch optional programs for the tests of alerts, manifests and the console, which are otherwise skipped
	-@$(MAKE) --no-print-directory build/chromium
	-@$(MAKE) --no-print-directory build/promtool
	-@$(MAKE) --no-print-directory build/kubernetes/bin/kubernetes-validate

# In an environment of its own: it brings the schemas of every version of Kubernetes, 130 MB.
build/kubernetes/bin/kubernetes-validate:
	@$(or $(PYTHON),python3) -m venv --clear build/kubernetes
	@build/kubernetes/bin/python -m pip --quiet --quiet install "$(KUBERNETES_VALIDATE)" || \
		{ rm -rf build/kubernetes; echo "No kubernetes-validate: the manifests are not held against their schemas"; exit 1; }

# 40 MB, of which one program is wanted: taken out of Debian's package, not installed.
build/promtool:
	@mkdir -p build/prometheus
	@cd build/prometheus && apt-get download prometheus >/dev/null 2>&1 && dpkg-deb -x prometheus_*.deb . && \
		mv usr/bin/promtool ../promtool; rm -rf ../prometheus
	@test -x $@ || { echo "No promtool: the alerts' own tests are skipped (not Debian, or no network)"; exit 1; }

# Needs root: it comes with the libraries that it takes.
build/chromium:
	@mkdir -p build
	@command -v chromium >/dev/null || { apt-get update && apt-get install -y --no-install-recommends chromium; } >build/chromium.log 2>&1 || \
		{ echo "No chromium: the console is not looked at (not Debian, not root, or no network: build/chromium.log)"; exit 1; }
	@ln -sf "$$(command -v chromium)" $@

clean: ## Remove .venv and everything built
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment without its interpreter is rebuilt.
ifneq ($(shell $(BIN)/python -c "print('runs')" 2>/dev/null),runs)
$(BIN)/python $(LOCKED): FORCE
endif

FORCE:

$(BIN)/python:
	@for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Setting up $(VENV) with $$($$python --version) (a minute the first time)" >&2; \
			rm -rf $(VENV); \
			$$python -m venv $(VENV) && exit 0; \
			rm -rf $(VENV); \
			echo "$$python cannot make virtual environments (Debian and Ubuntu: apt install python3-venv)" >&2; \
			exit 1; \
		fi; \
	done; \
	echo "Cellbook needs Python 3.11 or newer; found $$($(or $(PYTHON),python3) --version 2>&1)." >&2; \
	echo "Name one: make PYTHON=/path/to/python3.12 setup" >&2; \
	exit 1

# The stamp records the installed lock. A changed lock starts from scratch, so that removed packages do not linger.
$(LOCKED): requirements/dev.lock | $(BIN)/python
	@if ! cmp -s requirements/dev.lock $@; then \
		if [ -f $@ ]; then rm -rf $(VENV) && $(MAKE) --no-print-directory $(BIN)/python; fi && \
		$(PIP) install --require-hashes -r requirements/dev.lock; \
	fi
	@cp requirements/dev.lock $@

# A new top-level package has to be installed once, too.
$(READY): pyproject.toml $(wildcard cells/__init__.py lab/__init__.py router/__init__.py server/__init__.py) $(LOCKED)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

build/lock/bin/uv: Makefile
	$(or $(PYTHON),python3) -m venv --clear build/lock
	build/lock/bin/python -m pip --quiet --quiet install "$(UV)"
	@touch $@
