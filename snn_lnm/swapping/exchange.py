"""All new neurons are built, then all put in place: everything, or nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from snn_lnm.neuron import LearnableNeuron
from snn_lnm.parameters import NoDefaultDomain
from snn_lnm.plugins import Adapter, CannotSwap, SwapOptions
from snn_lnm.swapping.choice import Choice
from snn_lnm.swapping.counterpart import check_nothing_is_lost, known_class, take_over, unregistered
from snn_lnm.swapping.holders import holders
from snn_lnm.swapping.optimizer import check_optimizer, parameters_after, update_optimizer
from snn_lnm.swapping.report import Outcome, SwapReport, SwapRow, obstacles
from snn_lnm.swapping.wrapped import check_unwrapped

__all__ = ["Direction", "exchange"]

NEW = "The neurons' parameters are new: pass optimizer=... to have them join one, or build the optimizer after this."
LOOK_UP = (
    "Look the neuron up by its attribute when it is called, or hold it in an nn.ModuleList or nn.ModuleDict, "
    "which are kept up to date."
)


@dataclass(frozen=True)
class Direction:
    """There, or back.

    Attributes:
        concerned: the classes of neurons that get a row.
        table: class -> how its counterpart is built.
        build: the new neuron of an old one, by its entry in the table.
        fresh: an old neuron as its class is by itself, from its class, the old one, the new one and their adapter.
        kept: why a neuron need not be exchanged; empty if it should be.
    """

    concerned: Callable[[Adapter], tuple[type[nn.Module], ...]]
    table: Callable[[Adapter], Mapping[type[nn.Module], Any]]
    build: Callable[[Any, nn.Module, SwapOptions], nn.Module]
    fresh: Callable[[type[nn.Module], nn.Module, nn.Module, Adapter], nn.Module]
    kept: Callable[[nn.Module, Adapter], str]


@dataclass
class Neuron:
    """One neuron of the model, all its places, and what becomes of it."""

    module: nn.Module
    adapter: Adapter
    paths: list[str] = field(default_factory=list[str])
    new: nn.Module | None = None
    outcome: Outcome = "swapped"
    notes: list[str] = field(default_factory=list[str])

    def leave(self, outcome: Outcome, reason: str) -> None:
        self.new, self.outcome, self.notes = None, outcome, [reason]

    def row(self, path: str) -> SwapRow:
        after = "" if self.new is None else _describe(self.new)
        return SwapRow(path, _describe(self.module), after, "; ".join(self.notes), self.outcome)


def exchange(
    model: nn.Module,
    adapters: Sequence[Adapter],
    direction: Direction,
    choice: Choice,
    optimizer: Optimizer | None,
    strict: bool,
) -> SwapReport:
    """Exchange the neurons of ``model``; see :func:`snn_lnm.swap`."""
    places, neurons = _find(model, adapters, direction)
    check_unwrapped(model, [neuron.module for neuron in neurons.values()])
    choice.check([(path, neurons[key].module) for path, key in places])
    if optimizer is not None:
        check_optimizer(optimizer, model)
    devices = _devices(model)
    for neuron in neurons.values():
        _decide(neuron, direction, choice, devices)

    exchanged = [neuron for neuron in neurons.values() if neuron.new is not None]
    replaced = {id(neuron.module): cast(nn.Module, neuron.new) for neuron in exchanged}
    held: list[str] = []
    for holder, key in holders(model, replaced):
        old = neurons[key]
        held.append(f"{holder} holds the neuron of {old.paths[0]} too, and would go on calling the old one.")
        old.notes.append(f"{holder} still holds and calls the old one")
    rows = tuple(neurons[key].row(path) for path, key in places)
    refused = [row for row in rows if row.outcome == "refused"]
    if strict and (refused or held):
        raise ValueError(obstacles(refused, held))
    for line in held:  # before anything has changed, for a warning may be an error
        warnings.warn(f"{line} {LOOK_UP}", UserWarning, stacklevel=3)

    before, after = {id(p): p for p in model.parameters()}, parameters_after(model, replaced)
    parameters = NEW if any(id(p) not in before for p in after.values()) else ""
    if optimizer is not None:
        parameters = update_optimizer(optimizer, before, after)
    for parent in [*model.modules()]:
        children = parent._modules  # pyright: ignore[reportPrivateUsage] - torch's named_children() leaves out second names
        for name, child in children.items():
            if id(child) in replaced:
                children[name] = replaced[id(child)]
    for neuron in exchanged:
        neuron.adapter.release(neuron.module)
    return SwapReport(rows, parameters)


def _find(
    model: nn.Module, adapters: Sequence[Adapter], direction: Direction
) -> tuple[list[tuple[str, int]], dict[int, Neuron]]:
    """The places of neurons with the neuron's `id`, in the model's order, and the neurons by it."""
    places: list[tuple[str, int]] = []
    neurons: dict[int, Neuron] = {}
    named = cast("Iterable[tuple[str, nn.Module]]", model.named_modules(remove_duplicate=False))
    for path, module in named:
        adapter = next((a for a in adapters if isinstance(module, direction.concerned(a))), None)
        if adapter is None:
            continue
        if module is model:
            raise ValueError(
                f"a bare {type(module).__name__} cannot be replaced in place: put it into a module (for "
                "example torch.nn.Sequential), or construct the framework's neuron yourself."
            )
        neurons.setdefault(id(module), Neuron(module, adapter)).paths.append(path)
        places.append((path, id(module)))
    return places, neurons


def _decide(neuron: Neuron, direction: Direction, choice: Choice, devices: Mapping[int, torch.device]) -> None:
    module, adapter = neuron.module, neuron.adapter
    if reason := choice.left_out(neuron.paths, module) or direction.kept(module, adapter):
        return neuron.leave("kept", reason)
    try:
        table = direction.table(adapter)
        kind = known_class(module, table, adapter)
        check_nothing_is_lost(module, kind, adapter)
        new = direction.build(table[kind], module, choice.of(neuron.paths, module))
        fresh = direction.fresh(kind, module, new, adapter)
        take_over(module, kind, new, fresh, adapter)
        adapter.release(fresh)
    except (CannotSwap, NoDefaultDomain) as obstacle:
        return neuron.leave("refused", str(obstacle))
    if not _tensors(module) and all(t.device.type == "cpu" for t in _tensors(new)):  # it could not know its device
        new.to(device=devices.get(id(module)))
    if isinstance(new, LearnableNeuron):
        new.path = neuron.paths[0]
    neuron.new, neuron.notes = new, unregistered(module, new)
    return None


def _devices(model: nn.Module) -> dict[int, torch.device]:
    """For each module without a tensor of its own: the device of the nearest one before it that has, else after it."""
    found: dict[int, torch.device] = {}
    order = [*model.modules()]
    for modules in (order, order[::-1]):
        near: torch.device | None = None
        for module in modules:
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            near = own[0].device if own else near
            if near is not None and not own:
                found.setdefault(id(module), near)
    return found


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _describe(neuron: nn.Module) -> str:
    degree = getattr(neuron, "degree", None)
    return type(neuron).__name__ + (f" (degree {degree})" if degree is not None else "")
