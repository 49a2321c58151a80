"""Sequences of different lengths in one padded batch, through a network over time.

What is computed for the padding of a sequence repeats its last step: it is finite wherever the step is, so that its
gradient, zero, stays zero whatever a layer does with it. Neurons do not see it at all, and states stop at the end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] - the class of all of them
from torch.utils import _pytree as pytree

from snn_lnm.fuse import folding
from snn_lnm.lengths import Lengths, inside
from snn_lnm.plugins import Adapter, Call, CannotFuse

__all__ = ["check_function", "check_layer", "living", "repeated", "restored", "trimmed"]

MOVES = ("permute", "transpose", "swapaxes", "movedim")
JOINS = ("cat", "stack", "concat")
REDUCTIONS = ("mean", "sum", "amax", "amin", "softmax", "log_softmax", "logsumexp", "norm", "var", "std", "argmax")


def repeated(x: Tensor, lengths: Lengths) -> Tensor:
    """``x``, `[T, B, ...]`, with the last step of each sequence in its padding; where there is none, another's."""
    longest = max(range(len(lengths)), key=lengths.__getitem__, default=0)
    if not lengths or not lengths[longest]:
        return torch.where(inside(lengths, x), x, x.new_zeros(()))
    rows = [b if length else longest for b, length in enumerate(lengths)]
    steps = [lengths[row] - 1 for row in rows]
    last = x.detach()[torch.tensor(steps, device=x.device), torch.tensor(rows, device=x.device)]
    return torch.where(inside(lengths, x), x, last)


def trimmed(x: Tensor, lengths: Lengths, steps: int) -> Tensor:
    """What the step returned, with zeros after each sequence's end, over all ``steps``."""
    if len(lengths) > 1 and x.shape[1:2] != (len(lengths),):
        raise _refusal(f"the step returns {[*x.shape[1:]]}, whose first dimension is not the batch")
    x = torch.where(inside(lengths, x), x, x.new_zeros(()))
    return torch.cat([x, x.new_zeros(steps - x.shape[0], *x.shape[1:])]) if x.shape[0] < steps else x


def living(lengths: Lengths, step: int, new: Any, old: Any) -> Any:
    """``new`` for the sequences that have a ``step``, ``old`` for the rest."""
    if all(length > step for length in lengths):
        return new
    leaves, spec = pytree.tree_flatten(new)
    before = pytree.tree_leaves(old)
    if len(before) != len(leaves):
        raise _refusal(
            "a sequence without a step here keeps its state, and none was given: give the states before the first"
        )
    return pytree.tree_unflatten([_living(lengths, step, *pair) for pair in zip(leaves, before, strict=True)], spec)


def _living(lengths: Lengths, step: int, new: Any, old: Any) -> Any:
    if not isinstance(new, Tensor) or new.shape[:1] != (len(lengths),):
        raise _refusal("a layer's result at one step is not [B, ...], and cannot stop with its sequence")
    has_step = torch.tensor([length > step for length in lengths], device=new.device)
    old = new.new_zeros(()) if isinstance(old, Tensor) and not old.numel() else old  # a neuron that has not begun
    return torch.where(has_step.view(-1, *[1] * (new.dim() - 1)), new, old)


def _refusal(reason: str) -> ValueError:
    return ValueError(
        f"fuse_time: with lengths, {reason}. Run sequences of one length together, without lengths, or change that."
    )


def check_layer(
    path: str,
    module: nn.Module,
    call: Call,
    dims: int | None,
    run: Callable[..., Any] | None,
    adapters: Sequence[Adapter],
) -> None:
    """Refuse what a sequence's padding, or the other sequences, would have an influence on.

    Args:
        run: what runs it over time; None: T calls of the layer.
    """
    name = f"{path} ({type(module).__name__})"
    norms = [inner for inner in cast("Iterable[Any]", module.modules()) if isinstance(inner, _BatchNorm)]
    if any(norm.training or norm.running_mean is None for norm in norms):
        raise _refusal(f"{name} normalises by the statistics of each step, in which padding would count")
    if run is None and not call.carried and _may_remember(module, dims, adapters):
        raise _refusal(f"{name} runs step by step and may remember or mix sequences: it would not stop at their ends")


def _may_remember(module: nn.Module, dims: int | None, adapters: Sequence[Adapter]) -> bool:
    try:
        kind = folding.kind_of(module, adapters)
    except CannotFuse:
        return True
    return kind not in folding.RANDOM and bool(folding.reason_to_step(kind, module, dims))


def fused_run(path: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """``run`` itself, if it takes lengths."""
    if "lengths" not in inspect.signature(run).parameters:
        raise _refusal(f"{path} is a neuron whose adapter takes no lengths")
    return run


def check_function(name: str, args: Sequence[Any], kwargs: Any, given: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Refuse a function that may mix sequences, or move the batch from the front.

    Args:
        given, out: the tensors over time among its arguments and results, `[T, B, ...]`.
    """
    if not given or given[0].shape[1:2] == (1,):
        return
    batch, dims = given[0].shape[1], given[0].dim() - 1
    keeps_place = all(value.shape[1:2] == (batch,) for value in (*given, *out))
    if not (keeps_place and _keeps_rows(name, args, kwargs, dims, [value.dim() - 1 for value in (*given, *out)])):
        raise _refusal(f"the function {name} may mix the sequences of a batch")


def _keeps_rows(name: str, args: Sequence[Any], kwargs: Any, dims: int, all_dims: Sequence[int]) -> bool:
    first = (0, -dims)
    options = [*pytree.tree_leaves(list(args[1:])), *kwargs.values()]
    numbers = [value for value in options if isinstance(value, int) and not isinstance(value, bool)]
    if name == "permute":
        return bool(numbers) and numbers[0] in first
    if name in MOVES:
        return not any(number in first for number in numbers)
    if name in JOINS:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        return dim != 0 and dim != -max(all_dims)
    if name == "getitem":
        index = cast("Sequence[Any]", args[1] if isinstance(args[1], tuple) else (args[1],))
        named = [value for value in index if value is not None and value is not Ellipsis]
        reaches_back = index[:1] == (Ellipsis,) and len(named) < dims
        return reaches_back or (bool(index) and isinstance(index[0], slice) and index[0] == slice(None))
    if name in REDUCTIONS:
        dim: Any = kwargs.get("dim", args[1] if len(args) > 1 else None)
        chosen = pytree.tree_leaves(dim)
        return all(isinstance(value, int) and value not in first for value in chosen) and len(chosen) > 0
    return name in folding.SHAPES or (name in folding.ROW_BY_ROW and len(set(all_dims)) == 1)


@contextmanager
def restored(modules: Iterable[nn.Module]) -> Generator[None]:
    """What ``modules`` hold is as before if there is an error."""
    before = [(table, dict(table)) for module in modules for table in _tables(module)]
    try:
        yield
    except BaseException:
        for table, old in before:
            table.clear()
            table.update(old)
        raise


def _tables(module: nn.Module) -> list[dict[str, Any]]:
    own = module.__dict__
    return [own, *[value for value in own.values() if type(value) is dict]]
