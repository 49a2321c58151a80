"""The C++ engine: one small operator, compiled at first use, which finds the kernels of each neuron (`kernels.py`)."""

from __future__ import annotations

import functools
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_lnm.engines.cpp.build import HERE, built, compile_library, name_of
from snn_lnm.engines.cpp.kernels import CannotCompile
from snn_lnm.engines.cpp.remedies import complaint, remedy
from snn_lnm.engines.engine import Engine

__all__ = ["ENGINE", "CannotCompile", "empty_cache", "has_kernel", "load", "memory", "obstacle"]

_SOURCES = [HERE / name for name in ("ops.cpp", "max_pool.cpp")]
_HEADERS = [HERE / name for name in ("memory.h", "pass.h", "plan.h", "words.h")]
_FLAGS = ["-O3", "-fopenmp", "-ffp-contract=off"]


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
        torch.ops.load_library(str(_operator()))
    except OSError as error:
        cure = "it is kept under TORCH_EXTENSIONS_DIR, set that to a folder that can be written."
        return f"the C++ engine's library cannot be written or loaded ({error}): {remedy(str(error)) or cure}"
    except RuntimeError as error:
        cure = remedy(str(error))
        said = "" if cure is None else f"\nWhat helps: {cure}"
        return f"the C++ engine does not compile here: {complaint(str(error))}{said}"
    return None


def _operator() -> Path:
    """The library with the operator, built first if need be."""
    texts = [path.read_text() for path in (*_SOURCES, *_HEADERS)]
    name = name_of("operator", *texts, *_FLAGS, torch.__version__)
    doing = "snn_lnm: compiling the C++ engine's operator for this machine, once, which takes up to half a minute"
    return built(name, _build, doing)


def _build(library: Path) -> None:
    home = Path(torch.__file__).parent
    folders = [home / "include", home / "include" / "torch" / "csrc" / "api" / "include"]
    flags = [*_FLAGS, *(f"-I{folder}" for folder in folders)]
    flags.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")
    compile_library(_SOURCES, flags, library, [f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10", "-fopenmp"])


@functools.cache
def load() -> None:
    """Register the engine's operators: compiled at first use, then found.

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


def _obstacle_on(device: torch.device, functions: tuple[str, ...]) -> str | None:
    return obstacle() if device.type == "cpu" else f"the cpp engine runs on CPU tensors, the input is on {device}."


def _built_first(name: str, *arguments: Any) -> list[Tensor]:
    """The operators until their library is there: it registers itself for CPU tensors when loaded."""
    op = getattr(torch.ops.snn_lnm, name).cpp
    if has_kernel(op.name()):
        raise NotImplementedError(f"{op.name()} runs on dense CPU tensors only.")
    load()
    return op(*arguments)


ENGINE = Engine(
    "cpp",
    "cpu",
    lambda: obstacle(),  # looked up at each call
    _obstacle_on,
    {"CompositeExplicitAutograd": (partial(_built_first, "scan"), partial(_built_first, "scan_backward"))},
)
