"""Sequences of different lengths in one padded batch `[T, B, ...]`: each gets what it gets alone.

``lengths[b]`` steps of sequence b count; what the padding after them holds is never read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from snn_lnm.held import expanded, held
from snn_lnm.parameters import Parameters, State

__all__ = ["Lengths", "check_lengths", "each_alone", "inside", "within"]

Lengths = tuple[int, ...]
Arguments = tuple[Tensor, State | None, Parameters]
Results = tuple[Tensor, Tensor, State]


def check_lengths(lengths: Any, x: Tensor) -> Lengths:
    """``lengths`` as numbers, if there is one in 0..T for each sequence of ``x``, `[T, B, ...]`.

    Raises:
        TypeError: not integers; ValueError: another shape, a number out of range, a tensor that holds none here.
    """
    if x.dim() < 2:
        raise ValueError(f"with lengths the input must be [T, B, ...], got {[*x.shape]}.")
    steps, batch = x.shape[:2]
    if isinstance(lengths, Tensor):
        if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
            raise TypeError(f"lengths must be integers, got {lengths.dtype}: lengths.long() converts.")
        if lengths.device != x.device and lengths.device.type != "cpu":
            raise ValueError(
                f"lengths are on {lengths.device} and the input on {x.device}: move them (lengths.cpu() is best)."
            )
        if lengths.is_meta:
            raise ValueError("lengths are on the meta device and hold no numbers: give them as a list.")
        if lengths.shape != (batch,):
            raise _wrong_shape([*lengths.shape], x)
        lengths = cast("list[int]", lengths.tolist())
    if not isinstance(lengths, Sequence) or isinstance(lengths, (str, bytes)):
        raise TypeError(f"lengths must be an integer tensor or a sequence of ints, got {type(lengths).__name__}.")
    given = [*cast("Sequence[Any]", lengths)]
    if any(isinstance(length, bool) or not hasattr(length, "__index__") for length in given):
        raise TypeError(f"lengths must be integers, got {given!r}.")
    if len(given) != batch:
        raise _wrong_shape([len(given)], x)
    found = tuple(map(operator.index, given))
    if wrong := [b for b, length in enumerate(found) if not 0 <= length <= steps]:
        raise ValueError(
            f"lengths must be between 0 and T = {steps}, got {found[wrong[0]]} for sequence {wrong[0]}: they count the "
            "steps of each sequence, of the input [T, B, ...]."
        )
    return found


def _wrong_shape(shape: list[int], x: Tensor) -> ValueError:
    return ValueError(
        f"lengths must be [B] = [{x.shape[1]}], one number of steps for each sequence of the input {[*x.shape]}, "
        f"got {shape}."
    )


def within(lengths: Lengths, start: int, steps: int) -> Lengths:
    """How much of each sequence lies in the ``steps`` from ``start`` on."""
    return tuple([min(max(length - start, 0), steps) for length in lengths])


def inside(lengths: Lengths, like: Tensor) -> Tensor:
    """True where ``like``, `[T, B, ...]`, is no padding: `[T, B, 1, ...]`."""
    ends = torch.tensor(lengths, device=like.device)
    found = torch.arange(like.shape[0], device=like.device).unsqueeze(1) < ends
    return found.view(like.shape[0], len(lengths), *[1] * (like.dim() - 2))


def each_alone(
    lengths: Lengths, x: Tensor, state: State | None, parameters: Parameters, run: Callable[..., Results]
) -> Results:
    """``run(x, state, parameters)`` on the sequences of each length, put together; zeros after their ends.

    A call for each length that occurs: no step of the padding is computed, so nothing in it can be wrong, and its
    gradient is zero whatever it holds.

    Args:
        parameters: as :func:`snn_lnm.checks.align` leaves them.
    """
    if set(lengths) <= {x.shape[0]}:
        return run(x, state, parameters)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    known = sorted(set(lengths))
    sizes = [lengths.count(length) for length in known]

    def parts(value: Tensor | None, dim: int = 0) -> list[Any]:
        return [None] * len(known) if value is None else [*_taken(value, order, dim).split(sizes, dim)]

    def numbers(value: Tensor | None, dims: int) -> list[Any]:
        """Those of a layout with the batch in it go with their sequences."""
        has_batch = value is not None and value.dim() == dims and value.shape[0] == len(lengths)
        return parts(value) if has_batch else [value] * len(known)

    step = held(x)
    sequences = parts(x, 1) if step is None else parts(step)
    states = [None] * len(known) if state is None else [*map(State, *map(parts, state))]
    dims = (x.dim(), *[x.dim() - 1] * (len(parameters) - 1))
    laws = [*map(Parameters, *map(numbers, parameters, dims))]
    results = [
        run(part[:length] if step is None else expanded(part, length), start, law)
        for length, part, start, law in zip(known, sequences, states, laws, strict=True)
    ]
    back = sorted(range(len(lengths)), key=order.__getitem__)
    spikes, h, last = zip(*results, strict=True)

    def joined(values: Sequence[Tensor]) -> Tensor:
        return _taken(torch.cat([_padded(value, x.shape[0]) for value in values], 1), back, 1)

    ends = [None if values[0] is None else _taken(torch.cat(values), back) for values in zip(*last, strict=True)]
    unasked = next((value for value in h if value.dim() < 2), None)
    return joined(spikes), joined(h) if unasked is None else unasked, State(*cast(Any, ends))


def _taken(x: Tensor, rows: Sequence[int], dim: int = 0) -> Tensor:
    return x.index_select(dim, torch.tensor(rows, device=x.device))


def _padded(x: Tensor, steps: int) -> Tensor:
    """With zeros at the end."""
    return torch.cat([x, x.new_zeros(steps - x.shape[0], *x.shape[1:])])
