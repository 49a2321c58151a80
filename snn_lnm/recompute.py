"""Less memory for training: keep every K-th state and compute the membranes between again in the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from snn_lnm.engines import Engine
from snn_lnm.parameters import Dynamics, Parameters, State

__all__ = ["check_recompute", "recomputing"]


def check_recompute(every: int | None) -> None:
    """Raise TypeError or ValueError unless ``every`` is None or a positive int."""
    if every is None:
        return
    if isinstance(every, bool) or not isinstance(every, int):
        raise TypeError(f"recompute must be a number of steps or None, got {every!r}.")
    if every < 1:
        raise ValueError(f"recompute must be at least 1 step, got {every}.")


def recomputing(engine: Engine, every: int) -> Engine:
    """``engine`` over ``every`` steps at a time, of which only the states at either end are kept."""

    def run(
        x: Tensor, state: State, parameters: Parameters, dynamics: Dynamics, single_step: bool, membrane: bool
    ) -> tuple[Tensor, Tensor, State]:
        spikes: list[Tensor] = []
        for part in x.split(every):
            arguments = (part, state, parameters, dynamics, single_step, membrane)
            s, _, state = checkpoint(engine, *arguments, use_reentrant=False, preserve_rng_state=False)
            spikes.append(s)
        return torch.cat(spikes), x.new_empty(0, dtype=state.v.dtype), state

    return run
