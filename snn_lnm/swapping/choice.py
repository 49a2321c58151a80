"""Which neurons `swap` takes, and with which options: by path, by class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, cast

from torch import nn

from snn_lnm import engines
from snn_lnm.checks import check_degree
from snn_lnm.memory import check_memory
from snn_lnm.plugins import SwapOptions

__all__ = ["Choice", "Key", "Keys", "check_options"]

Key = str | type
Keys = Key | Sequence[Key]
OPTIONS = tuple(option.name for option in fields(SwapOptions))


def check_options(options: SwapOptions, quadratic: bool) -> SwapOptions:
    """``options``, the degree filled in.

    Raises:
        ValueError, TypeError: one of them is out of range, or of a wrong type.
    """
    degree = cast("int | None", options.degree)
    if quadratic and degree not in (None, 2):
        raise ValueError(f"a quadratic neuron has degree 2, got degree={degree}: leave it out.")
    if degree is None:
        degree = 2 if quadratic else 3
    if check_degree(degree) < 1:
        raise ValueError("degree must be at least 1: a polynomial of degree 0 has no leak to start from.")
    if not isinstance(cast(object, options.learn_coefficients), bool):
        raise TypeError(f"learn_coefficients must be a bool, got {options.learn_coefficients!r}.")
    engines.check_backend(options.backend)
    check_memory(options.memory)
    return replace(options, degree=degree)


@dataclass(frozen=True)
class Choice:
    """What the user asked for: ``options``, and where they differ.

    Raises:
        TypeError: a key is no path and no class, or an option is unknown.
        ValueError, TypeError: a bad option.
    """

    options: SwapOptions = field(default_factory=SwapOptions)
    include: Keys | None = None
    exclude: Keys | None = None
    layers: Mapping[Key, Mapping[str, Any]] | None = None
    quadratic: bool = False

    def __post_init__(self) -> None:
        _keys("include", self.include)
        _keys("exclude", self.exclude)
        if self.layers is None:
            return
        if not isinstance(cast(object, self.layers), Mapping):
            raise TypeError(f"layers must map paths and classes to their options, got {self.layers!r}.")
        _keys("layers", [*self.layers])
        for key, options in self.layers.items():
            name = f"layers[{_text(key)}]"
            if not isinstance(cast(object, options), Mapping):
                raise TypeError(f'{name} must be options, {{"degree": 2}} for example, got {options!r}.')
            unknown = [option for option in options if option not in OPTIONS]
            if unknown:
                raise TypeError(f"{name} has an unknown option {unknown[0]!r}: expected some of {', '.join(OPTIONS)}.")
            check_options(replace(self.options, **options), self.quadratic)

    def check(self, neurons: Sequence[tuple[str, nn.Module]]) -> None:
        """Raise ValueError for a path or class that meets none of ``neurons``."""
        for word, keys in (("include", self.include), ("exclude", self.exclude), ("layers", [*(self.layers or ())])):
            for key in _keys(word, keys):
                if not any(_meets(key, (path,), module) for path, module in neurons):
                    known = ", ".join(path for path, _ in neurons) or "none"
                    raise ValueError(f"{word}: {_text(key)} meets no neuron. The neurons of this model: {known}.")

    def left_out(self, paths: Sequence[str], module: nn.Module) -> str:
        """Why the user does not want the neuron at ``paths`` swapped; empty if he does."""
        if self.include is not None and not _meet(_keys("include", self.include), paths, module):
            return "not included"
        return "excluded" if _meet(_keys("exclude", self.exclude), paths, module) else ""

    def of(self, paths: Sequence[str], module: nn.Module) -> SwapOptions:
        """The options of the neuron at ``paths``: where two entries fit, the later one wins."""
        options = self.options
        for key, changes in (self.layers or {}).items():
            if _meets(key, paths, module):
                options = replace(options, **changes)
        return check_options(options, self.quadratic)


def _keys(word: str, keys: Keys | None) -> tuple[Key, ...]:
    if keys is None:
        return ()
    found = (keys,) if isinstance(keys, (str, type)) else keys
    if not isinstance(cast(object, found), Iterable) or not all(
        isinstance(cast(object, k), (str, type)) for k in found
    ):
        raise TypeError(f"{word} must hold paths and classes of modules, got {keys!r}.")
    return tuple(found)


def _meet(keys: Iterable[Key], paths: Sequence[str], module: nn.Module) -> bool:
    return any(_meets(key, paths, module) for key in keys)


def _meets(key: Key, paths: Sequence[str], module: nn.Module) -> bool:
    """A path names that module and all below it; it may have the wildcards of ``fnmatch``."""
    if not isinstance(key, str):
        return isinstance(module, key)
    return any(fnmatchcase(path, key) or fnmatchcase(path, f"{key}.*") for path in paths)


def _text(key: Key) -> str:
    return repr(key) if isinstance(key, str) else key.__name__
