"""Models that were wrapped before the swap: what wraps them knows parameters and code that would be gone."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable
from typing import cast

from torch import distributed, nn

__all__ = ["check_unwrapped"]

WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "FSDPModule": "",
}
"""Classes of PyTorch, by name so that nothing is imported for them, and where each has what it wraps."""


def check_unwrapped(model: nn.Module, neurons: Collection[nn.Module]) -> None:
    """Raise ValueError if some of ``neurons``, which are ``model``'s, is in a wrapped module."""
    wanted = {*map(id, neurons)}
    for path, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules()):
        kind, inside = _wrapper(module)
        if kind and any(id(m) in wanted for m in module.modules()):
            place = f"model.{path}" if path else "model"
            call = f": swap({place}.{inside})." if inside else "."
            raise ValueError(
                f"{path or 'the model'} is wrapped by {kind}, which would go on with what was there: "
                f"swap the model first, then wrap it{call}"
            )
    # Without a process group there is none; one that nobody holds any more may wait in a cycle.
    if distributed.is_available() and distributed.is_initialized() and _is_held(wanted):
        gc.collect()
        if _is_held(wanted):
            raise ValueError(
                "a DistributedDataParallel holds this model, and would not reduce the gradients of the new "
                "parameters: swap the model first, then wrap it."
            )


def _wrapper(module: nn.Module) -> tuple[str, str]:
    """The name of the wrapper that ``module`` is, and its attribute with what it wraps; both empty for others."""
    for kind in type(module).__mro__:
        if kind.__name__ in WRAPPERS and kind.__module__.startswith("torch."):
            return kind.__name__, WRAPPERS[kind.__name__]
    return ("torch.compile", "") if getattr(module, "_compiled_call_impl", None) is not None else ("", "")


def _is_held(wanted: set[int]) -> bool:
    """A DistributedDataParallel outside the model has modules of ``wanted``: its ranks would drift apart."""
    parallel = nn.parallel.DistributedDataParallel
    found = [value for value in gc.get_objects() if issubclass(type(value), parallel)]
    return any(id(module) in wanted for value in found for module in value.modules())
