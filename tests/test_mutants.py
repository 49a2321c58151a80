"""The catalogue of mutants applies to the code as it is, and the slice whose turn it is is killed.

All of it: `make test-mutants`.
"""

import subprocess
import sys
from collections import Counter

import pytest
import rotation

from tests.mutants.__main__ import unapplicable
from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import ROOT, Mutant
from tests.mutants.run import fast_compiler

KERNELS = ("snn_lnm/engines/triton/kernels.py",)  # written for Triton


def test_every_mutant_applies():
    assert not unapplicable(MUTANTS)
    assert not [why for why, count in Counter((m.file, m.why) for m in MUTANTS).items() if count > 1]
    assert len([m for m in MUTANTS if not m.builds]) >= 40 and len([m for m in MUTANTS if m.builds]) >= 25


def test_all_but_kernels_are_found_by_structure():
    assert [m.why for m in MUTANTS if not m.inside and not m.builds and m.file not in KERNELS] == []


def test_a_change_that_no_longer_applies_is_said():
    lost = Mutant("nothing", "snn_lnm/reference.py", "reset", "no such text", "", ())
    twice = Mutant("too much", "snn_lnm/reference.py", "reset", "h", "", ())
    gone = Mutant("nowhere", "snn_lnm/reference.py", "no_such_function", "return", "", ())
    problems = unapplicable([lost, twice, gone, *MUTANTS])
    assert len(problems) == 3 and "no_such_function (defined 0 times)" in problems[2]


WIDE = """
def other(a, b):
    return f(a, b) if a else b

class Law:
    def step(self, a, b):
        x = 1
        return f(a, b) if a else b
"""
NARROW = """
class Law:
    @decorated
    def step(
        self,
        a,
        b,
    ):
        x = 1
        return (
            f(
                a,
                b,
            )
            if a
            else b
        )

def other(a, b):
    return f(a, b) if a else b
"""


@pytest.mark.parametrize("text", [WIDE, NARROW])
def test_an_anchor_is_found_however_the_code_is_laid_out(text):
    """And wherever it stands in its file; what follows on further lines is indented like the first."""
    before, ours = Mutant("", "", "Law.step", "f(a, b) if a", "f(b, a) if a", ()).applied(text).split("class Law")
    assert "f(b, a)" not in before and ours.count("f(b, a) if a") == 1
    assert "\n        x = 2\n        y = 3\n" in Mutant("", "", "Law.step", "x=1", "x = 2\ny = 3", ()).applied(text)


def test_only_what_sees_a_change_is_compiled_again(tmp_path):
    """In a folder of its own each time, as the engine builds."""
    compiler, objects = fast_compiler(tmp_path), {}
    (tmp_path / "source.cpp").write_text('#include "header.h"\n')
    (tmp_path / "other.cpp").write_text("int g() { return 3; }\n")
    for build, value in enumerate((1, 1, 2, 1)):
        (tmp_path / "header.h").write_text(f"int f() {{ return {value}; }}\n")
        for name in ("source", "other"):
            (folder := tmp_path / f"build{build}-{name}").mkdir()
            command = [compiler, "-c", tmp_path / f"{name}.cpp", "-o", folder / f"{name}.o"]
            subprocess.run(command, check=True)
            made, key = (folder / f"{name}.o").read_bytes(), (name, value if name == "source" else 3)
            assert objects.setdefault(key, made) == made
    assert len({*objects.values()}) == len(objects) == 3
    assert len([*(tmp_path / "objects").iterdir()]) == 3 + 2  # and the headers of each source


def test_their_tests_exist():
    for name in {test for mutant in MUTANTS for test in mutant.tests}:
        path, *inside = name.split("[")[0].split("::")
        text = (ROOT / path).read_text()
        assert all(f"def {part}(" in text or f"class {part}(" in text for part in inside), name


def test_a_slice_is_killed():
    """In a process of its own, which has not imported the package."""
    command = [sys.executable, "-m", "tests.mutants", "--slice", rotation.mutants()]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, (
        f"{found.stdout}{found.stderr}\nThe same slice again: python -m tests.mutants --slice {rotation.mutants()}"
    )


def test_a_survivor_fails_the_run():
    """A change that changes nothing is killed by nothing, and the run says so."""
    run_the_only_mutant = """
import sys
from tests.mutants import __main__ as command
from tests.mutants.mutant import Mutant

old, test = "h - parameters.threshold", "tests/test_law.py::test_an_infinite_threshold_integrates"
command.MUTANTS = [Mutant("nothing at all", "snn_lnm/reference.py", "fire", old, f"({old})", (test,))]
sys.exit(command.main([]))
"""
    found = subprocess.run([sys.executable, "-c", run_the_only_mutant], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1 and "SURVIVES" in found.stdout, found.stdout + found.stderr
