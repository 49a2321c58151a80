"""What is too long for every run takes its turn: another part of it, and other random examples, at every commit."""

import functools
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[1]


@functools.cache
def commit() -> str:
    """The hash of the commit that is checked out; empty where there is no git, as in a source archive."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return git.stdout.strip() if git.returncode == 0 else ""


def number() -> int:
    """The same for all of a commit, and without one always the same; SNN_LNM_TURN is another."""
    return int(os.environ.get("SNN_LNM_TURN") or int(commit()[:8] or "0", 16))


def reason() -> str:
    """By what the number was chosen, for the first lines of a run."""
    if os.environ.get("SNN_LNM_TURN"):
        return "SNN_LNM_TURN"
    return f"commit {commit()[:8]}" if commit() else "nothing, always the same: no commit is checked out here"


def turn(parts: int) -> str:
    """Which of so many parts is due, as K/N."""
    return f"{number() % parts + 1}/{parts}"


def some(values: Iterable[T], count: int) -> list[T]:
    """So many of the values, others at every commit: of what a kernel is compiled for."""
    return Random(number()).sample([*values], count)


def is_due(case: int, parts: int) -> bool:
    """Of numbered cases, of which every commit runs other ones."""
    return (case + number()) % parts == 0


def mutants() -> str:
    """The slice of the mutants that tests/test_mutants.py kills, about five; SNN_LNM_MUTANTS=K/N is another."""
    return os.environ.get("SNN_LNM_MUTANTS") or turn(64)
