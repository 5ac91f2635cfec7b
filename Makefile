# `make` prints what there is. Everything below `setup` runs in tools/venv, or in an environment of your own
# (ESPNET_EXT_OWN_PYTHON=1, see tools/activate_python.sh).
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-all test test-fast lint bench clean slurm-up slurm-down
MAKEFLAGS += --no-print-directory

activate := . tools/activate_python.sh
# Tests start several processes at a time: one thread each. A recipe's training gets all cores, from its back end.
test test-fast: export OMP_NUM_THREADS ?= 1

help: ## print this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

setup: ## install system packages and the Python environment tools/venv; seconds when it is there
	@tools/install.sh

demo: setup ## egs2/synth from raw audio to the report's page: a control and one method (gan)
	@cd egs2/synth/asr1 && ./run.sh --system none --seed 1 --stop_stage score && ./run.sh --system gan --seed 1 --stop_stage report
	@echo "demo: open egs2/synth/asr1/exp/report/index.html"

demo-all: setup ## all five methods beside their main controls; goes on where it was interrupted
	@egs2/synth/asr1/demo_all.sh
	@echo "demo-all: open egs2/synth/asr1/exp/report/index.html"

test: setup lint ## shellcheck, ruff, and all tests, end-to-end recipes included
	@$(activate) && python -m pytest -q

test-fast: setup lint ## the same without the tests marked slow: under four minutes
	@$(activate) && python -m pytest -q -m "not slow"

lint: setup ## shellcheck and ruff
	@$(activate) && tools/lint.sh

bench: setup ## side-by-side measurements; results are appended to benchmarks/results/
	@$(activate) && for file in $$(grep -l __main__ benchmarks/*.py); do echo "bench: $$file"; python "$$file"; done

slurm-up: ## a Slurm cluster of one node on this machine, for tests (Debian's slurm-wlm and munge)
	@tools/local_slurm/cluster.sh up

slurm-down: ## end it
	@tools/local_slurm/cluster.sh down

clean: ## remove what tests and builds leave behind; keeps tools/venv and every recipe's exp/
	@find . -path ./tools/venv -prune -o -path ./.git -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
	@rm -rf .pytest_cache .ruff_cache build dist
