"""Who else in the model holds a neuron: a list, a method, a closure, an object, beside the tree of modules."""

from __future__ import annotations

import functools
import gc
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn

__all__ = ["holders"]

REGISTERED = ("_parameters", "_buffers", "_modules")
MOST = 200_000
"""Objects looked at: a data set in an attribute should not cost seconds. What is near a module comes first."""
CLOSED = (Tensor, types.ModuleType, type, types.FrameType, types.CodeType, types.GeneratorType, types.CoroutineType)
"""Of these nothing is followed: they lead out of the model."""


def holders(model: nn.Module, replaced: Mapping[int, nn.Module]) -> list[tuple[str, int]]:
    """Where the model holds a module that is to be replaced, beside its place among the children of a module.

    Weak references do not hold, and nothing outside the model is looked at.

    Args:
        model: the root.
        replaced: the new module of each old one's `id`. What the new one took over, its hooks for example, counts.

    Returns:
        The holder, as ``"Net.stages[0][1]"``, and the `id` of the module that it holds.
    """
    tree = dict(_modules(model))
    seen = {*map(id, tree.values()), *replaced, *map(id, replaced.values())}
    waiting: deque[tuple[str, Any]] = deque()
    for path, module in tree.items():
        name = f"{type(model).__name__}.{path}" if path else type(model).__name__
        waiting.extend((name + part, value) for part, value in _attributes(replaced.get(id(module), module)))
    found: list[tuple[str, int]] = []
    for _ in range(MOST):
        if not waiting:
            break
        name, value = waiting.popleft()
        if id(value) in replaced:
            found.append((name, id(value)))
        elif gc.is_tracked(value) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend((name + part, inner) for part, inner in _inside(value))
    return found


def _modules(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    return cast("Iterable[tuple[str, nn.Module]]", model.named_modules())


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if gc.is_tracked(value) and name not in REGISTERED:
            yield f".{name}", value


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """What ``value`` holds, and by which part of it."""
    kind = type(cast(object, value))  # not isinstance: a weak proxy answers for what it stands for
    if issubclass(kind, CLOSED):
        return
    if issubclass(kind, dict):
        for key, inner in cast("dict[Any, Any]", value).items():
            yield f"[{_short(key)}]", inner
            yield f" (a key of a {kind.__name__})", key
    elif issubclass(kind, (list, tuple, deque)):
        for index, inner in enumerate(cast("Iterable[Any]", value)):
            yield f"[{index}]", inner
    elif issubclass(kind, types.FunctionType):
        yield from _of_function(value)
    elif issubclass(kind, types.MethodType):
        yield " (a bound method)", value.__self__
        yield " (a bound method)", value.__func__
    elif issubclass(kind, functools.partial):
        for inner in (value.func, value.args, value.keywords):
            yield " (a functools.partial)", inner
    elif issubclass(kind, nn.Module):  # that is not one of the model's
        yield from _attributes(value)
        for name, inner in value.named_children():
            yield f".{name}", inner
    else:
        named = _dictionary(value)
        for name, inner in named.items():
            yield f".{name}", inner
        known = {id(named), *map(id, named.values())}
        for inner in gc.get_referents(value):  # slots, sets, iterators; not the object of a weak reference
            if id(inner) not in known:
                yield f" (a {kind.__name__})", inner


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        for inner in gc.get_referents(cell):  # none in an empty one
            yield f" (the {name} of a closure)", inner
    for inner in (function.__defaults__, function.__kwdefaults__, function.__dict__):
        yield " (a function)", inner


def _dictionary(value: object) -> dict[str, Any]:
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}


def _short(key: object) -> str:
    return repr(key) if isinstance(key, (str, int)) else f"a {type(key).__name__}"
