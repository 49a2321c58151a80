"""`swap`: a model's own neurons become learnable ones, in place, with the same outputs; `swap_back`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast, get_args

from torch import nn
from torch.optim import Optimizer

from snn_lnm import engines
from snn_lnm.memory import FULL, Memory
from snn_lnm.neuron import Domain, LearnableNeuron
from snn_lnm.plugins import Adapter, CannotSwap, SwapOptions, loaded_adapters
from snn_lnm.swapping.choice import Choice, Key, Keys, check_options
from snn_lnm.swapping.counterpart import another
from snn_lnm.swapping.exchange import Direction, exchange
from snn_lnm.swapping.report import SwapReport

__all__ = ["swap", "swap_back"]

Neuron = Literal["lnm", "qif"]


def swap(
    model: nn.Module,
    degree: int | None = None,
    *,
    neuron: Neuron = "lnm",
    strict: bool = False,
    include: Keys | None = None,
    exclude: Keys | None = None,
    layers: Mapping[Key, Mapping[str, Any]] | None = None,
    optimizer: Optimizer | None = None,
    learn_coefficients: bool = True,
    domain: Domain = "auto",
    backend: engines.Backend = "auto",
    memory: Memory = FULL,
) -> SwapReport:
    """Replace every known neuron of ``model`` by its learnable counterpart, in place.

    Each new neuron starts at the one it replaces (same parameters, surrogate, reset, live state), so
    the model's spikes are the same, to the bit, until training moves the coefficients. Instances used
    in several places stay shared. Nothing is changed if anything goes wrong.

    A neuron that the model also holds outside its tree of modules (in a plain list, a bound method, a closure, ...)
    stays the old one there: a warning names the holder.

    Args:
        model: any module that holds neurons; not a bare neuron, and not wrapped for training yet
            (`DistributedDataParallel`, `fully_shard`, `torch.compile`, ...).
        degree: of the polynomials, 1..8; default 3.
        neuron: ``"qif"``: quadratic neurons, degree 2. They too start at the neuron they replace, so they
            learn coefficients, not a, u_1 and u_2, which cannot express a leaky neuron.
        strict: raise if a spiking neuron of a known framework cannot be swapped, or is held elsewhere too.
        include: swap only these neurons: a path, a class, or a sequence of them. A path means that module and
            all below it, and may have the wildcards of `fnmatch`: ``"features.*"``.
        exclude: but not these.
        layers: options of single neurons, ``{"fc2": {"degree": 2}, snn.Synaptic: {"learn_coefficients": False}}``:
            a path or class -> some of ``degree``, ``learn_coefficients``, ``domain``, ``backend``, ``memory``. Where
            two entries fit, the later one wins.
        optimizer: one that has the model's parameters already. The new ones join it, in a group with the optimizer's
            defaults and no weight decay (which would pull the leak to zero); replaced ones leave it, with their state.
        learn_coefficients, domain, backend, memory: as for :class:`snn_lnm.LNM`. ``memory`` acts where
            neurons get whole sequences: Norse's `LIF`, step-mode 'm', or :func:`snn_lnm.fuse_time` after this.

    Returns:
        :class:`SwapReport`, one row per neuron; neurons that stay are listed with the reason.

    Raises:
        ValueError: a bad argument, a bare neuron, a wrapped model, a path or class that meets no neuron, an optimizer
            without a parameter of the model or with a scheduler; or (``strict``) a neuron that cannot be swapped.
        TypeError: an argument of a wrong type.
    """
    if neuron not in get_args(Neuron):
        raise ValueError(f"unknown neuron {neuron!r}: expected one of {', '.join(map(repr, get_args(Neuron)))}.")
    quadratic = neuron == "qif"
    asked = SwapOptions(cast(int, degree), learn_coefficients, domain, backend, memory)
    choice = Choice(check_options(asked, quadratic), include, exclude, layers, quadratic)
    _check_model(model)
    return exchange(model, loaded_adapters(), THERE, choice, optimizer, strict)


def swap_back(model: nn.Module, *, strict: bool = False, optimizer: Optimizer | None = None) -> SwapReport:
    """Replace every learnable neuron of ``model`` by the native one that does exactly the same, in place.

    There is one where the coefficients still are those of the framework's neuron: for a leaky one,
    θ_0 and everything above θ_1 zero, θ_1 within the range of its leak. Others stay.

    Args:
        model: any module that holds swapped neurons; not a bare neuron, not wrapped.
        strict: raise if a neuron has to stay, or is held elsewhere too.
        optimizer: as for :func:`swap`.

    Returns:
        :class:`SwapReport`, one row per learnable neuron; those that stay are listed with the reason.

    Raises:
        ValueError: a bare neuron, a wrapped model, an unfit optimizer, or (``strict``) a neuron that has to stay.
        TypeError: an argument of a wrong type.
    """
    _check_model(model)
    report = exchange(model, loaded_adapters(), BACK, Choice(), optimizer, strict)
    return replace(report, nothing="no learnable neuron in this model; nothing was changed.")


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"a torch.nn.Module is needed, got {type(model).__name__}.")


def _learnable(build: Any, module: nn.Module, options: SwapOptions) -> nn.Module:
    new = build(module, options)
    if isinstance(new, LearnableNeuron):
        new.memory = options.memory
    elif options.memory != FULL:
        raise CannotSwap(f"{type(new).__name__} has no memory options")
    return new


def _need_not(module: nn.Module, adapter: Adapter) -> str:
    if isinstance(module, adapter.swapped):
        return "already learnable"
    return "it does not spike" if isinstance(module, adapter.readouts) else ""


THERE = Direction(
    concerned=lambda adapter: adapter.neurons,
    table=lambda adapter: adapter.replace,
    build=_learnable,
    fresh=lambda kind, old, new, adapter: another(kind, old),
    kept=_need_not,
)
BACK = Direction(
    concerned=lambda adapter: adapter.swapped,
    table=lambda adapter: adapter.restore,
    build=lambda build, module, options: build(module),
    fresh=lambda kind, old, new, adapter: adapter.replace[type(new)](new, SwapOptions(domain=None)),
    kept=lambda module, adapter: "",
)
