# `make` alone prints what there is. Everything happens in this folder: the environment is
# .venv, made of what requirements/ pins, and nothing is installed twice.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin
UV_VERSION := 0.13.9
# Python to make the environment with; empty: the first of these that is 3.11 or newer.
PYTHON ?=
PYTHONS := python3 python3.13 python3.12 python3.11
# What `make test` gives to pytest: make test TESTS="tests/unit -k arrows"
TESTS ?=
# Tar files for the benchmarks that want them: of photographs, and of CIFAR-10's test images.
PHOTOGRAPHS ?=
CIFAR10_TEST ?=
# How long `make fuzz` runs: with images, and before that with packets between worker and loaders.
MINUTES ?= 30
WIRE_SECONDS ?= 60
# Rows of `make bench-pipeline`; empty: all of them.
ROWS ?=
# Steps of `make gpu-check`, by name or number; empty: all of them.
STEPS ?=
# Rows of `make chaos`, by the names in tests/chaos/rows.py; empty: all of them.
FAULTS ?=

# A stamp names what it stands for, so a changed lock (or a moved folder, whose scripts would
# point to the old one) has none. It is made last: an interrupted set-up has none either.
digest = $(shell { pwd; cat $(1); } | cksum | tr -s ' ' -)
# In C, where there is a compiler; see setup.py.
EXTENSION := resnext/picture/_resample
ENVIRONMENT := .venv/.environment-$(call digest,requirements/uv.txt requirements/dev.txt)
PROJECT := .venv/.project-$(call digest,pyproject.toml setup.py $(wildcard $(EXTENSION)*.[ch]))
FUZZER := .venv/.fuzzer-$(call digest,requirements/fuzz.txt)
PEERS := .venv/.peers-$(call digest,requirements/bench.txt)
AUDIT := .venv/audit-$(call digest,requirements/pip-audit.txt)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(PROJECT) ## install everything into .venv (the other targets do it when it is missing)

.PHONY: demo
demo: setup ## classify a dozen pictures through the whole system on this machine
	@$(BIN)/python demo/run.py

.PHONY: test
test: setup ## run all tests
	@$(BIN)/python -m pytest $(TESTS)

.PHONY: fuzz
fuzz: $(FUZZER) ## mutate packets for WIRE_SECONDS=60, the resampler, then images for MINUTES=30; what fails is kept
	@mkdir -p build/fuzz
	@$(BIN)/python -m tests.fuzz.wire -verbosity=0 -max_total_time=$(WIRE_SECONDS) \
		-artifact_prefix=build/fuzz/wire-
	@$(BIN)/python -m tests.fuzz.resampler --minutes $$(awk 'BEGIN { print $(MINUTES) / 10 }')
	@$(BIN)/python -m tests.fuzz.run --minutes $(MINUTES)

.PHONY: lint
lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: bench
bench: setup ## run the benchmarks; PHOTOGRAPHS=a.tar CIFAR10_TEST=b.tar for those that want pictures
	@set -e; for one in $(BENCHMARKS); do echo "== $$one"; $(BIN)/python -m $$one; done
	@$(call bench_on,benchmarks.system.main_job,PHOTOGRAPHS)
	@$(call bench_on,benchmarks.model.bundled_accuracy,CIFAR10_TEST)
bench_on = $(if $($(2)),echo "== $(1)"; $(BIN)/python -m $(1) "$($(2))",echo "left out, for want of $(2): $(1)")
MODEL_BENCHMARK := benchmarks.model.comparison
PIPELINE_BENCHMARK := benchmarks/pipeline.py
BENCHMARKS := benchmarks.stage.cli_startup benchmarks.stage.sources benchmarks.model.roofline \
	benchmarks.stage.worker_cpu

.PHONY: bench-model
bench-model: $(PEERS) ## the network beside what else could run it; PHOTOGRAPHS=photos.tar for real pictures
	@$(BIN)/python -m $(MODEL_BENCHMARK) $(if $(PHOTOGRAPHS),--photographs "$(PHOTOGRAPHS)")

.PHONY: bench-pipeline
bench-pipeline: setup ## the worker between network and device, beside its peers; PHOTOGRAPHS=photos.tar [ROWS="busy cpu"]
	@$(BIN)/python $(PIPELINE_BENCHMARK) $(if $(PHOTOGRAPHS),"$(PHOTOGRAPHS)") $(if $(ROWS),--row $(ROWS))

.PHONY: gpu-check
gpu-check: setup ## check the GPU path, in 460 s; without a GPU on a double of one [STEPS="0-7"]
	@$(BIN)/python -m benchmarks.gpu_check --table build/gpu-check.md $(if $(STEPS),--steps $(STEPS))

.PHONY: chaos
chaos: setup ## cause every fault, again and again, on both databases; some 40 minutes [FAULTS="kill-worker steal"]
	@$(BIN)/python -m tests.chaos $(FAULTS:%=--row %)

.PHONY: bench-size
bench-size: setup ## what ten million images in one job cost, with a thousand small jobs beside it
	@$(BIN)/python -m $(SIZE_BENCHMARK)
SIZE_BENCHMARK := benchmarks.system.at_size

.PHONY: docs
docs: setup ## write docs/settings.md, errors.md and metrics.md anew from the code
	@$(BIN)/python docs/generate.py

.PHONY: audit
audit: $(AUDIT) ## look every pinned version up in OSV, the database of advisories (needs the network)
	@$(BIN)/python requirements/audit.py $(AUDIT)/bin/pip-audit

.PHONY: lock
lock: setup ## pin the newest versions that pyproject.toml allows, with hashes
	$(LOCK) pyproject.toml $(PRODUCER) -o requirements/producer.txt
	$(LOCK) pyproject.toml $(PRODUCER) --extra flower -o requirements/flower.txt
	$(LOCK) pyproject.toml $(WORKER) -o requirements/worker.txt
	$(LOCK) pyproject.toml $(WORKER) --group dev -o requirements/dev.txt
	$(LOCK) pyproject.toml $(WORKER) --group dev --group bench -o requirements/bench.txt
	$(LOCK) --group pyproject.toml:fuzz -o requirements/fuzz.txt
	echo "uv==$(UV_VERSION)" | $(LOCK) - -o requirements/uv.txt
	echo img2dataset | $(LOCK) - -o requirements/img2dataset.txt
	echo pip-audit | $(LOCK) - -o requirements/pip-audit.txt
	echo setuptools | $(LOCK) - --constraint requirements/dev.txt -o requirements/build.txt
PRODUCER := --extra api --extra parquet
WORKER := --extra embedded --extra s3 --extra gcs
LOCK := $(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --quiet --custom-compile-command "make lock"

.PHONY: clean
clean: ## remove .venv and every cache
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis $(EXTENSION).*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# From the beginning each time: what a broken-off installation left is not worth trusting.
$(ENVIRONMENT):
	@echo "Setting up .venv (some minutes where packages have to be downloaded first)"
	@python=$$($(FIND_PYTHON)) && "$$python" -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
		--require-hashes -r requirements/dev.txt
	@touch $@

# Its build needs setuptools, which the lock pins: no isolation, so nothing unpinned is fetched.
$(PROJECT): $(ENVIRONMENT)
	@rm -f $(EXTENSION).*.so
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(FUZZER): $(PROJECT)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/fuzz.txt
	@touch $@

$(PEERS): $(PROJECT)
	@echo "Installing what the network is compared with"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
		--require-hashes -r requirements/bench.txt
	@touch $@

# In an environment of its own: what audits the others should not decide about their versions.
$(AUDIT): $(PROJECT)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $@.new
	@$(BIN)/uv pip install --quiet --python $@.new/bin/python \
		--require-hashes -r requirements/pip-audit.txt
	@mv $@.new $@

define FIND_PYTHON
for python in $(or $(PYTHON),$(PYTHONS)); do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
		2>/dev/null && echo "$$python" && exit; \
done; \
echo "No Python 3.11 or newer with venv among: $(or $(PYTHON),$(PYTHONS))." \
	"Install one (on Debian and Ubuntu: apt install python3 python3-venv)," \
	"or name it: make setup PYTHON=/path/to/python3" >&2; \
exit 1
endef
