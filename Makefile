# `make` lists the targets. Each one builds what it needs once; stamps in the environments remember it.
# PYTHON chooses the interpreter (3.11 or later); TORCH the torch to install, as pip writes it.

PYTHON ?= python3
TORCH_VERSION ?= 2.13.0
DRIVER := $(wildcard /proc/driver/nvidia/version)$(shell command -v nvidia-smi 2>/dev/null)
# Of the torch above: wheels for the CPU come without it. Its interpreter and compiler serve the tests.
TRITON ?= triton==3.7.1; sys_platform == "linux"
TORCH ?= $(if $(DRIVER),torch>=2.11,torch==$(TORCH_VERSION))

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
E3NN04 := .venv-e3nn04
PIP04 := $(E3NN04)/bin/python -m pip --disable-pip-version-check
BUILD_TOOLS := "scikit-build-core>=0.10" "pybind11>=2.13" "cmake>=3.20" ninja
SOURCES := $(shell find csrc -type f) CMakeLists.txt pyproject.toml

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build demo test bench lint golden docs clean

help:
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

build: $(VENV)/built ## create .venv, install torch and the tools, build the extension

demo: build ## run a trained potential with e3nn and with equikern, side by side
	$(PY) -m equikern demo

test: build $(if $(wildcard tests/interop),$(E3NN04)/built) ## run all tests, the examples in the docs too, then e3nn 0.4
	$(PY) -m pytest --doctest-modules --doctest-glob='*.md' tests equikern docs README.md
ifneq ($(wildcard tests/interop),)
	TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 $(E3NN04)/bin/python -m pytest tests/interop -q
endif

# BENCH picks suites and options: make bench BENCH='bench/test_harmonics.py --edges 1000'
# and BENCH_PY the environment: make bench BENCH='bench/test_mace.py' BENCH_PY=.venv-e3nn04/bin/python
BENCH_PY ?= $(PY)
bench: build $(if $(findstring $(E3NN04),$(BENCH_PY)),$(E3NN04)/built) ## time the cases against their rivals, many minutes; writes bench/RESULTS.md and bench/plots
	mkdir -p bench/out
	$(BENCH_PY) -m pytest -o addopts=--strict-markers -o pythonpath=bench -o testpaths=bench -W default -q --benchmark-json=bench/out/bench.json $(BENCH)
	PYTHONPATH=bench $(PY) bench/report.py bench/out/bench.json bench/RESULTS.md bench/plots

lint: build ## check style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy equikern
	find csrc -name '*.[chi]pp' -o -name '*.inl' -o -name '*.cu*' | xargs $(VENV)/bin/clang-format --dry-run -Werror

golden: build ## record e3nn's results anew; review the diff
	$(PY) tools/make_golden.py

docs: build ## run the examples in the docs and the docstrings
	$(PY) -m pytest --doctest-modules --doctest-glob='*.md' equikern docs README.md

clean: ## remove the environments, the build and the caches
	rm -rf $(VENV) $(E3NN04) build bench/out .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and alone: what follows then finds it installed and takes it as it is.
$(VENV)/torch:
	@$(PYTHON) -c 'import sys; sys.exit("equikern needs Python 3.11 or later: make PYTHON=...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q "$(TORCH)"
	@touch $@

$(VENV)/tools: Makefile | $(VENV)/torch
	$(PIP) install -q $(BUILD_TOOLS)
	$(PY) -c 'import triton' 2>/dev/null || $(PIP) install -q '$(TRITON)'
	@touch $@

$(VENV)/built: $(SOURCES) $(VENV)/tools
	$(PIP) install -q --no-build-isolation -e '.[dev]'
	@touch $@

# The last e3nn with the old coupling signs, and MACE, which needs it, for tests/interop. It shares the build: same
# interpreter, same extension. The wheel goes in anew, then what it needs, as far as it is missing.
$(E3NN04)/e3nn: | $(VENV)/torch
	$(PY) -m venv --clear $(E3NN04)
	$(PIP04) install -q "torch==$(TORCH_VERSION)"
	$(PIP04) install -q "e3nn==0.4.4" "mace-torch==0.3.16" "setuptools<80" pytest pytest-benchmark hypothesis numpy
	@touch $@

$(E3NN04)/built: $(VENV)/built | $(E3NN04)/e3nn
	rm -rf build/editable
	$(PY) -c 'from scikit_build_core.build import build_editable; build_editable("build/editable")' >/dev/null
	$(PIP04) install -q --no-deps --force-reinstall build/editable/*.whl
	$(PIP04) install -q build/editable/*.whl
	@touch $@
