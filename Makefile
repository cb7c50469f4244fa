# What a person types. `make` alone lists the targets.

PYTHON  ?= python3
BIN     := .venv/bin
# cpu or gpu; when not said, the variant that is installed stays.
VARIANT ?=
UV      ?= uv
# Where uv finds a CPU build of torch: pip's own folder of wheels where one is configured, PyTorch's index elsewhere.
CPU_TORCH ?= $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS),--torch-backend cpu)

# Some containers set it. Without byte code on disk every Ray process would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-gpu test-methods test-long check format lock bench-train bench-sweep bench-prepare bench-data drill-train bench-serve bench-plan bench-demo bench-first-data bench-ewc bench-gate bench-console house drill-gate drill-release down clean fuzz-spec bench-spec

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: ## build .venv and .venv-engine, where they are not up to date (VARIANT=gpu for GPUs)
	@$(PYTHON) platform/locks/install.py $(VARIANT)

demo: setup ## from a YAML file to an answer over HTTP, for real (APPROVE=1 approves without asking)
	@$(BIN)/assay demo $(if $(APPROVE),--approve)

test: setup ## all tests, two files at a time
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-gpu: setup ## training, memory, kernels and artifacts on a GPU (one of 80 GB to itself, VARIANT=gpu, 64 GB of memory)
	@$(BIN)/python -m pytest tests/gpu -rA -q

test-methods: setup ## every method with every objective and optimizer, on a tiny model (some minutes)
	@$(BIN)/python -m pytest tests/test_methods.py tests/test_objectives.py tests/test_chain.py -m "methods or not methods" -q

test-long: setup ## the tests that `make test` leaves out because they take minutes
	@$(BIN)/python -m pytest -m long

check: setup ## lint, types, import contracts, and the README's generated parts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m assay.cli.readme --check

format: setup ## rewrite the code in the house format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

fuzz-spec: setup ## 100,000 inputs that nobody meant to write: each ends as a spec, or as errors with places
	@$(BIN)/python tests/fuzz_spec.py

bench-spec: setup ## seconds and memory of --help, validate and plan
	@$(BIN)/python tests/bench/bench_spec.py

bench-train: setup ## tokens/s of the train stage against a bare loop
	@$(BIN)/python tests/bench/bench_train.py

bench-sweep: setup ## a sweep by halving against the grid; what a trial costs on warm workers
	@$(BIN)/python tests/bench/bench_sweep.py

bench-data: setup ## what data.steps finds of planted duplicates and personal data, rows/s and memory
	@$(BIN)/python tests/bench/bench_data.py

bench-prepare: setup ## memory and time of preparing 100,000 and a million rows
	@$(BIN)/python tests/bench/bench_prepare.py

drill-train: setup ## kill a training run 20 times, damage its checkpoints 20 times
	@$(BIN)/python tests/bench/drill_train.py

bench-serve: setup ## tokens/s and time to first token: bare engine, Serve, gateway
	@$(BIN)/python tests/bench/bench_serve.py

bench-gate: setup ## false passes by simulation, and items/s of evaluating against the lm_eval command
	@$(BIN)/python tests/bench/bench_gate.py
	@$(BIN)/python tests/bench/bench_gate_speed.py
	@$(BIN)/python tests/bench/bench_contamination.py

bench-console: setup ## seconds of the console's pages with 1,000 runs in the ledger
	@$(BIN)/python tests/bench/bench_console.py

bench-ewc: setup ## what elastic weight consolidation keeps of the demo's retention task
	@PYTHONPATH=tests $(BIN)/python tests/bench/bench_ewc.py

house: setup ## the code by the limits that it is held to: sizes, density, comments
	@$(BIN)/python tests/house.py

drill-gate: setup ## a hundred evaluations of a server that fails; twenty of one model; an engine that is killed
	@$(BIN)/python tests/bench/drill_gate.py
	@$(BIN)/python tests/bench/bench_gate_speed.py --drill --items 15

drill-release: setup ## releases in thousands of orders of events, killed at any line, against the real HAProxy and ledger
	@$(BIN)/python tests/drills/drill_release.py

bench-plan: setup ## the plan's estimate of memory against what training measures
	@PYTHONPATH=tests $(BIN)/python tests/bench/bench_plan.py

bench-first-data: setup ## three public data sets, untouched, from init to a verdict: make bench-first-data PACKAGES=FOLDER
	@$(BIN)/python tests/bench/bench_first_data.py --packages $(or $(PACKAGES),packages)

bench-demo: setup ## the demo's verdict and margins for ten seeds and two precisions (hours; goes on where it was)
	@$(BIN)/python tests/bench/bench_demo.py

down: ## stop everything that `make demo` or `assay up` started
	@if [ -x $(BIN)/assay ]; then $(BIN)/assay down; fi

clean: down ## remove both environments and all caches; the ledger and the artifacts stay
	@rm -rf .venv .venv-engine .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache platform/*.egg-info
	@find platform tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The locks name exact versions for CPython 3.11 on x86-64 Linux; see platform/locks/README.md.
COMPILE = $(UV) pip compile --quiet --upgrade --no-header --python-version 3.11 --python-platform x86_64-manylinux_2_28

lock: ## renew the locks from pyproject.toml and platform/locks/*.in (needs uv)
	$(COMPILE) $(CPU_TORCH) --override platform/locks/overrides.txt --extra demo --extra dev pyproject.toml -o platform/locks/platform-cpu.txt
	$(COMPILE) $(CPU_TORCH) --override platform/locks/overrides.txt platform/locks/engine-cpu.in -o platform/locks/engine-cpu.txt
	$(COMPILE) --override platform/locks/overrides.txt --extra demo --extra dev --extra aws --extra gpu pyproject.toml -o platform/locks/platform-gpu.txt
	$(COMPILE) platform/locks/engine-gpu.in -o platform/locks/engine-gpu.txt
