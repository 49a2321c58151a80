"""Adapters: how a framework's neurons become learnable ones. Found through entry points, loaded lazily."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import nn

from snn_lnm.engines import Backend
from snn_lnm.memory import FULL, Memory
from snn_lnm.neuron import Domain

__all__ = [
    "GROUP",
    "Adapter",
    "AdapterInfo",
    "Call",
    "CannotFuse",
    "CannotSwap",
    "SwapOptions",
    "available_adapters",
    "loaded_adapters",
]

GROUP = "snn_lnm.adapters"


@dataclass(frozen=True)
class SwapOptions:
    """What :func:`snn_lnm.swap` asks of a new neuron. (It sets ``memory`` itself, where there is one.)"""

    degree: int = 3
    learn_coefficients: bool = True
    domain: Domain = "auto"
    backend: Backend = "auto"
    memory: Memory = FULL


class CannotSwap(ValueError):
    """Raised by a builder: this one neuron has to stay, and the message is the reason in the report."""


class CannotFuse(ValueError):
    """Raised by a fuser: this one neuron runs step by step, and the message is the reason in the report."""


class Call(NamedTuple):
    """How a model's step calls a neuron.

    Attributes:
        states: how many arguments follow the input; they are its states.
        carried: these are the step's own states, so the neuron goes on from what it returned.
        used: its returned values after the first are computed with, not only returned by the step.
    """

    states: int
    carried: bool
    used: bool


def _keep(old: nn.Module) -> None:
    """Nothing outside the model holds ``old``."""


def _no_layer(module: nn.Module) -> type[nn.Module] | None:
    """None of the framework's layers is known."""


def _takes_one_step(module: nn.Module) -> bool:
    """None of the framework's modules is known to take more."""
    return False


@dataclass(frozen=True)
class Adapter:
    """One framework's side of the swap and of the fusion; what an entry point of the group ``snn_lnm.adapters`` names.

    The entry point's name is the framework's import name.

    Attributes:
        framework: import name of the framework.
        native: base class, or classes, of its spiking neurons, to name those that cannot be swapped.
        swapped: the classes that :attr:`replace` makes.
        replace: exact native class -> ``build(old, options)``, which returns the new neuron with the
            parameters, options and live state of ``old`` and leaves ``old`` as it was, or raises
            :class:`CannotSwap`.
        restore: one of :attr:`swapped` -> ``build(neuron)``, which returns the native neuron that does
            exactly the same, or raises :class:`CannotSwap` where the learned numbers allow none.
        reasons: classes of spiking neurons that cannot be swapped -> what they have and a learned polynomial has not,
            as the end of "it stays, because ...". They need not descend from :attr:`native`.
        readouts: classes of neurons that do not spike, and stay for that.
        holds: class of :attr:`replace` or :attr:`swapped` -> names of the parameters, buffers and submodules that its
            neurons have by themselves, and of attributes that they get after they are built. A neuron with other
            parameters, buffers or submodules is refused, for they would be lost; one of a class that is not listed
            here is not asked. (Attributes that a newly built neuron has not are the user's, and come along.)
        release: called with each neuron that was replaced, so that the framework need not keep it alive.
        fuse: exact class -> ``build(neuron, call)``, which returns ``run(x, *states)`` over time, or raises
            :class:`CannotFuse`. ``run`` takes `[T, B, ...]` and returns what a call of the neuron returns, every
            tensor over time, every state that is a tuple as the last one; it leaves the hidden state of the
            neuron as T calls would. Others run step by step. (An input that is the same at every step comes as an
            expanded view: hand on that very tensor, and it is read once.)
        layer: the class of ``torch.nn`` that one of the framework's own layers is in a step, attributes and all, or
            None. (No adapter is asked for the layers of ``torch.nn`` that `fuse_time` knows itself.)
        step: container class -> ``forward(container, *arguments)`` that ``torch.fx`` can follow, where the
            container's own cannot be.
        over_time: whether a module takes whole sequences, `[T, B, ...]`, itself: `fuse_time` refuses such a net.
    """

    framework: str
    native: type[nn.Module] | tuple[type[nn.Module], ...]
    swapped: tuple[type[nn.Module], ...]
    replace: Mapping[type[nn.Module], Callable[[nn.Module, SwapOptions], nn.Module]]
    restore: Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]] = field(default_factory=dict[Any, Any])
    reasons: Mapping[type[nn.Module], str] = field(default_factory=dict[Any, Any])
    readouts: tuple[type[nn.Module], ...] = ()
    holds: Mapping[type[nn.Module], Collection[str]] = field(default_factory=dict[Any, Any])
    release: Callable[[nn.Module], None] = _keep
    fuse: Mapping[type[nn.Module], Callable[[Any, Call], Callable[..., Any]]] = field(default_factory=dict[Any, Any])
    layer: Callable[[nn.Module], type[nn.Module] | None] = _no_layer
    step: Mapping[type[nn.Module], Callable[..., Any]] = field(default_factory=dict[Any, Any])
    over_time: Callable[[nn.Module], bool] = _takes_one_step

    @property
    def neurons(self) -> tuple[type[nn.Module], ...]:
        """Every class of neurons that is known, for ``isinstance``."""
        native = self.native if isinstance(self.native, tuple) else (self.native,)
        return (*native, *self.reasons, *self.readouts, *self.swapped)


class AdapterInfo(NamedTuple):
    """A row of :func:`available_adapters`."""

    name: str
    distribution: str
    framework_version: str
    state: str
    reason: str


def _entry_points() -> list[metadata.EntryPoint]:
    """Entry points of the group, sorted by name.

    Raises:
        RuntimeError: two distributions declare the same name.
    """
    found: dict[str, metadata.EntryPoint] = {}
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        other = found.setdefault(entry.name, entry)
        if (_owner(other), other.value) != (_owner(entry), entry.value):
            raise RuntimeError(
                f"two distributions declare the adapter {entry.name!r}: {_owner(other)} and {_owner(entry)}. "
                "Uninstall one of them."
            )
    return list(found.values())


def _owner(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unnamed distribution"


def _framework(entry: metadata.EntryPoint) -> metadata.Distribution | None:
    """The installed distribution of the framework: the one called like the module, or the one that has it."""
    try:
        return metadata.distribution(entry.name)
    except metadata.PackageNotFoundError:
        return next((found for found in metadata.distributions() if _holds(found, entry.name)), None)


def _holds(distribution: metadata.Distribution, module: str) -> bool:
    """Whether the top-level ``module`` is its own. (Python 3.10's packages_distributions reads only top_level.txt.)"""
    named = (distribution.read_text("top_level.txt") or "").split()
    return module in named or any(path.parts[0].partition(".")[0] == module for path in distribution.files or ())


def _unfit(entry: metadata.EntryPoint, framework: metadata.Distribution | None) -> str:
    """Why the framework will not do, by what the adapter's distribution declares; empty if it will."""
    if not entry.name.isidentifier():
        return f"no module can be called {entry.name}: an adapter's entry point has its framework's import name"
    if framework is None:
        if entry.name in sys.modules or find_spec(entry.name):  # a folder on the path, say
            return ""
        # Extras are of our own frameworks; others come by their names.
        package = f"'snn-lnm[{entry.name}]'" if _owner(entry) == "snn-lnm" else entry.name
        return f"{entry.name} is not installed: pip install {package}"
    name, version = framework.name, framework.version  # each reads and parses the metadata
    for requirement in map(Requirement, getattr(entry.dist, "requires", None) or ()):
        asked = requirement.specifier
        if canonicalize_name(requirement.name) == canonicalize_name(name) and not asked.contains(
            version, prereleases=True
        ):
            return f"{name} {version} is installed, the adapter needs {asked}"
    return ""


def _disabled() -> set[str]:
    return {name.strip() for name in os.environ.get("SNN_LNM_DISABLED_ADAPTERS", "").split(",")}


def available_adapters() -> list[AdapterInfo]:
    """Every installed adapter, sorted by name, without importing any framework."""
    rows: list[AdapterInfo] = []
    for entry in _entry_points():
        framework = _framework(entry)
        version = framework.version if framework is not None else ""
        if entry.name in _disabled():
            state, reason = "disabled", "named in SNN_LNM_DISABLED_ADAPTERS"
        elif reason := _unfit(entry, framework):
            state = "unavailable"
        else:
            state = "loaded" if entry.module in sys.modules else "available"
        rows.append(AdapterInfo(entry.name, _owner(entry), version, state, reason))
    return rows


def loaded_adapters() -> list[Adapter]:
    """The adapters of the frameworks that this process has imported; others cannot have neurons here."""
    adapters: list[Adapter] = []
    for entry in _entry_points():
        if entry.name not in sys.modules or entry.name in _disabled():
            continue
        try:
            if reason := _unfit(entry, _framework(entry)):
                raise RuntimeError(reason)
            adapter = entry.load()
            if not isinstance(adapter, Adapter):
                raise TypeError(f"{entry.value} is a {type(adapter).__name__}, not a snn_lnm.plugins.Adapter")
        except Exception as error:  # a broken plugin must not hide the others
            warnings.warn(
                f"the adapter {entry.name!r} of {_owner(entry)} cannot be loaded and is left out: {error!r}",
                RuntimeWarning,
                stacklevel=3,
            )
            continue
        adapters.append(adapter)
    return adapters
