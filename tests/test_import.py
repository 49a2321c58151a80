"""Importing the package costs torch and nothing else."""

import subprocess
import sys

FORBIDDEN = ["triton", "snntorch", "norse", "spikingjelly", "matplotlib", "sklearn", "hypothesis"]


def loaded_by(statement):
    code = f"import sys, torch; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_import_is_lean():
    assert not loaded_by("import snn_lnm") & set(FORBIDDEN)


def test_the_check_can_fail():
    assert loaded_by("import snn_lnm, matplotlib, hypothesis") >= {"matplotlib", "hypothesis"}
