"""What becomes of one neuron: which class decides, what would be lost, and what the new one takes over."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from snn_lnm.neuron import LearnableNeuron
from snn_lnm.plugins import Adapter, CannotSwap

__all__ = ["HOOKS", "another", "check_nothing_is_lost", "known_class", "take_over", "unregistered"]

HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)
CHECKPOINT_HOOKS = (
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
BOOKKEEPING = {
    *("__init__", "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__slots__", "__annotations__"),
    *("__annotate__", "__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__"),
    *("__parameters__", "__orig_bases__", "__type_params__", "__abstractmethods__", "_abc_impl"),
}  # fmt: skip
"""Of a class that presets constructor arguments and does nothing else."""

Kind = type[nn.Module]
Build = TypeVar("Build")


def known_class(module: nn.Module, table: Mapping[Kind, Any], adapter: Adapter) -> Kind:
    """The class of ``table`` whose neuron ``module`` is: its own, or the parent of one that overrides only `__init__`.

    Raises:
        CannotSwap: there is none.
    """
    for kind in type(module).__mro__:
        if kind in table:
            changes = _changes(type(module), kind)
            if changes:
                raise CannotSwap(f"a subclass of {kind.__name__} that {changes}, which would be lost")
            return kind
        if reason := adapter.reasons.get(kind):
            raise CannotSwap(reason)
    known = ", ".join(kind.__name__ for kind in table) or "none"
    raise CannotSwap(f"no counterpart (there is one for {known})")


def _changes(kind: type, known: type) -> str:
    """What ``kind`` has that its parent ``known`` has not, or has otherwise, but for the constructor."""
    between = [c for c in kind.__mro__ if c not in known.__mro__]
    names = list(dict.fromkeys(name for c in between for name in vars(c) if name not in BOOKKEEPING))
    overridden = [name for name in names if hasattr(known, name)]
    added = [name for name in names if not hasattr(known, name)]
    parts = [f"{word} {', '.join(found)}" for word, found in (("overrides", overridden), ("adds", added)) if found]
    return " and ".join(parts)


def check_nothing_is_lost(module: nn.Module, kind: Kind, adapter: Adapter) -> None:
    """Raise CannotSwap for what somebody changed in this one neuron, and the new one would not have."""
    for name, value in vars(module).items():
        if callable(value) and callable(getattr(kind, name, None)):
            raise CannotSwap(f"its {name} was replaced, and would be lost")
    if any(vars(module).get(hooks) for hooks in CHECKPOINT_HOOKS):
        raise CannotSwap("it has hooks on its state_dict, which would be lost")
    held = [name for table in (module._parameters, module._buffers, module._modules) for name in table]  # pyright: ignore[reportPrivateUsage]
    extra = [name for name in held if name not in adapter.holds.get(kind, held)]
    if extra:
        raise CannotSwap(f"it holds {', '.join(extra)}, which would be lost")


def another(kind: Kind, module: nn.Module) -> nn.Module:
    """A second ``kind`` as its constructor makes it: the arguments that it asks for are attributes of ``module``.

    Raises:
        CannotSwap: it asks for one that is none.
    """
    words = {p.name: p for p in inspect.signature(kind).parameters.values() if p.default is p.empty}
    asked = [name for name, p in words.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if missing := [name for name in asked if not hasattr(module, name)]:
        raise CannotSwap(f"its {missing[0]} cannot be read, and what else is of {kind.__name__} cannot be told")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # which may draw weights
        return kind(**{name: getattr(module, name) for name in asked})


def take_over(module: nn.Module, kind: Kind, new: nn.Module, fresh: nn.Module, adapter: Adapter) -> None:
    """Give ``new`` the mode, the hooks and the user's own attributes of ``module``: those that ``fresh`` has not.

    Raises:
        CannotSwap: ``new`` has no place for one of them.
    """
    parameters = {id(p) for p in new.parameters()}
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks and id(parameter) not in parameters:
            raise CannotSwap(f"its {name} has a gradient hook, which would be lost")
    ours = LearnableNeuron.__annotations__ if isinstance(module, LearnableNeuron) else ()
    known = {*vars(fresh), *ours, *adapter.holds.get(kind, ())}
    own = {name: value for name, value in vars(module).items() if name not in known}
    taken = [name for name in own if hasattr(new, name)]
    if taken:
        raise CannotSwap(f"its attribute {taken[0]}, which is not of {kind.__name__}, is one of {type(new).__name__}")
    new.train(module.training)
    new.__dict__.update(own)
    for hooks in HOOKS:  # the very dictionaries, so that the handles their owners hold still remove them
        new.__dict__[hooks] = module.__dict__[hooks]


def unregistered(module: nn.Module, new: nn.Module) -> list[str]:
    """What to know of numbers of ``module`` that require gradients and were no parameters of it, as Norse's tuples."""
    notes: list[str] = []
    parameters = {id(p) for p in new.parameters()}
    for numbers in vars(module).values():
        named = getattr(cast(object, numbers), "_asdict", dict[str, Any])
        for name, value in cast("dict[str, Any]", named()).items():
            if isinstance(value, Tensor) and value.is_leaf and value.requires_grad:
                what = "an nn.Parameter" if isinstance(value, nn.Parameter) else "a tensor that requires gradients"
                trains = "and trains from now on" if id(value) in parameters else "of which the new neuron has a copy"
                notes.append(f"its {name} is {what}, {trains}")
    return notes
