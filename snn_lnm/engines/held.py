"""An input that is the same at every step: a sequence `[T, B, ...]` in the memory of one step."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["held", "hold"]


def hold(x: Tensor, steps: int) -> Tensor:
    """``x`` at each of ``steps`` steps, `[T, *x.shape]`, for which :func:`held` gives ``x``."""
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
