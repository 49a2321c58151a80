"""The C++ engine: compiled at first use for this machine's CPU, then cached.

The surrogate formulas are not written again in C++: `surrogate_header` runs each Python formula on a
symbol and prints the expression it builds.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from snn_lnm.surrogate import _BY_NAME

__all__ = ["empty_cache", "load", "memory", "obstacle", "surrogate_header"]

_HERE = Path(__file__).parent
_ISA_FLAGS = {
    "AVX512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
    "AVX2": ["-mavx2"],
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


def surrogate_header() -> str:
    """C++ for the derivative and the primitive of every built-in surrogate."""
    longest = max(len(kind().parameters) for kind in _BY_NAME.values())
    lines = ["#pragma once", '#include "vec.h"', "namespace lnm {"]
    lines.append(f"constexpr int kMaxSurrogateParameters = {longest};")
    for function in ("derivative", "primitive"):
        lines.append(f"template <class V> inline V surrogate_{function}(int kind, V u, const double* p) {{")
        lines.append("  switch (kind) {")
        for index, kind in enumerate(_BY_NAME.values()):
            parameters = [Symbol(f"splat<V>(p[{i}])") for i in range(len(kind().parameters))]
            body: Any = getattr(kind, function)(Symbol("u"), *parameters)
            lines.append(f"    case {index}: return {body.code};")
        lines.append("    default: return V{};\n  }\n}")
    return "\n".join([*lines, "}  // namespace lnm", ""])


def obstacle() -> str | None:
    """Why the C++ engine cannot be used here, in a sentence; None if it can."""
    return _find_obstacle()


# What torch.compiler.assume_constant_result sets; calling it would import Dynamo, and Triton with it.
obstacle._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@functools.cache
def _find_obstacle() -> str | None:
    if sys.platform == "win32":
        return "the C++ engine is built for Linux and macOS only."
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return (
            f"no C++ compiler found ({compiler!r} is not on PATH): install one, for example "
            "`apt install g++` or `conda install cxx-compiler`, or set CXX."
        )
    if shutil.which("ninja") is None and not (Path(sys.executable).parent / "ninja").exists():
        return "ninja is missing: `pip install ninja`."
    return None


@functools.cache
def load() -> None:
    """Compile the engine, or find it compiled, and register its operators.

    The build lives in PyTorch's extension cache (``TORCH_EXTENSIONS_DIR``), in a folder named after
    everything that shapes it: sources, flags, instruction set, PyTorch. PyTorch's own lock file keeps
    two processes that start at once from building over each other.
    """
    quiet = logging.getLogger("torch.utils.cpp_extension")  # its import warns about a missing CUDA
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    from torch.utils import cpp_extension

    quiet.setLevel(level)
    reason = obstacle()
    if reason is not None:
        raise RuntimeError(f"the C++ engine cannot be built: {reason}")
    flags = [*_FLAGS, *_ISA_FLAGS.get(torch.backends.cpu.get_cpu_capability(), [])]
    header = surrogate_header()
    sources = {path.name: path.read_text() for path in sorted(_HERE.glob("*.[ch]*"))}
    identity = "\n".join([*sources.values(), header, *flags, torch.__version__, platform.machine()])
    name = f"snn_lnm_cpp_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    build = Path(cpp_extension._get_build_directory(name, verbose=False))
    # Compiled from copies, so that installations with the same sources share one build.
    for file, text in [*sources.items(), ("surrogates.h", header)]:
        if not (build / file).exists():
            partial = build / f"{file}.{os.getpid()}"
            partial.write_text(text)
            partial.replace(build / file)
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([path, str(Path(sys.executable).parent)])  # a venv's ninja
    try:
        cpp_extension.load(
            name,
            [str(build / "ops.cpp")],
            extra_include_paths=[str(build)],
            extra_cflags=flags,
            extra_ldflags=["-fopenmp"],
            build_directory=str(build),
            is_python_module=False,
            verbose=False,
        )
    finally:
        os.environ["PATH"] = path


def memory() -> tuple[int, int]:
    """Bytes of the engine's large tensors (1 MiB and more): those in use, and those kept for the next call.

    Together they never exceed what was once in use at the same time; the kept ones alone never exceed
    ``SNN_LNM_CACHE_MIB`` (an environment variable read at first use; default 1024, 0 keeps nothing).
    """
    load()
    return torch.ops.snn_lnm_cpp.memory()


def empty_cache() -> None:
    """Give the kept memory back to the system."""
    load()
    torch.ops.snn_lnm_cpp.empty_cache()
