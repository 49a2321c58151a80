"""What a run over time holds: tensors of every step, and objects of every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from snn_lnm.tracing import sizes

__all__ = [
    "OverTime",
    "Steps",
    "aligned",
    "bytes_of_a_step",
    "collected",
    "collected_folded",
    "fused_result",
    "has_objects",
    "has_steps",
    "joined",
    "last",
    "leaves",
    "mapped",
    "result_of",
    "tensors_over_time",
    "unrolled",
]

ALIGNMENT = 64
"""Bytes, PyTorch's on CPUs."""


@dataclass(eq=False)
class OverTime:
    """A tensor of every step, `[T, ...]`; ``is_input``: the model's own input, of which the loop takes slices."""

    tensor: Tensor
    is_input: bool = False


@dataclass(eq=False)
class Steps:
    """What is no tensor, of every step; the last one is what a step hands on."""

    values: list[Any]


def leaves(tree: Any) -> list[Any]:
    return [tree] if isinstance(tree, (OverTime, Tensor)) else pytree.tree_leaves(tree)


def tensors_over_time(tree: Any) -> list[Tensor]:
    return [leaf.tensor for leaf in leaves(tree) if isinstance(leaf, OverTime)]


def mapped(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """``tree``, with ``function`` of its tensors over time."""
    return pytree.tree_map_only(OverTime, lambda leaf: OverTime(function(leaf.tensor)), tree)


def has_steps(tree: Any) -> bool:
    return any([isinstance(leaf, (OverTime, Steps)) for leaf in leaves(tree)])


def has_objects(tree: Any) -> bool:
    return any(isinstance(leaf, Steps) for leaf in leaves(tree))


def unrolled(leaf: Any, steps: int) -> Sequence[Any]:
    if isinstance(leaf, OverTime):
        slices = leaf.tensor.unbind(0)
        return slices if leaf.is_input else [*map(aligned, slices)]
    return leaf.values if isinstance(leaf, Steps) else (leaf,) * steps


def aligned(value: Tensor) -> Tensor:
    """``value`` where a step's own result would lie: a BLAS may add up in another order at another alignment."""
    if torch.compiler.is_compiling():  # a compiler decides by itself where things lie
        return value
    return value.clone() if value.storage_offset() * value.element_size() % ALIGNMENT else value


def collected(results: list[Any]) -> Any:
    """The results of all steps as values over time."""
    first = results[0]
    if isinstance(first, Tensor):
        return OverTime(torch.stack(results))
    if type(first) in (tuple, list):
        return type(first)(collected([*values]) for values in zip(*results, strict=True))
    return Steps(results)


def collected_folded(out: Any) -> Any:
    return OverTime(out) if isinstance(out, Tensor) else pytree.tree_map_only(Tensor, OverTime, out)


def fused_result(out: Any) -> Any:
    """Tensors are over time; a state that is a tuple is the last one."""
    if isinstance(out, Tensor):
        return OverTime(out)
    return tuple([OverTime(value) if isinstance(value, Tensor) else Steps([value]) for value in out])


def bytes_of_a_step(value: Any) -> int:
    return value.tensor.nbytes // sizes(value.tensor)[0] if isinstance(value, OverTime) else 0


def last(value: Any) -> Any:
    """What a layer returned at the last step."""
    if isinstance(value, OverTime):
        return aligned(value.tensor[-1])
    if isinstance(value, Steps):
        return value.values[-1]
    return type(value)(map(last, value)) if type(value) in (tuple, list) else value


def joined(blocks: Sequence[Any]) -> Any:
    """The step's results in all blocks as one."""

    def join(first: Any, *later: Any) -> Any:
        if isinstance(first, OverTime) and later:
            return OverTime(torch.cat([part.tensor for part in (first, *later)]))
        return later[-1] if later else first

    return pytree.tree_map(join, *blocks) if len(blocks) > 1 else blocks[0]


def result_of(value: Any) -> Any:
    """What the step returns, over time."""
    if isinstance(value, OverTime):
        return value.tensor
    if isinstance(value, Steps):
        return value.values[-1]
    same: object = value  # isinstance() on it leaves `value` as it is: a dict, say, of any things, not of unknown ones
    if isinstance(same, dict):
        return {key: result_of(inner) for key, inner in value.items()}
    if isinstance(same, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(result_of, value))
    if isinstance(same, (tuple, list)):
        return (tuple if isinstance(same, tuple) else list)(map(result_of, value))
    return value
