"""`SpikingNeuron.instances`, through which snnTorch resets hidden states, without keeping neurons alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, MutableSequence
from typing import Any, cast

import snntorch
import torch

__all__ = ["Gone", "Registry", "hold_weakly", "remove"]


class Gone:
    """Keeps the place of a dead neuron. The host walks the registry by index, and resetting a neuron can
    free the graph that held another: a list that shrinks meanwhile would be an IndexError."""

    def __init__(self) -> None:
        self.mem = self.syn = torch.zeros(0)


class Registry(MutableSequence[Any]):
    """Stands in place of the host's list, and keeps none alive that is held weakly.

    Proxies in the list would do, but for compilers: one that follows `snntorch.utils.reset` through a model's
    `forward` has to meet the very neurons.
    """

    def __init__(self, neurons: Iterable[object]) -> None:
        self._entries: list[Any] = [*neurons]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        entry = self._entries[index]
        if isinstance(index, slice):
            return [*self][index]
        if not isinstance(entry, weakref.ref):
            return entry
        neuron = cast("weakref.ref[object]", entry)()
        return Gone() if neuron is None else neuron

    def __setitem__(self, index: Any, neuron: Any) -> None:
        self._entries[index] = neuron

    def __delitem__(self, index: Any) -> None:
        del self._entries[index]

    def insert(self, index: int, value: Any) -> None:
        self._entries.insert(index, value)

    def forget(self, neuron: object) -> None:
        """Take out ``neuron``, by identity, and every dead one with it."""
        held = [*zip(self._entries, self, strict=True)]
        self._entries[:] = [entry for entry, other in held if other is not neuron and type(other) is not Gone]


def remove(neuron: object) -> Registry:
    """Take ``neuron`` out of the registry, and every dead one with it."""
    host: Any = snntorch.SpikingNeuron
    if not isinstance(host.instances, Registry):  # at first, and after `SpikingNeuron.init`
        host.instances = Registry(host.instances)
    host.instances.forget(neuron)
    return host.instances


def hold_weakly(neuron: object) -> None:
    """Let the host's helpers find ``neuron`` for as long as somebody else keeps it."""
    remove(neuron).append(weakref.ref(neuron))
