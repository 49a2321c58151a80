.PHONY: demo test lint types engine tests coverage bench bench-gpu
.PHONY: test-all test-slow test-audit test-peers test-mutants test-matrix test-nightly
PYTHON := .venv/bin/python
WORKERS ?= 2
NIGHTLY_MINUTES ?= 15
PYTEST := $(PYTHON) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# Byte code is kept, whatever the shell says: without it each process that a test starts compiles PyTorch's Python anew.
export PYTHONDONTWRITEBYTECODE :=

# Byte code of what is imported, not of all: --no-compile.
INSTALL := python3 -m venv .venv && $(PYTHON) -m pip install --quiet --no-compile --editable

.venv/.demo: pyproject.toml
	$(INSTALL) '.[demo]'
	touch $@

.venv/.installed: pyproject.toml
	$(INSTALL) '.[dev]'
	touch .venv/.demo $@  # dev holds all of demo

demo: .venv/.demo
	$(PYTHON) -m snn_lnm demo

# All four at a time. Each that fails is named at the end, the others run on.
test: .venv/.installed
	$(MAKE) --no-print-directory --keep-going --jobs 4 engine lint types tests

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/.installed
	.venv/bin/pyright

engine: .venv/.installed  # built while the first tests, which do without it, run
	$(PYTHON) -c 'from snn_lnm.engines import cpp; cpp.load()'

tests: .venv/.installed
	$(PYTEST)

# Everything. Each part can be run alone, and the parts after one that fails run too.
test-all: .venv/.installed
	$(MAKE) --no-print-directory --keep-going --jobs 1 test test-slow test-mutants test-matrix test-nightly

test-slow: .venv/.installed
	$(PYTEST) -m slow

test-audit: .venv/.installed
	$(PYTHON) -m pytest -m slow tests/test_audit.py

test-peers: .venv/.installed
	$(PYTHON) -m pytest -m slow tests/norse/test_peers.py

test-mutants: .venv/.installed
	$(PYTHON) -m tests.mutants --engine all --jobs $(WORKERS)

test-matrix:
	python3 tests/matrix.py

test-nightly: .venv/.installed
	$(PYTHON) tests/nightly.py $(NIGHTLY_MINUTES)

coverage: .venv/.installed
	$(PYTHON) tests/covered.py

bench: .venv/.installed
	$(PYTHON) -m benchmarks.layer --compile
	$(PYTHON) -m benchmarks.floor
	MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456 $(PYTHON) -m benchmarks.layer --compile
	$(PYTHON) -m benchmarks.network --compile

bench-gpu: .venv/.installed
	$(PYTHON) -m benchmarks.gpu_kernels
	$(PYTHON) -m benchmarks.gpu --csv outputs/gpu.csv
	$(PYTHON) -m benchmarks.network --device cuda --out outputs/gpu
