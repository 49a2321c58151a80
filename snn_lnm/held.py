"""An input that is the same at every step: a sequence `[T, B, ...]` in the memory of one step."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from snn_lnm.checks import check_dense
from snn_lnm.tracing import is_tracing

__all__ = ["expanded", "held", "hold"]


def hold(x: Tensor, steps: int) -> Tensor:
    """``x`` at each of ``steps`` steps, for networks over time that see one image, or what an encoder made of it.

    ``x.expand(steps, *x.shape)``, and the promise that nobody asks for the gradient of a single step. So
    :func:`snn_lnm.fuse_time` computes once what does not change, and a neuron reads it once, also where a gradient
    flows back to ``x``: it is then the sum over all steps, and the sequence itself has none: hooks on it may stay
    silent, and `retain_grad` empty.

    Args:
        x: any shape, `[B, ...]`, and any dtype.
        steps: T, at least 1.

    Returns:
        `[T, *x.shape]`, in the memory of ``x``.

    Raises:
        TypeError: not a dense tensor, or not a number of steps; ValueError: less than one step.
    """
    if not isinstance(cast(object, x), Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}.")
    check_dense(x)
    if isinstance(steps, bool) or not isinstance(cast(object, steps), (int, torch.SymInt)):
        raise TypeError(f"steps must be an int, got {type(steps).__name__}.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    return expanded(x, steps)


def expanded(x: Tensor, steps: int) -> Tensor:
    """What :func:`hold` returns, `[T, *x.shape]`, of arguments that were checked."""
    sequence = x.expand(steps, *x.shape)
    if not _exports():
        cast(Any, sequence)._snn_lnm_held = x
    return sequence


def held(x: Tensor) -> Tensor | None:
    """The one step of which the sequence ``x`` consists (`x.expand`), `[B, ...]`.

    None where steps may differ, or their gradients: only of :func:`hold` is it known that nobody else asks for the
    gradient of a single step. None, too, in an exported or traced program, which asks nobody whether its inputs lie as
    they did.
    """
    if x.layout != torch.strided or x.dim() < 1 or x.stride(0) != 0 or _exports() or x.shape[0] < 2:
        return None
    if not x.requires_grad:
        return x[0]
    step = getattr(x, "_snn_lnm_held", None)
    return step if step is not None and _is_still_held(step, x) else None


def _exports() -> bool:
    """`torch.export`, or `torch.jit.trace`. PyTorch before 2.7 does not say which compiles, and is taken to export."""
    exports = not hasattr(torch.compiler, "is_exporting") or torch.compiler.is_exporting()
    return is_tracing() or (torch.compiler.is_compiling() and exports)


def _is_still_held(step: Tensor, x: Tensor) -> bool:
    """Neither was changed in place since, by `transpose_`, `detach_`, `data =` and the like, and ``x`` is no leaf."""
    same = (step.shape, step.stride()) == (x.shape[1:], x.stride()[1:]) and step.requires_grad and not x.is_leaf
    return same and (torch.compiler.is_compiling() or _address(step) == _address(x))


def _address(x: Tensor) -> int | None:
    try:
        return x.data_ptr()
    except RuntimeError:  # of a transform's or a fake tensor, which has none
        return None
