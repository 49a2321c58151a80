"""The C++ engine: compiled at first use for this machine's CPU, then cached.

The surrogate formulas and the words of options are not written again in C++: `generated_header` runs each Python
formula on a symbol and prints the expression it builds, and makes an enumeration of each option.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, get_args

import torch

from snn_lnm.engines.cpp.remedies import complaint, remedy
from snn_lnm.parameters import Charge, Extension, Reset, Synapse
from snn_lnm.surrogate import BY_NAME

__all__ = ["empty_cache", "generated_header", "has_kernel", "load", "memory", "obstacle"]

_HERE = Path(__file__).parent
# With AVX2 instructions are in the order that suits the machine at hand: the same bits sooner.
_ISA_FLAGS = {
    "AVX512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
    "AVX2": ["-mavx2", "-mfma", "-mf16c", "-mtune=native"],
}
# No contraction into fused multiply-adds and no fast-math: the bits are part of the contract.
_FLAGS = ["-O3", "-std=c++20", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-w"]


class Symbol:
    """A C++ expression under construction; stands for `u` while a surrogate formula runs."""

    dtype = None

    def __init__(self, code: str) -> None:
        self.code = code

    def _binary(self, operator: str, other: object, swapped: bool = False) -> Symbol:
        left, right = (_code(other), self.code) if swapped else (self.code, _code(other))
        return Symbol(f"({left} {operator} {right})")

    def __add__(self, other: object) -> Symbol:
        return self._binary("+", other)

    def __radd__(self, other: object) -> Symbol:
        return self._binary("+", other, swapped=True)

    def __sub__(self, other: object) -> Symbol:
        return self._binary("-", other)

    def __rsub__(self, other: object) -> Symbol:
        return self._binary("-", other, swapped=True)

    def __mul__(self, other: object) -> Symbol:
        return self._binary("*", other)

    def __rmul__(self, other: object) -> Symbol:
        return self._binary("*", other, swapped=True)

    def __truediv__(self, other: object) -> Symbol:
        return self._binary("/", other)

    def __rtruediv__(self, other: object) -> Symbol:
        return self._binary("/", other, swapped=True)

    def __lt__(self, other: object) -> Symbol:
        return self._binary("<", other)

    def __le__(self, other: object) -> Symbol:
        return self._binary("<=", other)

    def __gt__(self, other: object) -> Symbol:
        return self._binary(">", other)

    def __ge__(self, other: object) -> Symbol:
        return self._binary(">=", other)

    def abs(self) -> Symbol:
        return Symbol(f"abs({self.code})")

    def sigmoid(self) -> Symbol:
        return Symbol(f"sigmoid({self.code})")

    def atan(self) -> Symbol:
        return Symbol(f"atan({self.code})")

    def to(self, dtype: None) -> Symbol:
        """A comparison as 0 or 1."""
        return Symbol(f"select({self.code}, splat<V>(1), V{{}})")


def _code(value: object) -> str:
    # A number becomes a full vector of the lanes' type: no double arithmetic inside float formulas.
    return value.code if isinstance(value, Symbol) else f"splat<V>({value!r})"


def generated_header() -> str:
    """C++ for the options of the law and their words, and for the formulas of every built-in surrogate."""
    return "\n".join(
        [
            "#pragma once",
            "#include <string_view>",
            '#include "vec.h"',
            "namespace lnm {",
            *_options(),
            *_surrogates(),
            "}",
            "",
        ]
    )


def _options() -> list[str]:
    """An enumeration for each option, and Python's words for its members, in the same order."""
    lines: list[str] = []
    for name, option in (("Charge", Charge), ("Reset", Reset), ("Synapse", Synapse), ("Extension", Extension)):
        words = get_args(option)
        lines.append(f"enum class {name} {{ {', '.join(words)} }};")
        lines.append(f"constexpr std::string_view k{name}s[] = {{{', '.join(map(json.dumps, words))}}};")
    return lines


def _surrogates() -> list[str]:
    """The derivative and the primitive of each surrogate, by its number; the number of each, by its name."""
    longest = max(len(kind().parameters) for kind in BY_NAME.values())
    kinds = list(BY_NAME.values())
    lines = [f"constexpr int kMaxSurrogateParameters = {longest};"]
    lines += [f"constexpr int k{kind.__name__} = {number};" for number, kind in enumerate(kinds)]
    same = [next(i for i, k in enumerate(kinds) if k.derivative is kind.derivative) for kind in kinds]
    lines.append(f"constexpr int kSameFormula[] = {{{', '.join(map(str, same))}}};")
    for function in ("derivative", "primitive"):
        lines.append(f"template <class V> inline V surrogate_{function}(int kind, V u, const double* p) {{")
        lines.append("  switch (kind) {")
        for index, kind in enumerate(kinds):
            parameters = [Symbol(f"splat<V>(p[{i}])") for i in range(len(kind().parameters))]
            body: Any = getattr(kind, function)(Symbol("u"), *parameters)
            lines.append(f"    case {index}: return {body.code};")
        lines.append("    default: return V{};\n  }\n}")
    return lines


def obstacle() -> str | None:
    """Why the C++ engine cannot be used here, in a sentence; None if it can. It tries, once."""
    return _find_obstacle()


# What torch.compiler.assume_constant_result sets; calling it would import Dynamo, and Triton with it.
obstacle._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess] - functions take any


@functools.cache
def _find_obstacle() -> str | None:
    if sys.platform == "win32":
        return "the C++ engine is built for Linux and macOS only."
    try:
        return _register()
    except OSError as error:
        cure = "it is kept under TORCH_EXTENSIONS_DIR, set that to a folder that can be written."
        return f"the C++ engine's library cannot be written or loaded ({error}): {remedy(str(error)) or cure}"
    except (RuntimeError, subprocess.SubprocessError) as error:
        cure = remedy(str(error))
        said = "" if cure is None else f"\nWhat helps: {cure}"
        return f"the C++ engine does not compile here: {complaint(str(error))}{said}"


def _register() -> str | None:
    """Load the library, built first if need be; returns what is missing to build it."""
    quiet = logging.getLogger("torch.utils.cpp_extension")  # its import warns about a missing CUDA
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    from torch.utils import cpp_extension

    quiet.setLevel(level)
    flags = [*_FLAGS, *_ISA_FLAGS.get(torch.backends.cpu.get_cpu_capability(), [])]
    header = generated_header()
    sources = [path.read_text() for path in sorted(_HERE.glob("*.[ch]*"))]
    identity = "\n".join([*sources, header, *flags, torch.__version__, platform.machine()])
    name = f"snn_lnm_cpp_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    folder = Path(cpp_extension._get_build_directory(name, verbose=False))  # pyright: ignore[reportPrivateUsage] - no public one
    library = folder / f"{name}.so"
    if not library.exists():
        missing = _missing_tool()
        if missing is not None:
            return missing
        with _alone(folder):
            if not library.exists():
                with _said(
                    "snn_lnm: compiling the C++ engine for this CPU, once, which takes about 1 to 3 minutes; "
                    f"it is kept in {folder} ..."
                ):
                    _build(library, header, flags)
                return None
    torch.ops.load_library(str(library))
    return None


def _missing_tool() -> str | None:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return (
            f"no C++ compiler found ({compiler!r} is not on PATH): install one, for example "
            "`apt install g++` or `conda install cxx-compiler`, or set CXX."
        )
    if shutil.which("ninja") is None and not (Path(sys.executable).parent / "ninja").exists():
        return "ninja is missing: `pip install ninja`."
    return None


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One process at a time, so that those that start together build once.

    The system gives the lock back when its holder dies. (A lock that is a file's existence, PyTorch's
    until 2.13, outlives a killed build, and every later start waits for ever.) What a killed build has left goes away.
    """
    import fcntl  # not on Windows

    with open(folder / "lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: at worst they build twice
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with _said("snn_lnm: waiting for another process, which is compiling the C++ engine ..."):
                    fcntl.flock(lock, fcntl.LOCK_EX)
            for left in folder.glob("build-*"):
                shutil.rmtree(left, ignore_errors=True)
        yield


@contextlib.contextmanager
def _said(what: str) -> Generator[None]:
    """``what`` is going on, in a line on standard error where somebody waits: at a terminal, or in a notebook."""
    if not ("ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())):
        yield
        return
    start, outcome = time.monotonic(), "stopped"
    print(what, end=" ", file=sys.stderr, flush=True)
    try:
        yield
        outcome = "done"
    finally:
        print(f"{outcome} after {time.monotonic() - start:.0f} s.", file=sys.stderr, flush=True)


def _build(library: Path, header: str, flags: list[str]) -> None:
    """Compile and load in a folder of its own; the library appears in its place only when complete."""
    from torch.utils import cpp_extension

    path = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([path, str(Path(sys.executable).parent)])  # a venv's ninja
    try:
        with tempfile.TemporaryDirectory(prefix="build-", dir=library.parent) as build:
            (Path(build) / "generated.h").write_text(header)
            cpp_extension.load(
                library.stem,
                [str(path) for path in sorted(_HERE.glob("*.cpp"))],
                extra_include_paths=[str(_HERE), build],
                extra_cflags=flags,
                extra_ldflags=["-fopenmp"],
                build_directory=build,
                is_python_module=False,
                verbose=False,
            )
            (Path(build) / library.name).replace(library)
    finally:
        os.environ["PATH"] = path


@functools.cache
def load() -> None:
    """Register the engine's operators: compiled at first use, then found.

    The library lives in PyTorch's extension cache (``TORCH_EXTENSIONS_DIR``), named after everything
    that shapes it: sources, flags, instruction set, PyTorch. Once it is there, nothing is written and
    no compiler is needed.

    Raises:
        RuntimeError: it cannot be built or loaded; see :func:`obstacle`.
    """
    reason = obstacle()
    if reason is not None:
        raise RuntimeError(reason)


def has_kernel(operator: str) -> bool:
    """The library is loaded, and ``operator`` (``"snn_lnm::name"``) runs on the CPU."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator, "CPU")  # pyright: ignore[reportPrivateUsage] - no other way to ask


def memory() -> tuple[int, int]:
    """Bytes of the engine's large tensors (128 KiB and more): those in use, and those kept for the next call.

    Together they never exceed what was once in use at the same time; the kept ones alone never exceed
    ``SNN_LNM_CACHE_MIB`` (an environment variable read at first use; default 1024, 0 keeps nothing).
    """
    load()
    return torch.ops.snn_lnm_cpp.memory()


def empty_cache() -> None:
    """Give the kept memory back to the system."""
    load()
    torch.ops.snn_lnm_cpp.empty_cache()
