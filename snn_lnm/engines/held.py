"""An input that is the same at every step: a sequence `[T, B, ...]` in the memory of one step."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["held", "hold"]


def hold(x: Tensor, steps: int) -> Tensor:
    """``x`` at each of ``steps`` steps, for networks over time that see one image, or what an encoder made of it.

    ``x.expand(steps, *x.shape)``, and the promise that nobody asks for the gradient of a single step. So
    :func:`snn_lnm.fuse_time` computes once what does not change, and a neuron reads it once, also where a gradient
    flows back to ``x``: it is then the sum over all steps, and the sequence itself has none.

    Args:
        x: any shape, `[B, ...]`, and any dtype.
        steps: T, at least 1.

    Returns:
        `[T, *x.shape]`, in the memory of ``x``.

    Raises:
        TypeError: not a tensor, or not a number of steps; ValueError: less than one step.
    """
    if not isinstance(cast(object, x), Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}.")
    if isinstance(steps, bool) or not isinstance(cast(object, steps), int):
        raise TypeError(f"steps must be an int, got {type(steps).__name__}.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    sequence = x.expand(steps, *x.shape)
    if not torch.compiler.is_compiling():
        cast(Any, sequence)._snn_lnm_held = x
    return sequence


def held(x: Tensor) -> Tensor | None:
    """The one step of which the sequence ``x`` consists (`x.expand`), `[B, ...]`.

    None where steps may differ, or their gradients: only of :func:`hold` is it known that nobody else asks for the
    gradient of a single step. None, too, while a compiler looks on.
    """
    if x.layout != torch.strided or x.dim() < 1 or x.stride(0) != 0 or x.shape[0] < 2 or torch.compiler.is_compiling():
        return None
    if x.requires_grad:
        return getattr(x, "_snn_lnm_held", None)
    return x[0]
