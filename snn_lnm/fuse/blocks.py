"""How many steps of a sequence go through the network together; it depends on nothing but the sizes of tensors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import Module

from snn_lnm.fuse import folding
from snn_lnm.fuse.graph import DERIVATIONS, StepGraph
from snn_lnm.plugins import Adapter, CannotFuse
from snn_lnm.tracing import sizes

__all__ = ["bytes_of_a_step", "first_steps", "steps_of"]

BLOCK_BYTES = 2**24
"""Of the largest tensor in a block of time: what the next layer reads is then still in the caches."""
FIRST_BYTES = 2**20
"""Of the input in the first block, which finds the largest tensor out."""
FEWEST = 8
"""Steps in a block: fewer would spend their time in Python again."""
FIRST_HELD = 16
"""Steps in the first block of an input that does not change, which has no bytes per step."""


def first_steps(x: Tensor, same: bool) -> int:
    """In the first block of ``x``, `[T, B, ...]`; ``same``: all of its steps are."""
    steps = sizes(x)[0]
    fitting = FIRST_HELD if same else FIRST_BYTES * steps // max(x.nbytes, 1)
    return min(steps, max(FEWEST, fitting))


def steps_of(largest: int) -> int:
    """In a block, if the largest tensor of one step has so many bytes."""
    return max(FEWEST, BLOCK_BYTES // largest)


def bytes_of_a_step(step: StepGraph, x: Tensor, same: bool, adapters: Sequence[Adapter]) -> int | None:
    """Of the largest tensor over time of ``step`` on ``x``, `[T, B, ...]`; ``same``: all steps of that are.

    None where other layers than dense ones change the size of what they take: that takes a run.
    """
    known = {step.inputs[0]: x.shape[1:].numel()}
    once = {step.inputs[0]} if same else set[str]()  # runs once, and has no bytes per step
    for node in step.operations[:-1]:
        source = node.sources[0] if node.sources else ""
        size, is_once = known.get(source), source in once
        if node.op == "call_module":
            module = step.called[node.name]
            is_neuron = any(type(module) in adapter.fuse for adapter in adapters)
            is_once = is_once and not is_neuron
            size = size if size is None or is_neuron else _size_after(module, size, adapters)
            if size is None:
                return None
        elif node.op != "placeholder" and getattr(node.target, "__name__", "") not in DERIVATIONS:
            return None
        if size is not None:
            known[node.name] = size
        if is_once:
            once.add(node.name)
    return max([1, *[size for name, size in known.items() if name not in once]]) * x.element_size()


def _size_after(layer: Module, size: int, adapters: Sequence[Adapter]) -> int | None:
    try:
        return folding.size_after(folding.kind_of(layer, adapters), layer, size)
    except CannotFuse:
        return None
