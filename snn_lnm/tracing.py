"""`torch.jit.trace`, which records what is called: under it sizes are tensors, and no call is like another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["is_tracing", "sizes"]


def is_tracing() -> bool:
    """Within `torch.jit.trace`, or `torch.onnx.export` with ``dynamo=False``."""
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] - it is public, see its documentation


def sizes(x: Tensor) -> torch.Size:
    """``x.shape`` as numbers, also while a trace records."""
    if not is_tracing():
        return x.shape
    core: Any = torch._C  # pyright: ignore[reportPrivateUsage] - torch has no public one
    recording = core._get_tracing_state()
    core._set_tracing_state(None)
    try:
        return x.shape
    finally:
        core._set_tracing_state(recording)
