# Every target makes the virtual environment it needs; a machine needs python3 >= 3.11, make and g++.

PYTHON ?= python3
JOBS ?= 2
DATA ?= ../shared/data
MUTATE_PATHS ?= tcompile/passes tcompile/lowering tcompile/ir tcompile/mapping hw
MUTATE_SAMPLE ?= 200
MUTATE_SEED ?= 0
COUNT ?= 500
SEED ?= 0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DA4ML := .venv-da4ml/.installed-0.6.0

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo test test-long check lint docs bench bench-exactness bench-placed bench-hardware train-resnet20 mutate fuzz fuzz-files clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make the virtual environment .venv, if it is not there yet

demo: $(STAMP) ## the whole way on a real trained network, in a minute or two: Verilog, simulated
	@$(BIN)/tcompile demo

test: lint ## style, types, import layers and all tests
	@$(BIN)/python -m pytest -q -n $(JOBS)

test-long: $(STAMP) ## the slow tests, those that `make test` leaves out among them
	@$(BIN)/python -m pytest -q -n auto -m long

check: ## exactly what continuous integration runs
	@.ci/run

lint: $(STAMP) ## the part of `test` that reads the code only
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet || { echo "run: $(BIN)/ruff format"; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

docs: $(STAMP) ## the site of all pages, build/site/index.html; a link that leads nowhere is an error
	@$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/doctrees . build/site

bench: $(STAMP) $(DA4ML) ## layers, lanes, targets and networks beside da4ml and FINN's formula; writes benchmarks/results.md
	@$(BIN)/python -m benchmarks.results --jobs $(JOBS)

bench-exactness: $(STAMP) ## exactness on real networks below ../shared/data; writes benchmarks/exactness.md
	@$(BIN)/python benchmarks/exactness.py

bench-placed: $(STAMP) ## networks placed and routed on an ECP5-85, half an hour each; writes benchmarks/placed.md
	@$(BIN)/python -m benchmarks.placed

bench-hardware: $(STAMP) ## Verilog of real networks below ../shared/data in Verilator; writes benchmarks/hardware.md
	@$(BIN)/python -m benchmarks.hardware

train-resnet20: $(STAMP) ## ResNet-20 on CIFAR-10 below $(DATA), all layers ternary: hours; goes on where it was ended
	@test -f build/resnet20/data.npz || $(BIN)/python examples/resnet20/prepare.py $(DATA)/datasets/cifar10-jpeg -o build/resnet20
	@test -f build/resnet20/tuned.onnx || $(BIN)/python examples/resnet20/finetune.py $(DATA)/models/cifar_resnet20.onnx \
	  --data build/resnet20/data.npz -o build/resnet20/tuned.onnx --epochs 5
	@test -f build/resnet20/resnet20.int2.onnx || $(BIN)/tcompile compress build/resnet20/tuned.onnx --data build/resnet20/data.npz \
	  -o build/resnet20/resnet20.int2.onnx --config examples/resnet20/resnet20.toml --resume

mutate: $(STAMP) ## plant faults in the compiler and the gateware; how many do the tests find?
	@$(BIN)/python -m tests.mutation --paths $(MUTATE_PATHS) --sample $(MUTATE_SAMPLE) --seed $(MUTATE_SEED) --jobs $(JOBS)

fuzz: $(STAMP) ## COUNT random networks from SEED on, compiled and compared with onnxruntime; a tenth of them in hardware too
	@$(BIN)/python -m tests.fuzz --count $(COUNT) --seed $(SEED) --jobs $(JOBS) --keep build/fuzz
	@$(BIN)/python -m tests.fuzz --count $$(( ($(COUNT) + 9) / 10 )) --seed $(SEED) --jobs $(JOBS) --keep build/fuzz --hardware

fuzz-files: $(STAMP) ## COUNT ONNX files spoilt at random from SEED on: each must be compiled or refused, with nothing half written
	@$(BIN)/python -m tests.mutated --count $(COUNT) --seed $(SEED) --keep build/fuzz-files

clean: ## remove what was built; .venv stays
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find tcompile hw tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "tcompile needs Python 3.11 or newer, not $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.11 setup"; exit 3; }
	@echo "Making $(VENV): the packages are a few hundred megabytes, this takes some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,docs,train]'
	@touch $@

$(DA4ML):
	@echo "Making .venv-da4ml: the peer that \`make bench\` compares with"
	@{ $(PYTHON) -m venv .venv-da4ml \
	  && .venv-da4ml/bin/python -m pip install --quiet --disable-pip-version-check da4ml==0.6.0 \
	  && touch $@; } || echo "There is no da4ml: its columns stay empty"
