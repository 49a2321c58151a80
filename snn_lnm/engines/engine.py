"""What an engine is: another one is a module with an `Engine`, and a row in :data:`snn_lnm.engines.op.ENGINES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

__all__ = ["Engine"]


class Engine(NamedTuple):
    """
    Attributes:
        name: as in ``backend=``.
        device: the type of the devices for whose tensors ``"auto"`` prefers it.
        missing: what this machine lacks for it, in a sentence; None: nothing.
        obstacle: ``obstacle(device, functions)``: why it cannot run a neuron with these elementary functions there;
            None: it can.
        kernels: by dispatch key: its `snn_lnm::scan` and `snn_lnm::scan_backward`.
    """

    name: str
    device: str
    missing: Callable[[], str | None]
    obstacle: Callable[[torch.device, tuple[str, ...]], str | None]
    kernels: Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]]
