"""What training keeps of a sequence for its backward pass, and two ways to keep less."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.utils.checkpoint
from torch import Tensor

from snn_lnm.checks import STATE_DTYPE
from snn_lnm.engines import Run, transformed
from snn_lnm.law import Outputs

__all__ = ["FULL", "Memory", "can_recompute", "check_memory", "membrane_dtype", "recomputing"]


class Memory(NamedTuple):
    """How much of a sequence is kept for the backward pass. Default: the membrane, one float per element.

    Both options are about whole sequences (`LNM`, Norse's `LIF`, networks of `fuse_time`): one step of a user's
    own loop keeps what it needs. A membrane that the caller asks for is kept anyway, in full.

    Attributes:
        recompute: K, to keep the state of every K-th step and the input, and to compute the membranes between
            again. Same bits of spikes and states, same gradients but for the order of their sums.
        dtype: ``torch.bfloat16``, for inputs whose arithmetic is float32: the compiled engines keep the membrane in
            half the bytes, as its distance to the threshold (as itself if the threshold is beyond ±100). Spikes and
            states keep their bits, and the backward pass finds the same spikes. Gradients are those at a membrane
            ``h + e·(h - threshold)``, ``|e| <= 2^-9``. The reference engine keeps all of it in full.
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
        hint = ": write Memory(dtype=...)" if isinstance(every, torch.dtype) else ""
        raise TypeError(f"memory.recompute must be a number of steps or None, got {every!r}{hint}.")
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


def recomputing(run: Run, every: int, draws: bool) -> Run:
    """``run`` over ``every`` steps at a time, of which only the states at either end are kept.

    ``draws``: it may draw random numbers, as a surrogate of the user's own may.
    """

    def over_time(x: Tensor, states: list[Tensor], numbers: list[Tensor]) -> Outputs:
        # As tensors of their own, so that autograd sees what is changed in place between forward and backward.
        def advance(part: Tensor, *tensors: Tensor) -> Outputs:
            return run(part, [*tensors[: len(states)]], [*tensors[len(states) :]])

        spikes: list[Tensor] = []
        last = states
        for part in cast("list[Tensor]", x.split(every)):
            s, _, last = torch.utils.checkpoint.checkpoint(
                *(advance, part, *last, *numbers), use_reentrant=False, preserve_rng_state=draws
            )
            spikes.append(s)
        return torch.cat(spikes), x.new_empty(0, dtype=STATE_DTYPE[x.dtype]), last

    return over_time


def can_recompute() -> bool:
    """Not inside `torch.func`, which knows no saved-tensor hooks, nor in an exported program, which has no backward."""
    exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", bool)  # since torch 2.7
    return torch.is_grad_enabled() and not transformed() and not exporting()
