# Two to begin with: `make demo` and `make test`. Each target does its own set-up; a second run
# installs and exports nothing again. PYTHON=... chooses the interpreter, TORCH_INDEX=... where torch
# comes from, ARGS=... is passed on.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export EDGESLM_CACHE ?= $(CURDIR)/.cache
# mosquitto lives in /usr/sbin, which is not on everybody's path.
export PATH := $(PATH):/usr/sbin
# Tests start hundreds of processes: where this is set, each compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
# Three at a time: many tests wait more than they compute. A file's tests stay together, and files
# keep their order: those with few tests, which are the long ones, are not left for the end.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
# What is installed depends on these files, an editable install on where it lies, and both on the
# interpreter: the one asked for, else the one that .venv has.
INTERPRETER := $(or $(PYTHON),$(wildcard $(BIN)/python),python3)
BASE := $(shell $(INTERPRETER) -c 'import sys; print(sys.version_info[:2], sys.base_prefix)' 2>/dev/null)
KEY := $(shell { echo "$(CURDIR) $(BASE)"; cat pyproject.toml packaging/constraints.txt packaging/venv.sh; } | sha256sum | cut -c 1-16)
INSTALLED := .venv/.installed-$(KEY)

.PHONY: help venv mosquitto proofs demo test test-slow check format docs bench packages container fuzz clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 12

venv: $(INSTALLED) ## .venv with every extra, at the tested versions

$(INSTALLED):
	@packaging/venv.sh $@

mosquitto: ## the MQTT broker, by apt where allowed; does not start its service
	@packaging/mosquitto.sh

proofs: ## strace and others that some tests prove with, by apt where allowed
	@packaging/proofs.sh

demo: venv mosquitto ## a factory, a broker and an agent, in one minute
	@$(BIN)/edgeslm demo $(ARGS)

test: venv mosquitto proofs ## the tests
	@$(PYTEST) $(ARGS)

test-slow: venv mosquitto ## those that take minutes as well
	@packaging/proofs.sh slow
	@$(PYTEST) -m "slow or not slow" $(ARGS)

check: venv ## format, lint, types, layers, generated documents, known vulnerabilities
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python docs/generate.py --check
	@$(BIN)/python docs/check_links.py
	@packaging/audit.sh

format: venv ## format, and mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: venv ## regenerate the documents that come from the code
	@$(BIN)/python docs/generate.py

bench: venv mosquitto ## measure everything and fill the README's table; ARGS="--data DIR"
	@$(BIN)/python -m benchmarks --all --write README.md $(ARGS)

packages: venv ## Debian packages, their SBOMs and wheelhouses, in dist/
	@PYTHONPATH=packaging $(BIN)/python -m packages $(ARGS)

container: venv ## a container image of the Debian package, by podman or docker
	@packaging/container.sh $(ARGS)

FUZZ_SECONDS ?= 300
fuzz: venv ## fuzz every parser for FUZZ_SECONDS, shared among them
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/fuzz --timeout 0 $(ARGS)

clean: ## forget everything made, the virtual environment and exports included
	rm -rf .venv .cache build dist .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
