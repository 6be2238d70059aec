# make help says what there is. PYTHON and TORCH choose the Python and the torch to install.

PYTHON ?= python3
TORCH ?=
PYTEST_ARGS ?= -n auto
DEMO_ARGS ?=
RESULTS ?=
SIMULATED ?=
FLAGS_ARGS ?=
UPSTREAM_ARGS ?=
FRAMEWORK_TESTS ?= tests/frameworks

make_environment = $(PYTHON) tools/environment.py
with_torch = --torch "$(TORCH)"

.PHONY: help demo test test-all test-new test-old test-scripts test-kernels test-peers test-failures flags results
.PHONY: simulated test-upstream lint format clean
.DEFAULT_GOAL := help

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

demo: ## install into .venv-demo, fine-tune a small model on this machine, show its answers
	@$(make_environment) .venv-demo --extra demo $(with_torch)
	@.venv-demo/bin/accel demo $(DEMO_ARGS)

.venv-test: FORCE
	@$(make_environment) .venv-test --extra test --extra demo --extra dev --extra compilers $(with_torch)

test: .venv-test ## install into .venv-test and run the tests, beside LLaMA-Factory 0.9.5
	.venv-test/bin/python -m pytest $(PYTEST_ARGS)

test-new: ## the framework tests beside the newest transformers and peft
	@$(make_environment) .venv-new --extra test --also trl $(with_torch)
	.venv-new/bin/python -m pytest $(PYTEST_ARGS) $(FRAMEWORK_TESTS)

test-old: ## the framework tests beside transformers 4.51.3
	@$(make_environment) .venv-old --extra test --also "transformers==4.51.3" \
		--also "peft<0.16" --also "accelerate<1.8" $(with_torch)
	.venv-old/bin/python -m pytest $(PYTEST_ARGS) $(FRAMEWORK_TESTS)

test-scripts: .venv-test ## scripts written for CUDA alone: on the CPU, simulated cards, two ranks
	.venv-test/bin/python -m pytest -n 2 -m scripts tests/frameworks/test_cuda_scripts.py

test-upstream: .venv-test ## accelerate's and LLaMA-Factory's own tests, without accel and with it
	@.venv-test/bin/python tests/failures/make_environments.py upstream
	.venv-failures/upstream/bin/python tools/upstream_tests.py $(UPSTREAM_ARGS)

test-kernels: .venv-test ## every kernel compiled for every GPU, without one; a real model rounded, trained
	.venv-test/bin/python -m pytest $(PYTEST_ARGS) -m sweep tests/kernels

test-peers: ## gptqmodel 7.7.0 reads what accel writes, and accel what it reads (a torch of 5 GB)
	@$(make_environment) .venv-peers --extra test --also gptqmodel==7.7.0 \
		--also transformers==5.23.0 --also optimum==2.3.0 --torch "$(or $(TORCH),torch==2.14.1)"
	.venv-peers/bin/python -m pytest $(PYTEST_ARGS) -m peers tests/peers

.venv-failures: .venv-test
	@.venv-test/bin/python tests/failures/make_environments.py

test-failures: .venv-failures ## every known failure, red without accel and green with it
	ACCEL_FAILURES=1 .venv-test/bin/python -m pytest $(PYTEST_ARGS) tests/failures

flags: .venv-failures ## LLaMA-Factory's flags with SmolLM2-135M on this machine, before and after
	@PYTHONPATH=tests/failures .venv-test/bin/python tests/failures/flags_table.py $(FLAGS_ARGS)

test-all: test test-new test-old ## test, test-new and test-old

results: .venv-test ## run the conformance suite for every plugin, and write docs/support.md
	.venv-test/bin/python tools/results.py $(RESULTS)

simulated: .venv-test ## train SmolLM2-135M on six simulated cards, and compare with the CPU
	.venv-test/bin/python tools/simulated_training.py $(SIMULATED)

lint: .venv-test ## ruff and mypy
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy

format: .venv-test ## let ruff lay the code out
	.venv-test/bin/ruff format .
	.venv-test/bin/ruff check --fix .

clean: ## remove what make made
	rm -rf .venv-demo .venv-test .venv-new .venv-old .venv-peers .venv-failures demo-output .demo dist build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

FORCE:
