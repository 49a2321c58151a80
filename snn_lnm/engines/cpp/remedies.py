"""What a failed build complained of, and what mends it."""

from __future__ import annotations

import re

__all__ = ["complaint", "remedy"]

# Found in a build's output or in what the system says of the library; the first that fits counts.
_REMEDIES = (
    (
        r"No space left on device",
        "the disk is full: make room, or set TORCH_EXTENSIONS_DIR (and TMPDIR, for the compiler's own files) to "
        "folders on another one.",
    ),
    (
        r"[Kk]illed signal|internal compiler error: Killed|virtual memory exhausted|out of memory",
        "the compiler ran out of memory: set MAX_JOBS=1, so that one file is compiled at a time (about 1 GB).",
    ),
    (
        r"invalid active developer path|agreed to the Xcode license",
        "Apple's command line tools are not ready: `xcode-select --install`, then `sudo xcodebuild -license accept`.",
    ),
    (
        r"unsupported option '-fopenmp'",
        "Apple's compiler has no OpenMP: `brew install llvm` and set CXX=$(brew --prefix llvm)/bin/clang++, or "
        "`conda install cxx-compiler`.",
    ),
    (
        r"omp\.h'? ?(file not found|: No such file)|(cannot find|find library|not found for) -l[gi]?omp",
        "the compiler's OpenMP is missing: `apt install libomp-dev` for clang, or use g++ (set CXX=g++).",
    ),
    (
        r"(unrecognized|unknown|unsupported).*option|invalid value 'c\+\+20'|(unknown|unsupported).*argument",
        "the compiler is too old for this: install g++ 11, clang 14 or newer, for example by "
        "`conda install cxx-compiler`, and set CXX to it.",
    ),
    (
        r"GLIBCXX_|CXXABI_",
        "the compiler is newer than the C++ library that Python has loaded: `conda install cxx-compiler libstdcxx-ng` "
        "in a conda environment, or set CXX to an older compiler.",
    ),
    (
        r"failed to map segment",
        "programs may not run from that folder: set TORCH_EXTENSIONS_DIR to one where they may.",
    ),
    (
        r"fatal error: .*(file not found|No such file)",
        "a header is missing: install the compiler as a whole, for example by `apt install build-essential`, "
        "`xcode-select --install` or `conda install cxx-compiler`.",
    ),
)


def complaint(output: str) -> str:
    """The first lines of a compiler's output."""
    return "\n".join([line for line in output.splitlines() if line.strip()][:6]) or output


def remedy(output: str) -> str | None:
    """What mends it, in a sentence; None if that is not known."""
    return next((sentence for pattern, sentence in _REMEDIES if re.search(pattern, output)), None)
