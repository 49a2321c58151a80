"""The table of mutants and their killers: `python -m tests.mutants`, or a part by --slice, --engine or --only.

Exits with 1 if a mutant survives, if a change no longer applies, or if a named test fails without any.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import ROOT, Mutant
from tests.mutants.run import copy_tree, fast_compiler, import_frameworks, run_tests, try_mutant
from tests.optional import HAS_SPIKINGJELLY, HAS_TRITON, NO_TRITON


def chosen(arguments: argparse.Namespace) -> list[Mutant]:
    """The mutants asked for: of an engine, by words of their description, and of these every N-th."""
    found = [m for m in MUTANTS if arguments.engine in ("all", "cpp" if m.builds else "python")]
    found = [m for m in found if arguments.only in f"{m.file}: {m.why}"]
    for here, word, reason in ((HAS_TRITON, "triton", NO_TRITON), (HAS_SPIKINGJELLY, "jelly", "no SpikingJelly")):
        left = [m for m in found if here or not any(word in text for text in (m.file, *m.tests))]
        if len(left) < len(found):
            print(f"{len(found) - len(left)} mutants left out: {reason}")
        found = left
    part, parts = map(int, arguments.slice.split("/"))
    if not 1 <= part <= parts:
        raise SystemExit(f"--slice is K/N with 1 <= K <= N, got {arguments.slice}.")
    return found[part - 1 :: parts]


def unapplicable(mutants: list[Mutant]) -> list[str]:
    """Why mutants no longer apply to the code as it is; each needs a new anchor."""
    problems = []
    for mutant in mutants:
        try:
            mutant.applied((ROOT / mutant.file).read_text())
        except (OSError, ValueError) as error:
            problems.append(str(error))
    return problems


def kill(mutants: list[Mutant], folder: Path) -> int:
    """How many survive; a line is printed for each."""
    folder.mkdir()
    tree, compiler, bad = copy_tree(folder), fast_compiler(folder), 0
    for mutant in mutants:
        verdict = try_mutant(tree, mutant, compiler)
        bad += not verdict.killed_by
        result = verdict.killed_by or verdict.problem or "SURVIVES"
        print(f"{Path(mutant.file).name:16} {mutant.why:58} {verdict.seconds:5.1f} s  {result}", flush=True)
    return bad


def kill_together(mutants: list[Mutant], folder: Path, jobs: int) -> int:
    """The same, by as many processes."""
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:  # which have imported the frameworks
        return sum(
            pool.map(kill, (mutants[job::jobs] for job in range(jobs)), (folder / str(job) for job in range(jobs)))
        )


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--slice", default="1/1", metavar="K/N", help="every N-th mutant, from the K-th on")
    parser.add_argument("--engine", choices=["python", "cpp", "all"], default="python", help="cpp mutants each build")
    parser.add_argument("--only", default="", metavar="WORDS", help="mutants whose file or description has these")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at a time")
    arguments = parser.parse_args(words)
    mutants, begin = chosen(arguments), time.monotonic()
    problems = unapplicable(MUTANTS)
    if problems:
        print("\n".join(problems))
        return 1
    import_frameworks()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        tests = tuple(sorted({test for mutant in mutants for test in mutant.tests}))
        if tests:
            sound = run_tests(copy_tree(folder), tests, "brief")
            print(f"without any mutant: {sound.killed_by or sound.problem or 'all pass'} ({sound.seconds:.0f} s)")
            if sound.killed_by or sound.problem:
                return 1
        bad = kill_together(mutants, folder, arguments.jobs)
    seconds = time.monotonic() - begin
    print(f"{len(mutants) - bad} of {len(mutants)} mutants killed in {seconds:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
