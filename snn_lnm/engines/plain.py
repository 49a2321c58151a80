"""`torch.ops.snn_lnm.forward` in PyTorch's own operators, for exporters that do not know ours.

`torch.onnx.export` finds it in PyTorch's table of decompositions; :func:`decompositions` hands it to
`ExportedProgram.run_decompositions`. Compiled and exported programs hold the operator itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch._decomp import register_decomposition  # pyright: ignore[reportUnknownVariableType] - torch's is untyped

from snn_lnm import reference
from snn_lnm.engines import op
from snn_lnm.engines.triton import Law
from snn_lnm.parameters import STATE_DTYPE, Dynamics, Parameters, State
from snn_lnm.surrogate import BY_NAME

__all__ = ["decompositions", "forward"]

_SURROGATES = tuple(BY_NAME.values())
_OPERATORS = [torch.ops.snn_lnm.forward.cpp, torch.ops.snn_lnm.forward.triton]


def forward(x: Tensor, v: Tensor, current: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    """What the operator computes, by :func:`snn_lnm.reference.scan`: every step of a sequence by itself."""
    law, membrane = Law(*rest[:-1]), rest[-1]
    options: tuple[Any, ...] = (
        *(law.charge, law.reset, law.detach_reset, law.fire_at_threshold, law.synapse),
        *(_SURROGATES[law.surrogate](*law.surrogate_parameters), tuple(law.domain) or None, law.extension),
        *(law.gain_divides, law.smooth),
    )
    dynamics = Dynamics(*options)
    groups, numbers = _numbers(law)
    shape, step = law.outputs(x), v.shape
    sequence = x.expand(shape) if law.held else x.unsqueeze(0) if law.single_step else x
    if groups > 1:  # neuron i of a step belongs to group (i // inner) % groups
        grouped = (-1, groups, law.inner)
        sequence = sequence.reshape(sequence.shape[0], *grouped)
        v, current = v.reshape(grouped), None if current is None else current.reshape(grouped)
    spikes, h, last = reference.scan(sequence, State(v, current), numbers, dynamics)
    nothing = x.new_empty(0, dtype=STATE_DTYPE[x.dtype])
    membrane_is_last = membrane == nothing.dtype and law.single_step and dynamics.state_is_membrane
    return (
        spikes.reshape(shape),
        nothing if membrane is None else h.reshape(shape).to(membrane),  # in half only for a backward pass: unread
        nothing.clone() if membrane_is_last else last.v.reshape(step),
        nothing.clone() if last.current is None else last.current.reshape(step),
    )


def _numbers(law: Law) -> tuple[int, Parameters]:
    """How many groups have numbers of their own, and the numbers as they fit `[..., groups, inner]`."""
    coefficients, *others = law[:5]
    width = coefficients.shape[-1]
    groups = max(coefficients.numel() // width, *(value.numel() for value in others if value is not None))

    def fit(value: Tensor, *trailing: int) -> Tensor:
        return value.reshape(trailing if value.numel() == math.prod(trailing) else (groups, 1, *trailing))

    return groups, Parameters(
        fit(coefficients, width), *cast(Any, [value if value is None else fit(value) for value in others])
    )


def decompositions() -> dict[Any, Callable[..., Any]]:
    """:func:`forward` for both operators: a table for `torch.export.ExportedProgram.run_decompositions`."""
    return dict.fromkeys(_OPERATORS, forward)


register_decomposition(_OPERATORS)(forward)
# With an entry here too, fake tensors of unknown sizes keep asking the operator for its shapes, and not for its steps.
register_decomposition(_OPERATORS, type="meta")(op.forward_fake)
