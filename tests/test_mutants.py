"""The catalogue of mutants applies to the code as it is, and a slice of it is killed at every commit.

All of it: `python -m tests.mutants`, and `python -m tests.mutants --engine cpp` (each mutant is compiled).
"""

import os
import subprocess
import sys
from collections import Counter

from tests.mutants.__main__ import unapplicable
from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import ROOT, Mutant

SLICE = os.environ.get("SNN_LNM_MUTANTS", "1/16")


def test_every_mutant_applies():
    assert not unapplicable(MUTANTS)
    assert not [why for why, count in Counter((m.file, m.why) for m in MUTANTS).items() if count > 1]
    assert len([m for m in MUTANTS if not m.builds]) >= 40 and len([m for m in MUTANTS if m.builds]) >= 25


def test_a_change_that_no_longer_applies_is_said():
    lost = Mutant("nothing", "snn_lnm/reference.py", "no such text", "", ())
    twice = Mutant("too much", "snn_lnm/reference.py", "return", "", ())
    assert len(unapplicable([lost, twice, *MUTANTS])) == 2


def test_their_tests_exist():
    for name in {test for mutant in MUTANTS for test in mutant.tests}:
        path, *inside = name.split("[")[0].split("::")
        text = (ROOT / path).read_text()
        assert all(f"def {part}(" in text or f"class {part}(" in text for part in inside), name


def test_a_slice_is_killed():
    """Another slice by SNN_LNM_MUTANTS=K/N; in a process of its own, which has not imported the package."""
    command = [sys.executable, "-m", "tests.mutants", "--slice", SLICE]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_survivor_fails_the_run():
    """A change that changes nothing is killed by nothing, and the run says so."""
    run_the_only_mutant = """
import sys
from tests.mutants import __main__ as command
from tests.mutants.mutant import Mutant

old, test = "u = h - parameters.threshold", "tests/test_law.py::test_an_infinite_threshold_integrates"
command.MUTANTS = [Mutant("nothing at all", "snn_lnm/reference.py", old, f"{old}  # the same", (test,))]
sys.exit(command.main([]))
"""
    found = subprocess.run([sys.executable, "-c", run_the_only_mutant], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1 and "SURVIVES" in found.stdout, found.stdout + found.stderr
