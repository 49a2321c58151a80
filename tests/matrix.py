"""The suite under old, new and reduced installations: `make test-matrix`, or `python tests/matrix.py [cell ...]`.

Versions differ in their interfaces, hardly in their numbers: Hypothesis tries fewer examples than in `make test`.
Each cell is an environment of its own under `.matrix/`, built once (delete the folder to build it anew). The exit
status is the number of cells that are not green; one that cannot be built is not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHOWN = ("torch", "triton", "snntorch", "norse", "spikingjelly", "numpy")


@dataclass(frozen=True)
class Cell:
    """``python -m pip install *packages``, then ``pip uninstall *without``, then the suite less ``left_out``."""

    python: str
    packages: tuple[str, ...]
    without: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    because: str = ""


CELLS = {
    "oldest": Cell(
        "3.10",
        ("torch==2.6.0", "torchvision==0.21.0", "snntorch==0.9.4", "norse==1.1.0"),
        left_out=("tests/jelly",),
        because="SpikingJelly 2 needs Python 3.11",
    ),
    # Norse and SpikingJelly ask for torchvision, but their neurons do not use it.
    "bare": Cell(
        "3.11",
        ("torch==2.13.0", "torchvision==0.28.0", "snntorch==1.0.0", "norse==1.1.0", "spikingjelly==2.0.0"),
        without=("triton", "torchvision", "torchaudio"),
    ),
    "newest": Cell("3.13", ("torch", "snntorch", "norse", "spikingjelly")),
}


def interpreter(version: str) -> str:
    """A Python of that version: on PATH, or one of pyenv's."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for path in (shutil.which(f"python{version}"), *pyenv):
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return str(path)
    raise RuntimeError(f"Python {version} is not here: put python{version} on PATH.")


def build(folder: Path, cell: Cell) -> None:
    """The environment, complete or not there."""
    if (folder / ".built").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    commands = [
        [interpreter(cell.python), "-m", "venv", str(folder)],
        [*pip, "install", "--no-compile", *cell.packages, "--editable", ".[dev]"],
        [*pip, "uninstall", "--yes", *cell.without],
    ]
    for command in commands if cell.without else commands[:2]:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}")
    (folder / ".built").touch()


def versions(folder: Path) -> str:
    """What the cell holds, `name version`, and `no name` for what it has not."""
    code = (
        "import platform; from importlib import metadata as m; print('python', platform.python_version(), end='')\n"
        f"for name in {SHOWN}:\n"
        "    try: print(',', name, m.version(name), end='')\n"
        "    except m.PackageNotFoundError: print(', no', name, end='')"
    )
    return subprocess.run([str(folder / "bin" / "python"), "-c", code], capture_output=True, text=True).stdout


def test(folder: Path, cell: Cell) -> tuple[bool, str]:
    """Whether the suite is green there, and pytest's last line. The engine is compiled anew for the cell."""
    command = [str(folder / "bin" / "python"), "-m", "pytest", "-p", "no:cacheprovider", "--hypothesis-profile=quick"]
    command += ["-n2", "--dist=loadfile", "--no-loadscope-reorder"]
    command += [f"--ignore={path}" for path in cell.left_out]
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(folder / "extensions")}
    with open(folder / "pytest.log", "w+") as log:
        status = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
        log.seek(0)
        lines = log.read().splitlines() or ["no output"]
    return status == 0, re.sub(r" in [\d.]+s.*", "", lines[-1]).strip("= ")


def count(folder: str) -> int:
    return sum(path.read_text(encoding="utf-8").count("def test_") for path in (ROOT / folder).glob("test_*.py"))


def main(names: list[str]) -> int:
    unknown = set(names) - set(CELLS)
    if unknown:
        sys.exit(f"no cell {', '.join(sorted(unknown))}: expected some of {', '.join(CELLS)}.")
    rows, red = [], 0
    for name in names or CELLS:
        cell, folder, start = CELLS[name], ROOT / ".matrix" / name, time.monotonic()
        try:
            build(folder, cell)
            green, result = test(folder, cell)
            result += f" in {time.monotonic() - start:.0f} s"
        except RuntimeError as error:
            green, result = False, f"not built: {error}"
        red += not green
        row = [f"{name:8} {'green' if green else 'RED':6} {result}"]
        if (folder / ".built").exists():
            row.append(f"{'':15} {versions(folder)}")
        row += [f"{'':15} {count(path)} test functions of {path} left out: {cell.because}" for path in cell.left_out]
        row += [] if green or not (folder / ".built").exists() else [f"{'':15} see {folder / 'pytest.log'}"]
        rows.append("\n".join(row))
        print(rows[-1], flush=True)
    print("\n" + "\n".join(rows))
    return red


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
