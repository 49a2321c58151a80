.PHONY: demo test bench bench-gpu
PYTHON := .venv/bin/python

.venv/.installed: pyproject.toml
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/.installed
	$(PYTHON) -m snn_lnm demo

test: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	$(PYTHON) -m pytest

bench: .venv/.installed
	$(PYTHON) -m benchmarks.layer --compile

bench-gpu: .venv/.installed
	$(PYTHON) -m benchmarks.gpu --csv outputs/gpu.csv
