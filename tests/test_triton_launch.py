"""Kernels that were compiled before are launched as Triton itself would launch them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from optional import HAS_TRITON, NO_TRITON

TESTS = Path(__file__).parent


@pytest.mark.skipif(not HAS_TRITON, reason=NO_TRITON)
def test_the_launcher_gets_the_same_again():
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(TESTS.parent)}
    words = [sys.executable, str(TESTS / "launches.py")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.stdout == "all the same\n", done.stderr
