"""All properties with fresh seeds until the time is over: `make test-nightly`, or `python tests/nightly.py MINUTES`.

Stops after the first round in which something fails, with exit status 1; the line above that round repeats it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(minutes: float) -> int:
    until, rounds = time.time() + 60 * minutes, 0
    while time.time() < until:
        rounds += 1
        words = ["-m", "hypothesis and not slow", "--hypothesis-profile=nightly"]
        words.append(f"--hypothesis-seed={secrets.randbelow(2**32)}")
        print(f"round {rounds}: pytest {words[-2]} {words[-1]}", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-n2", "--dist=loadfile", "--no-loadscope-reorder", *words]
        if subprocess.run(command, cwd=ROOT, env={**os.environ, "SNN_LNM_UNTIL": str(until)}).returncode:
            return 1
    print(f"{rounds} rounds without a failure in {minutes:g} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
