"""Apply mutants in a throw-away copy of the tree and run their tests there.

PyTorch and the frameworks take seconds to import, so this process imports them once and forks for each
mutant; the package itself is imported by the children alone, from the copy.
"""

from __future__ import annotations

import importlib
import os
import shutil
import stat
import sys
import time
import warnings
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tests.mutants.mutant import ROOT, Mutant
from tests.optional import HAS_SPIKINGJELLY

COPIED = ("snn_lnm", "adapters", "tests", "docs", "pyproject.toml")
LIMIT = 600  # seconds; a mutant that hangs is noticed too


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: the test that failed (empty: none did), and seconds."""

    killed_by: str
    problem: str
    seconds: float


class FirstFailure:
    """pytest plugin: writes the name of the first test that fails."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid)


class OneOfEach:
    """pytest plugin: of each test the first case only, to see that it runs."""

    def pytest_collection_modifyitems(self, items) -> None:
        seen: set[str] = set()
        items[:] = [item for item in items if (key := item.nodeid.split("[")[0]) not in seen and not seen.add(key)]


def copy_tree(folder: Path) -> Path:
    """A copy of what the tests need, under ``folder``."""
    tree = folder / "tree"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignored)
        else:
            shutil.copy(source, tree / name)
    return tree


def import_frameworks() -> None:
    """What every child needs, but nothing of this repository."""
    if not importlib.import_module("torch").cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # as conftest.py does; read when Triton is first imported, here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hosts = ["norse.torch", "snntorch.functional"]
        if HAS_SPIKINGJELLY:
            hosts.append("spikingjelly.activation_based.neuron")
        for name in ("hypothesis.strategies", "torch._dynamo", *hosts):
            importlib.import_module(name)
    assert "snn_lnm" not in sys.modules


def fast_compiler(folder: Path) -> Path:
    """A compiler for engines that are built often and run little; see compiler.py."""
    path, kept = folder / "c++", folder / "objects"
    kept.mkdir()
    words = [sys.executable, Path(__file__).with_name("compiler.py"), kept, os.environ.get("CXX", "c++")]
    path.write_text(f'#!/bin/sh\nexec {" ".join(map(str, words))} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _child(tree: Path, tests: tuple[str, ...], failure: Path, profile: str, compiler: Path | None) -> None:
    log = os.open(failure.with_name("output"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(tree)
    sys.path[:0] = [str(tree), str(tree / "adapters")]
    sys.dont_write_bytecode = True  # a restored file may have the size and the second of its mutant
    if compiler is not None:
        os.environ.update(CXX=str(compiler), TORCH_EXTENSIONS_DIR=str(failure.with_name("extensions")))
    import pytest

    plugins = [FirstFailure(failure), *([OneOfEach()] if profile == "brief" else [])]
    quiet = ["-q", "--no-header", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning",
             f"--hypothesis-profile={profile}", "-m", ""]  # fmt: skip
    os._exit(pytest.main(["-x", *quiet, *tests], plugins=plugins))


def run_tests(tree: Path, tests: tuple[str, ...], profile: str, compiler: Path | None = None) -> Verdict:
    """Run ``tests`` in ``tree``, in a child of its own, with Hypothesis' ``profile``."""
    failure, output = tree.parent / "failure", tree.parent / "output"
    failure.unlink(missing_ok=True)
    start = time.monotonic()
    child = get_context("fork").Process(target=_child, args=(tree, tests, failure, profile, compiler))
    child.start()
    child.join(LIMIT)
    if child.is_alive():
        child.kill()
        child.join()
        return Verdict("time limit", "", time.monotonic() - start)
    seconds = time.monotonic() - start
    if child.exitcode == 0:
        return Verdict("", "", seconds)
    if child.exitcode == 1 and failure.exists():
        return Verdict(failure.read_text(), "", seconds)
    if child.exitcode is not None and child.exitcode < 0:
        return Verdict(f"signal {-child.exitcode}", "", seconds)
    return Verdict("", f"the tests did not run (exit {child.exitcode}):\n{output.read_text()[-2000:]}", seconds)


def try_mutant(tree: Path, mutant: Mutant, compiler: Path | None) -> Verdict:
    """Apply, run, restore."""
    path = tree / mutant.file
    text = path.read_text()
    path.write_text(mutant.applied(text))
    try:
        return run_tests(tree, mutant.tests, "mutants", compiler if mutant.builds else None)
    finally:
        path.write_text(text)
