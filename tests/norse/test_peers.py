"""Norse's own tests, which ship in its wheel, with our neurons in place of its LIF family.

(snnTorch's packages carry no tests, neither its wheels nor its source archives, 0.9.4 and 1.0.0.)
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = [
    *(f"module.test.test_{name}" for name in ("lif", "lif_box", "iaf", "sequential", "snn", "training", "conv")),
    *(f"functional.test.test_{name}" for name in ("lif", "lif_box", "iaf", "lift")),
]


def outcomes(*plugins, **environment):
    """What pytest says of each of Norse's tests: passed, failed or skipped, and why."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--show-capture=no", "-p", "no:cacheprovider", *plugins]
    command += ["-W", "ignore", "-o", "addopts=", "--pyargs", *(f"norse.torch.{name}" for name in MODULES)]
    found = subprocess.run(command, cwd=root, env={**os.environ, **environment}, capture_output=True, text=True)
    kinds = ("PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS")
    return sorted(line for line in found.stdout.splitlines() if line.startswith(kinds))


@pytest.mark.slow
def test_norse_s_own_tests_end_as_they_do_without_us():
    without = outcomes(TORCHDYNAMO_DISABLE="1")  # torch 2.6 never ends compiling Norse's own neuron; ours it compiles
    ours = outcomes("-p", "tests.peers.norse_plugin")
    assert ours == without
    assert sum(line.startswith("PASSED") for line in ours) >= 60
