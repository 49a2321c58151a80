"""An optimizer that exists already: the new parameters join it, those that were replaced leave it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

__all__ = ["check_optimizer", "parameters_after", "update_optimizer"]

ONE_GROUP = ("LBFGS", "Muon")
"""Of `torch.optim`: these take no second group of parameters, or no vectors."""


def check_optimizer(optimizer: object, model: nn.Module) -> None:
    """Raise TypeError for what is no optimizer, ValueError for one that cannot take new parameters of ``model``."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    name = type(optimizer).__name__
    if not _held(optimizer) & {*map(id, model.parameters())}:
        raise ValueError(f"the {name} holds none of the model's parameters: pass the model's own, or leave it out.")
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        raise ValueError(
            f"a learning-rate scheduler is attached to the {name}, and does not know new groups: "
            "build the scheduler after the swap."
        )
    if any(isinstance(optimizer, getattr(torch.optim, kind, ())) for kind in ONE_GROUP):
        raise ValueError(f"{name} takes no second group of parameters: build it after the swap.")


def update_optimizer(
    optimizer: Optimizer, before: Mapping[int, nn.Parameter], after: Mapping[str, nn.Parameter]
) -> str:
    """Let the model's parameters in ``optimizer`` be those of ``after``.

    New ones come into a group of their own, with the optimizer's defaults and without weight decay, which would pull
    a leak to zero. Others that the user left out of the optimizer stay outside.

    Args:
        before: the model's parameters by `id`.
        after: those that it will have, by name.

    Returns:
        What was done, in a sentence.
    """
    held, staying = _held(optimizer), {*map(id, after.values())}
    new = {name: p for name, p in after.items() if id(p) not in before and id(p) not in held}
    gone = {key for key in before if key in held and key not in staying}
    groups = optimizer.param_groups
    if new:
        named = any("param_names" in group for group in groups)
        group: dict[str, Any] = {"params": [*new.items()] if named else [*new.values()]}
        if "weight_decay" in optimizer.defaults:
            group["weight_decay"] = 0.0
        optimizer.add_param_group(group)
    for group in groups:
        stays = [id(p) not in gone for p in group["params"]]
        for key in ("params", "param_names"):
            if key in group:
                group[key][:] = [value for value, keep in zip(group[key], stays, strict=True) if keep]
    for parameter in [p for p in optimizer.state if id(p) in gone]:
        del optimizer.state[parameter]
    name = type(optimizer).__name__
    return f"The {name} has {len(new)} new parameters, in a group of their own; {len(gone)} replaced ones left it."


def parameters_after(model: nn.Module, replaced: Mapping[int, nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters that ``model`` will have once each module of ``replaced`` (by `id`) is in its place, by name."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for path, module in _modules_after("", model, replaced):
        for name, parameter in module.named_parameters(path, recurse=False):
            found.setdefault(id(parameter), (name, parameter))
    return dict(found.values())


def _modules_after(path: str, module: nn.Module, replaced: Mapping[int, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    module = replaced.get(id(module), module)
    yield path, module
    for name, child in module.named_children():
        yield from _modules_after(f"{path}.{name}" if path else name, child, replaced)


def _held(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}
