"""`torch.ops.snn_lnm.scan` in PyTorch's own operators, for exporters that do not know ours.

`torch.onnx.export` finds it in PyTorch's table of decompositions; :func:`decompositions` hands it to
`ExportedProgram.run_decompositions`. Compiled and exported programs hold the operator itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import register_decomposition  # pyright: ignore[reportUnknownVariableType] - torch's is untyped

from snn_lnm.checks import STATE_DTYPE
from snn_lnm.engines import form, op

__all__ = ["decompositions", "scan"]

_OPERATORS = [torch.ops.snn_lnm.scan.cpp, torch.ops.snn_lnm.scan.triton]


def scan(
    x: Tensor, states: list[Tensor], numbers: list[Tensor], law: str, inner: int, groups: int, steps: int,
    single_step: bool, kept: torch.dtype | None,
) -> list[Tensor]:  # fmt: skip
    """What the operator computes, by the neuron's definition: every step of a sequence by itself."""
    said = form.parse(law)
    shape, step = op.outputs_shape(x, steps), states[0].shape
    sequence = x.expand(shape) if steps else x.unsqueeze(0) if single_step else x
    if groups > 1:  # neuron i of a step belongs to group (i // inner) % groups
        grouped = (-1, groups, inner)
        sequence = sequence.reshape(sequence.shape[0], *grouped)
        states = [state.reshape(grouped) for state in states]
    fitting = [_fit(value, width, groups) for value, (_, width) in zip(numbers, said.law.numbers, strict=True)]
    spikes, h, last = said.scan(sequence, states, fitting)
    nothing = x.new_empty(0, dtype=STATE_DTYPE[x.dtype])
    after = [value.reshape(step) for value in last]
    if (same := op.kept_state(law, single_step, kept, x)) >= 0:
        after[same] = nothing.clone()
    # In half precision it is for a backward pass: unread.
    return [spikes.reshape(shape), nothing if kept is None else h.reshape(shape).to(kept), *after]


def _fit(value: Tensor, width: int | None, groups: int) -> Tensor:
    """As it fits `[..., groups, inner]`."""
    trailing = () if width is None else (width,)
    return value.reshape(trailing if value.numel() == math.prod(trailing) else (groups, 1, *trailing))


def decompositions() -> dict[Any, Callable[..., Any]]:
    """:func:`scan` for both operators: a table for `torch.export.ExportedProgram.run_decompositions`."""
    return dict.fromkeys(_OPERATORS, scan)


register_decomposition(_OPERATORS)(scan)
# With an entry here too, fake tensors of unknown sizes keep asking the operator for its shapes, and not for its steps.
register_decomposition(_OPERATORS, type="meta")(op.scan_fake)
