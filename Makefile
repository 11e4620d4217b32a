# Needs Python >= 3.11, make and a package index. Nothing outside this folder is changed.
#
#   make demo     compress a real model through the running service and show what came of it
#   make test     every test
#
# PYTHON       the interpreter that makes .venv                           (python3)
# TORCH_INDEX  another index to take torch from, such as PyTorch's own CPU or CUDA one; empty: the
#              package index that pip is configured with
# ARGS         further arguments of the command: make test ARGS="tests/worker -x"
# QUICK        1: the short form of make bench
# JOBS         test processes at once; a file's tests stay together               (2)
# ENGINE       docker, or podman, for the images                                (docker)

PYTHON      ?= python3
TORCH_INDEX ?=
ARGS        ?=
QUICK       ?=
JOBS        ?= 2
ENGINE      ?= docker

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types check docs pipelines bench reproduce real fuzz memory chaos load tools audit sbom lock image containers constraints clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(STAMP)  ## .venv with everything, at the releases of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}; try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
ifneq ($(strip $(TORCH_INDEX)),)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --index-url $(TORCH_INDEX) -c constraints.txt torch
endif
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## the service, a real model, its validation images: before and after
	$(BIN)/python examples/demo.py $(ARGS)

# Threads that wait sleep, since the tests' processes and services share the cores. Files in their
# order: the slowest hold few tests, and would all come last.
test: install  ## every test, with coverage
	OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest \
	  -n $(JOBS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered $(ARGS)

lint: install  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## mypy, strict
	$(BIN)/mypy

check: lint types test  ## all three

docs: install  ## the documentation as pages, in ./site; strict
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

pipelines:  ## environments for the pipeline examples, in .venv-pipelines, for their tests
	@for names in "mlflow transformers" prefect kubeflow; do \
	  place=.venv-pipelines/$${names%% *}; \
	  $(PYTHON) -m venv $$place || exit 1; \
	  if [ -n "$(strip $(TORCH_INDEX))" ] && [ $$place = .venv-pipelines/mlflow ]; then \
	    $$place/bin/pip install -q --disable-pip-version-check --no-deps --index-url $(TORCH_INDEX) -c constraints.txt torch || exit 1; \
	  fi; \
	  $$place/bin/pip install -q --disable-pip-version-check . $$(printf -- '-r examples/pipelines/requirements/%s.txt ' $$names) || exit 1; \
	done

bench: install  ## against peers, in turns: one table, one JSON; QUICK=1: two minutes
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

reproduce: install  ## the method's own table: trains, compresses, writes docs/results.md
	$(BIN)/python -m benchmarks.reproduce $(ARGS)

real: install  ## MNIST, Fashion-MNIST, EfficientNet-Lite0 and MiniLM through the service, beside torch; writes docs/real-models.md
	$(BIN)/python -m benchmarks.real $(ARGS)

fuzz: install  ## hostile files and requests by the thousand
	RANKPRESS_FUZZ_EXAMPLES=1000 $(BIN)/python -m pytest -q tests/rankpress/formats/test_fuzz_formats.py tests/worker/checkpoint/test_checkpoint_fuzz.py
	$(BIN)/python -m tests.fuzz $(ARGS)

memory: install  ## a 6 GB checkpoint goes through, and what the processes hold, the client with 2 GB; 20 GB of disk
	$(BIN)/python -m tests.end_to_end.memory $(ARGS)
	$(BIN)/python -m tests.end_to_end.client_memory

tools:  ## .venv-tools: what checks and describes the packages, and makes a client
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/python -m pip install -q --disable-pip-version-check -r requirements/tools.txt

audit: tools  ## known vulnerabilities of the releases in constraints.txt; needs the public lists of them
	.venv-tools/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt $(ARGS)

sbom: install tools  ## what .venv has, as CycloneDX JSON: dist/sbom.cdx.json
	@mkdir -p dist
	.venv-tools/bin/cyclonedx-py environment --output-reproducible -o dist/sbom.cdx.json $(VENV)

LOCK := .venv-tools/bin/pip-compile -q --generate-hashes --allow-unsafe --strip-extras --no-header \
  --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -c constraints.txt
# torch and what only its CUDA builds bring along have no place in a lock: each index has its own.
UNLOCKED := \#|torch=|triton=|nvidia-|cuda-|rankpress

lock: tools  ## requirements/*.lock anew, after `make constraints`; minutes
	$(LOCK) -o requirements/api.lock --extra cli --extra server --extra otel pyproject.toml
	$(LOCK) -o requirements/build.lock requirements/build.in
	$(LOCK) -o requirements/worker.lock --extra cli --extra worker --extra evaluation --extra otel pyproject.toml
	@for name in api build worker; do \
	  { echo "# Every file by its hash. Made by 'make lock' from pyproject.toml and constraints.txt."; \
	    awk '/^[A-Za-z#]/ {keep = !/^($(UNLOCKED))/} keep' requirements/$$name.lock; } > requirements/lock.new \
	  && mv requirements/lock.new requirements/$$name.lock || exit 1; \
	done

chaos: install  ## random faults under running jobs, then a count that must agree
	$(BIN)/python -m tests.chaos $(ARGS)

load: install  ## 200 queued jobs of 20 callers while uploads go on: latencies and memory
	$(BIN)/python -m tests.load $(ARGS)

image:  ## the three container images
	for target in api worker-cpu worker-cuda; do \
	  $(ENGINE) build --target $$target --build-arg TORCH_INDEX=$(TORCH_INDEX) -t rankpress-$$target . || exit 1; \
	done

containers: install  ## a job through the built images, after `make image`
	RANKPRESS_TEST_CONTAINERS=$(ENGINE) $(BIN)/python -m pytest -q tests/packaging/test_images.py $(ARGS)

constraints: install  ## writes constraints.txt anew from .venv
	@{ sed -n '/^#/p' constraints.txt; \
	   $(BIN)/python -m pip freeze --all --exclude-editable | grep -v -i '^pip==' | sed 's/+[A-Za-z0-9.]*$$//' \
	   | LC_ALL=C sort -f; } > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt

clean:  ## removes what make made
	rm -rf $(VENV) .venv-pipelines .venv-tools .demo site dist build .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
