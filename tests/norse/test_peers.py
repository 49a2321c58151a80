"""Norse's own tests, which ship in its wheel, with our neurons in place of its LIF family."""

import re
import subprocess
import sys
from pathlib import Path

MODULES = [
    *(f"module.test.test_{name}" for name in ("lif", "lif_box", "iaf", "sequential", "snn", "training", "conv")),
    *(f"functional.test.test_{name}" for name in ("lif", "lif_box", "iaf", "lift")),
]


def test_norse_s_own_tests_pass():
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.peers.norse_plugin"]
    command += ["-W", "ignore", "-o", "addopts=", "--pyargs", *(f"norse.torch.{name}" for name in MODULES)]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", found.stdout)[1]) >= 60
