"""What training keeps of a sequence for its backward pass, and two ways to keep less."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.utils.checkpoint
from torch import Tensor

from snn_lnm.engines import Engine
from snn_lnm.parameters import STATE_DTYPE, Dynamics, Parameters, State

__all__ = ["FULL", "Memory", "check_memory", "membrane_dtype", "recomputing"]


class Memory(NamedTuple):
    """How much of a sequence is kept for the backward pass. Default: the membrane, one float per element.

    A membrane that the caller asks for is kept anyway, in full: then neither option has anything to spare.

    Attributes:
        recompute: K, to keep the state of every K-th step and the input, and to compute the membranes between
            again. Same bits of spikes and states, same gradients but for the order of their sums.
        dtype: ``torch.bfloat16``, for inputs whose arithmetic is float32: the compiled engines keep the membrane h
            in half the bytes. Spikes and states keep their bits. Gradients are evaluated at ``h·(1 + e)``,
            ``|e| < 2^-7`` (``2^-8`` unless h is next to the threshold): h is rounded to nearest but never across the
            threshold, so that the backward pass finds the spikes of the forward. The reference engine keeps
            all of it in full.
    """

    recompute: int | None = None
    dtype: torch.dtype | None = None


FULL = Memory()


def check_memory(memory: object) -> None:
    """Raise TypeError or ValueError unless ``memory`` is a sound :class:`Memory`."""
    if not isinstance(memory, Memory):
        raise TypeError(f"memory must be a snn_lnm.Memory, got {memory!r}.")
    every, dtype = cast("tuple[object, object]", memory)
    if isinstance(every, bool) or not isinstance(every, (int, type(None))):
        raise TypeError(f"memory.recompute must be a number of steps or None, got {every!r}.")
    if every is not None and every < 1:
        raise ValueError(f"memory.recompute must be at least 1 step, got {every}.")
    if dtype not in (None, torch.bfloat16):
        raise ValueError(f"memory.dtype must be torch.bfloat16 or None, got {dtype!r}.")


def membrane_dtype(x: Tensor, memory: Memory) -> torch.dtype:
    """In which the membrane is kept if nobody else wants it.

    Raises:
        ValueError: bfloat16 is asked for where the arithmetic is float64.
    """
    arithmetic = STATE_DTYPE[x.dtype]
    if memory.dtype is not None and arithmetic != torch.float32:
        raise ValueError(
            f"memory.dtype={memory.dtype} is for inputs whose arithmetic is float32, got {x.dtype}: "
            "convert the input (x.float()) or leave memory.dtype out."
        )
    return memory.dtype or arithmetic


def recomputing(engine: Engine, every: int) -> Engine:
    """``engine`` over ``every`` steps at a time, of which only the states at either end are kept."""

    def run(
        x: Tensor, state: State, parameters: Parameters, dynamics: Dynamics, single_step: bool, membrane: bool
    ) -> tuple[Tensor, Tensor, State]:
        spikes: list[Tensor] = []
        for part in cast("list[Tensor]", x.split(every)):
            s, _, state = torch.utils.checkpoint.checkpoint(
                *(engine, part, state, parameters, dynamics, single_step, membrane),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            spikes.append(s)
        return torch.cat(spikes), x.new_empty(0, dtype=state.v.dtype), state

    return run
