"""Importing the package costs torch and nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ADAPTERS = sorted((Path(__file__).parents[1] / "adapters").glob("snn_lnm_*"))
FORBIDDEN = ["triton", "snntorch", "norse", "spikingjelly", "matplotlib", "sklearn", "hypothesis"]


def loaded_by(statement):
    code = f"import sys, torch; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_import_is_lean():
    assert not loaded_by("import snn_lnm") & set(FORBIDDEN)


def test_the_check_can_fail():
    assert loaded_by("import snn_lnm, matplotlib, hypothesis") >= {"matplotlib", "hypothesis"}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.name)
def test_adapters_import_the_surface_that_is_made_for_them(adapter):
    found = set()
    for path in adapter.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {name for name in names if name.split(".")[0] == "snn_lnm"}
    assert found == {"snn_lnm.adapting"}
