# `make` alone prints the targets. Everything stays in this folder: the environment is .venv, built
# from the packages that requirements/ pins, and nothing is installed twice.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin
UV_VERSION := 0.13.9
# Python for the environment; if empty, the first of PYTHONS that is 3.11 or newer.
PYTHON ?=
PYTHONS := python3 python3.13 python3.12 python3.11
# Whether to install what only code for an NVIDIA GPU needs: yes, or no. Default: yes with a GPU.
GPU ?= $(if $(wildcard /dev/nvidiactl /dev/dxg),yes,no)
# PyTorch needs these on a GPU only. It loads CUDA's other libraries on every machine.
FOR_GPUS := triton nvidia-cusolver nvidia-cuda-cccl nvidia-nvtx cuda-bindings cuda-pathfinder
# Arguments for pytest in `make test`: make test TESTS="tests/unit -k arrows"
TESTS ?=
# Tar files for benchmarks that need pictures: photographs, and test images of the bundled model.
PHOTOGRAPHS ?=
BUNDLED_TEST ?=
# How long `make fuzz` runs on images and, before that, on packets between worker and loaders.
MINUTES ?= 30
WIRE_SECONDS ?= 60
# Rows of `make bench-pipeline`; empty: all rows.
ROWS ?=
# Steps of `make gpu-check`, by name or number; empty: all steps.
STEPS ?=
# Rows of `make chaos`, by the names in tests/chaos/rows.py; empty: all rows.
FAULTS ?=

# A stamp's name contains a digest of its inputs. So there is no stamp for a changed lock, or for a
# moved folder, whose scripts would point to the old one. The stamp is made last, so an interrupted
# setup has none either.
digest = $(shell { pwd; cat $(1); } | cksum | tr -s ' ' -)
# The C extension, built if there is a compiler; see setup.py.
EXTENSION := resnext/picture/_resample
ENVIRONMENT := .venv/.environment-$(call digest,requirements/uv.txt requirements/dev.txt)
PROJECT := .venv/.project-$(call digest,pyproject.toml setup.py $(wildcard $(EXTENSION)*.[ch]))
GPU_PARTS := .venv/.gpu-parts-$(call digest,requirements/dev.txt)
FUZZER := .venv/.fuzzer-$(call digest,requirements/fuzz.txt)
PEERS := .venv/.peers-$(call digest,requirements/bench.txt)
RELEASE := .venv/release-$(call digest,requirements/release.txt)
AUDIT := .venv/audit-$(call digest,requirements/pip-audit.txt)

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(if $(filter yes,$(GPU)),$(GPU_PARTS),$(PROJECT)) ## install everything into .venv (other targets do so if it is missing) [GPU=yes]
ifeq ($(MAKECMDGOALS),setup)
	@echo 'Installed. Next: "Run it on this machine" in README.md, or docs/tutorial.md'
endif

.PHONY: demo
demo: setup ## classify a dozen pictures through the whole system on this machine
	@$(BIN)/python demo/run.py

.PHONY: test
test: $(GPU_PARTS) ## run all tests
	@$(BIN)/python -m pytest $(TESTS) || { [ $$? = 1 ] && $(AGAIN); }
# Status 1: all tests ran, and some failed; see tests/conftest.py. A busy machine alone can make a
# test fail. So these run again, one by one, and the target fails if one of them fails again.
AGAIN := { echo "== the tests that failed, once more and alone =="; $(BIN)/python -m pytest \
	$(TESTS) --numprocesses=0 --last-failed --last-failed-no-failures=none; }

.PHONY: fuzz
fuzz: $(FUZZER) ## fuzz packets for WIRE_SECONDS=60, the resampler, then images for MINUTES=30; keeps failing inputs
	@mkdir -p build/fuzz
	@$(BIN)/python -m tests.fuzz.wire -verbosity=0 -max_total_time=$(WIRE_SECONDS) \
		-artifact_prefix=build/fuzz/wire-
	@$(BIN)/python -m tests.fuzz.resampler --minutes $$(awk 'BEGIN { print $(MINUTES) / 10 }')
	@$(BIN)/python -m tests.fuzz.run --minutes $(MINUTES)

.PHONY: lint
lint: $(GPU_PARTS) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: bench
bench: setup ## run the benchmarks; PHOTOGRAPHS=a.tar BUNDLED_TEST=b.tar for those that need pictures
	@set -e; for one in $(BENCHMARKS); do echo "== $$one"; $(BIN)/python -m $$one; done
	@$(call bench_on,benchmarks.system.main_job,PHOTOGRAPHS)
	@$(call bench_on,benchmarks.model.bundled_accuracy,BUNDLED_TEST)
bench_on = $(if $($(2)),echo "== $(1)"; $(BIN)/python -m $(1) "$($(2))",echo "skipped, because $(2) is not set: $(1)")
MODEL_BENCHMARK := benchmarks.model.comparison
PIPELINE_BENCHMARK := benchmarks/pipeline.py
BENCHMARKS := benchmarks.stage.cli_startup benchmarks.stage.sources benchmarks.model.roofline \
	benchmarks.stage.worker_cpu

.PHONY: bench-model
bench-model: $(PEERS) ## compare the network with other engines; PHOTOGRAPHS=photos.tar for real pictures
	@$(BIN)/python -m $(MODEL_BENCHMARK) $(if $(PHOTOGRAPHS),--photographs "$(PHOTOGRAPHS)")

.PHONY: bench-pipeline
bench-pipeline: setup ## compare the worker's pipeline with other programs; PHOTOGRAPHS=photos.tar [ROWS="busy cpu"]
	@$(BIN)/python $(PIPELINE_BENCHMARK) $(if $(PHOTOGRAPHS),"$(PHOTOGRAPHS)") $(if $(ROWS),--row $(ROWS))

.PHONY: gpu-check
gpu-check: $(GPU_PARTS) ## check the GPU path in 460 s; without a GPU, on a double of CUDA [STEPS="0-7"]
	@$(BIN)/python -m benchmarks.gpu_check --table build/gpu-check.md $(if $(STEPS),--steps $(STEPS))

.PHONY: chaos
chaos: setup ## cause each fault repeatedly, on both databases; about 50 minutes [FAULTS="kill-worker steal"]
	@$(BIN)/python -m tests.chaos $(FAULTS:%=--row %)

.PHONY: bench-size
bench-size: setup ## measure a job of ten million images beside a thousand small jobs
	@$(BIN)/python -m $(SIZE_BENCHMARK)
SIZE_BENCHMARK := benchmarks.system.at_size

.PHONY: bench-fleet
bench-fleet: setup ## measure a fleet of stub workers, simulate larger ones, and write the tables of docs/scaling.md
	@$(BIN)/python -m $(FLEET_BENCHMARK) --calibrate benchmarks/simulation/calibration.json --seconds 20
	@$(BIN)/python -m benchmarks.simulation --write
FLEET_BENCHMARK := benchmarks.system.fleet

.PHONY: docs
docs: $(GPU_PARTS) ## generate docs/settings.md, errors.md, metrics.md and licences.md
	@$(BIN)/python docs/generate.py
	@$(BIN)/python release/licences.py

.PHONY: screenshots
screenshots: setup ## take the screenshots for docs/pages.md (needs Chromium)
	@$(BIN)/python -m demo.screenshots

.PHONY: release
release: $(RELEASE) ## build the release twice into build/release, and check it in clean environments
	@$(BIN)/python release/build.py build/release
	@$(BIN)/python release/check.py build/release $(RELEASE)/bin

.PHONY: audit
audit: $(AUDIT) ## look up every pinned version in OSV's security advisories (needs the network)
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
	printf 'check-wheel-contents\ncyclonedx-bom\n' | $(LOCK) - -o requirements/release.txt
	echo setuptools | $(LOCK) - --constraint requirements/dev.txt -o requirements/build.txt
PRODUCER := --extra api --extra parquet
WORKER := --extra embedded --extra s3 --extra gcs
LOCK := $(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --quiet --custom-compile-command "make lock"

.PHONY: clean
clean: ## remove .venv and all caches
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis $(EXTENSION).*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

INSTALL := $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes

# Always starts from nothing: an interrupted installation cannot be trusted.
$(ENVIRONMENT):
	@python=$$($(FIND_PYTHON)) && echo "1/3 Making .venv with $$("$$python" --version), and uv" && \
		"$$python" -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes -r requirements/uv.txt
	@echo "2/3 Installing packages: a download of 2.9 GB, $(if $(filter yes,$(GPU)),and then\
		0.5 GB for the GPU,without 0.5 GB that only a GPU needs (with it: make setup GPU=yes))"
	@printf '%s\n' $(FOR_GPUS) > .venv/for-gpus
	@$(INSTALL) --excludes .venv/for-gpus -r requirements/dev.txt
	@touch $@

# The build uses the pinned setuptools, without isolation, so nothing unpinned is fetched.
$(PROJECT): $(ENVIRONMENT)
	@echo "3/3 Installing resnext-queue itself, from this folder"
	@rm -f $(EXTENSION).*.so
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# The tests need these even without a GPU, because they compile kernels for one.
$(GPU_PARTS): $(PROJECT)
	@echo "Installing what only code for a GPU needs"
	@$(INSTALL) -r requirements/dev.txt
	@touch $@

$(FUZZER): $(PROJECT)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/fuzz.txt
	@touch $@

$(PEERS): $(PROJECT)
	@echo "Installing the engines for the comparison"
	@$(INSTALL) --quiet -r requirements/bench.txt
	@touch $@

# These tools have their own environments, so that they do not affect other packages' versions.
$(AUDIT) $(RELEASE): $(PROJECT)
	@$(BIN)/uv venv --quiet --clear --relocatable --python $(BIN)/python $@.new
	@$(BIN)/uv pip install --quiet --python $@.new/bin/python --require-hashes \
		-r requirements/$(if $(filter $(AUDIT),$@),pip-audit,release).txt
	@rm -rf $@ && mv $@.new $@

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
