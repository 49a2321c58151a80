.PHONY: demo test test-matrix coverage bench bench-gpu
PYTHON := .venv/bin/python

.venv/.demo: pyproject.toml
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --no-compile --editable '.[demo]'  # byte code of what is imported, not of all
	touch $@

.venv/.installed: .venv/.demo
	$(PYTHON) -m pip install --quiet --no-compile --editable '.[dev]'
	touch $@

demo: .venv/.demo
	$(PYTHON) -m snn_lnm demo

test: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	$(PYTHON) -m pytest

test-matrix:
	python3 tests/matrix.py

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
