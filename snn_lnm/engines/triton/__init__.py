"""The Triton engine, for NVIDIA and AMD GPUs: what stands in its way, and its operators.

Triton is imported at the first launch, never before. With ``TRITON_INTERPRET=1`` in the environment before that,
the kernels are interpreted on the CPU: the bits are the same, the speed is for tests.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import shutil
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor

from snn_lnm.engines.engine import Engine
from snn_lnm.engines.generator.triton import UNKNOWN
from snn_lnm.engines.triton.launches import interpreted, prepare_backward, prepare_forward

__all__ = ["ENGINE", "interpreted", "missing", "obstacle", "prepare_backward", "prepare_forward"]

MINIMUM = Version("3.4")  # named tuples inside kernels


@functools.cache
def missing() -> str | None:
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "triton is not installed: `pip install triton` (PyTorch's GPU builds for Linux bring it along)."
    if Version(version) < MINIMUM:
        return f"triton {version} is too old, {MINIMUM} or newer is needed: upgrade PyTorch, which brings its triton."
    compilers = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    if not interpreted() and not any(name and shutil.which(name) for name in compilers):
        return (
            "Triton needs a C compiler for its launcher and none is on PATH: install one, for example "
            "`apt install gcc` or `conda install c-compiler`, or set CC."
        )
    return None


def obstacle(device: torch.device, functions: tuple[str, ...]) -> str | None:
    """Why the Triton engine cannot run this, in a sentence; None if it can."""
    if device.type != "cuda" and not (interpreted() and device.type == "cpu"):
        return f"the triton engine runs on GPU tensors, the input is on {device}."
    for name in functions:
        if name in UNKNOWN:
            return f"Triton has no {UNKNOWN[name]} (of ATan it is the primitive, in smooth mode)."
    return missing()


obstacle._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess] - functions take any


def _scan(x: Tensor, *arguments: Any) -> list[Tensor]:
    """`snn_lnm::scan` on a GPU."""
    outputs, launch = prepare_forward(x, *arguments)
    launch(x.device)
    return outputs


def _scan_backward(d_outputs: list[Tensor | None], x: Tensor, *arguments: Any) -> list[Tensor]:
    """`snn_lnm::scan_backward` on a GPU."""
    finish, launch = prepare_backward(d_outputs, x, *arguments)
    launch(x.device)
    return finish()


ENGINE = Engine(
    "triton",
    "cuda",  # ROCm's are called so, too
    lambda: missing(),  # looked up at each call
    obstacle,
    {key: (_scan, _scan_backward) for key in ("CPU", "CUDA")},  # on the CPU: interpreted
)
