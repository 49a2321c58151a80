"""Calls of the operators: what they take from the form in which a layer has it, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snn_lnm.checks import STATE_DTYPE
from snn_lnm.engines import op
from snn_lnm.held import held
from snn_lnm.law import Neuron, Outputs
from snn_lnm.tracing import is_tracing, sizes

__all__ = ["Prepared", "call", "one_step", "prepare", "run", "watched"]

View = tuple[tuple[int, ...], tuple[int, ...]] | None
"""Of a number's tensor: reshaped so, then expanded so; None: as it is."""
_PLAIN = {Tensor, torch.nn.Parameter, type(None)}


def watched(values: tuple[Any, ...]) -> bool:
    """By a mode (fake tensors, tracing, a user's), or by a tensor's class: who then must see the operator."""
    modes = torch._C._len_torch_dispatch_stack()  # pyright: ignore[reportPrivateUsage] - torch has no public one
    return modes > 0 or not _PLAIN.issuperset(map(type, values))


class Prepared(NamedTuple):
    """What a call of an operator needs besides its tensors: the same for all tensors of the same shapes and dtypes.

    Attributes:
        operator: the function to call, of input, states and numbers.
        views: of the numbers, so that each has one value or G; None: as they are.
        kept_state: the place of the state that is the kept membrane, or -1.
    """

    operator: Callable[[Tensor, list[Tensor], list[Tensor]], Sequence[Tensor]]
    views: tuple[View, ...] | None
    kept_state: int


def _viewed(value: Tensor, view: View) -> Tensor:
    return value if view is None else value.reshape(view[0]).expand(view[1])


def _layout(
    numbers: Sequence[Tensor], widths: tuple[int | None, ...], step: torch.Size
) -> tuple[int, int, tuple[View, ...] | None]:
    """``inner``, ``groups`` and the views of the numbers.

    The dimensions along which any number varies, and those between them, form the groups.
    """
    trailings = [() if width is None else (width,) for width in widths]
    shapes = [sizes(value)[: value.dim() - len(trailing)] for value, trailing in zip(numbers, trailings, strict=True)]
    varying = [len(step) - len(shape) + i for shape in shapes for i, size in enumerate(shape) if size > 1]
    if not varying:
        return 1, 1, None
    first, last = min(varying), max(varying)
    groups = math.prod(step[first : last + 1])
    views: list[View] = []
    for value, trailing in zip(numbers, trailings, strict=True):
        size = math.prod(trailing)
        if sizes(value).numel() in (size, groups * size):
            views.append(None)
            continue
        missing = len(step) + len(trailing) - value.dim()
        inside = (*[1] * missing, *sizes(value))[first : last + 1]  # the other dimensions are 1
        views.append(((*inside, *trailing), (*step[first : last + 1], *trailing)))
    return math.prod(step[last + 1 :]), groups, tuple(views) if any(views) else None


def _order_in_memory(x: Tensor, first: int) -> list[int] | None:
    """The order of the dimensions from ``first`` on in which a permuted ``x``, say channels-last, is contiguous.

    None if ``x`` is contiguous as it is, or in no such order.
    """
    if x.is_contiguous():
        return None
    order = sorted(range(x.dim() - first), key=lambda i: -x.stride(i + first))
    return order if x.permute(*range(first), *(i + first for i in order)).is_contiguous() else None


def _permute(value: Tensor, order: list[int], leading: int, trailing: int = 0) -> Tensor:
    """``value`` with the dimensions between the first ``leading`` and the last ``trailing`` in ``order``."""
    dims = leading + len(order) + trailing
    spread = value.reshape(*[1] * (dims - value.dim()), *value.shape)
    return spread.permute(*range(leading), *(i + leading for i in order), *range(dims - trailing, dims))


def one_step(x: Tensor, single_step: bool) -> tuple[Tensor, int]:
    """The step of which the sequence ``x`` consists, and how often it does; ``x`` and 0 if it does not."""
    step = None if single_step else held(x)
    return (x, 0) if step is None else (step, x.shape[0])


def prepare(
    engine: str,
    membrane_dtype: torch.dtype,
    neuron: Neuron,
    x: Tensor,
    steps: int,
    states: Sequence[Tensor],
    numbers: Sequence[Tensor],
    single_step: bool,
    membrane: bool,
) -> Prepared:
    """For an ``x`` that is contiguous, with ``steps`` > 0 one step, the same at each of so many."""
    inner, groups, views = _layout(numbers, neuron.widths, sizes(x)[0 if single_step or steps else 1 :])
    arithmetic = STATE_DTYPE[x.dtype]
    # What torch.jit traces may learn later, and is traced once more without gradients, to be compared.
    learns = torch.is_grad_enabled() or is_tracing()
    kept = arithmetic if membrane else membrane_dtype if learns else None
    options = (neuron.text, inner, groups, steps, single_step, kept)
    same = neuron.membrane_state if single_step and kept == arithmetic else -1
    # Compilers and tracers need to see the operator; else the dispatcher's way to Python would only cost time.
    if torch.compiler.is_compiling() or is_tracing():
        return Prepared(partial(op.through_dispatcher, engine, options), views, same)
    call = op.call_of(engine, x, len(states), options)
    return Prepared(partial(op.differentiable, call), views, same)


def call(prepared: Prepared, x: Tensor, states: list[Tensor], numbers: list[Tensor]) -> Outputs:
    operator, views, same = prepared
    if views is not None:
        numbers = [*map(_viewed, numbers, views)]
    outputs = operator(x, states, numbers)
    h = outputs[1]
    last = [h if k == same else value for k, value in enumerate(outputs[2:])]
    return outputs[0], h, last


def run(
    engine: str,
    membrane_dtype: torch.dtype,
    neuron: Neuron,
    single_step: bool,
    membrane: bool,
    x: Tensor,
    states: list[Tensor],
    numbers: list[Tensor],
) -> Outputs:
    """The law through a compiled engine, ``"cpp"`` or ``"triton"``; same contract as `Neuron.scan`.

    With ``single_step`` the input is one step. Unless the ``membrane`` is wanted as an output, it is kept in
    ``membrane_dtype``, and only for a backward pass. Neurons do not see each other, so an input that is dense in
    another order of its dimensions is computed in that order, without a copy.
    """
    time, (x, steps) = 0 if single_step else 1, one_step(x, single_step)
    first = 0 if steps else time
    order = _order_in_memory(x, first)
    if order is not None:
        x, states = _permute(x, order, first), [_permute(value, order, 0) for value in states]
        numbers = [
            value if value.numel() == 1 else _permute(value, order, 0, int(width is not None))
            for value, width in zip(numbers, neuron.widths, strict=True)
        ]
    prepared = prepare(engine, membrane_dtype, neuron, x, steps, states, numbers, single_step, membrane)
    spikes, h, last = call(prepared, x, states, numbers)
    if order is None:
        return spikes, h, last
    back = sorted(range(len(order)), key=lambda i: order[i])
    h = _permute(h, back, time) if membrane else h
    return _permute(spikes, back, time), h, [_permute(value, back, 0) for value in last]
