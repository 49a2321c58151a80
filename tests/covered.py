"""What the suite runs of the code: `make coverage`, or `python tests/covered.py [pytest arguments]`.

Lines and branches of Python by coverage.py. Lines of the C++ engine by gcov, which builds it for that without
optimisation; its branches are not counted, most of them are those of options that a kernel's copies leave out.
Triton's kernels are no Python: their interpreter rewrites them, and the audit reads what they compile to. Exits with
1 if a test fails or either part lies below the limit.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 95.0  # per cent
COMPILER = """#!/bin/sh
case "$*" in
*{sources}*) ;;  # the engine's sources, and no mutant's
*snn_lnm_cpp_*) exec {compiler} "$@" --coverage ;;  # its library, from their objects
*) exec {compiler} "$@" ;;
esac
{compiler} "$@" -O0 --coverage || exit $?
mkdir -p {notes}"$PWD" && cp ./*.gcno {notes}"$PWD"
"""


def instrumented(folder: Path) -> dict[str, str]:
    """An environment in which the C++ engine is built to count its lines, under ``folder``."""
    compiler = folder / "c++"
    given = os.environ.get("CXX", "c++")
    compiler.write_text(COMPILER.format(compiler=given, notes=folder, sources=ROOT / "snn_lnm" / "engines" / "cpp"))
    compiler.chmod(0o755)
    return {
        **os.environ,
        "CXX": str(compiler),
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        "GCOV_PREFIX": str(folder),  # where counts go, in folders like those of the builds
        "COVERAGE_FILE": str(folder / "coverage"),
    }


def cpp_lines(folder: Path) -> dict[str, tuple[float, int]]:
    """Per cent of lines run, and lines, of each file of the engine, in the build that ran most of them."""
    pattern = r"File '[^']*/engines/cpp/([\w.]+)'\nLines executed:([\d.]+)% of (\d+)"
    most: dict[str, tuple[float, int]] = {}
    for build in {counts.parent for counts in folder.rglob("*.gcda") if counts.with_suffix(".gcno").exists()}:
        command = ["gcov", *sorted(counts.name for counts in build.glob("*.gcda"))]
        found = subprocess.run(command, cwd=build, capture_output=True, text=True, check=True).stdout
        for name, percent, lines in re.findall(pattern, found):  # each object file reports the headers it includes
            most[name] = max(most.get(name, (0.0, 0)), (float(percent), int(lines)))
    return most


def main(arguments: list[str]) -> int:
    if shutil.which("gcov") is None:
        sys.exit("gcov is not on PATH: install GCC.")
    with tempfile.TemporaryDirectory(prefix="coverage-") as name:
        folder = Path(name)
        coverage, environment = [sys.executable, "-m", "coverage"], instrumented(folder)
        tests = subprocess.run([*coverage, "run", "-m", "pytest", *arguments], cwd=ROOT, env=environment)
        subprocess.run([*coverage, "combine", "--quiet"], cwd=ROOT, env=environment)
        report = [*coverage, "report", "--skip-covered", f"--fail-under={LIMIT}"]
        python = subprocess.run(report, cwd=ROOT, env=environment)
        files = cpp_lines(folder)
    print("\n".join(f"{name:<14}{lines:6} lines {percent:8.2f} %" for name, (percent, lines) in sorted(files.items())))
    total = sum(percent * lines for percent, lines in files.values()) / sum(lines for _, lines in files.values())
    print(f"C++ {total:.1f} % of lines")
    return int(bool(tests.returncode or python.returncode or total < LIMIT))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
