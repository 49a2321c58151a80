"""`SpikingNeuron.instances`, through which snnTorch resets hidden states, without keeping neurons alive."""

from __future__ import annotations

import weakref
from typing import Any

import snntorch
import torch

__all__ = ["Gone", "hold_weakly", "remove"]


class Gone:
    """Keeps the place of a dead neuron. The host walks the registry by index, and resetting a neuron can
    free the graph that held another: a list that shrinks meanwhile would be an IndexError."""

    def __init__(self) -> None:
        self.mem = self.syn = torch.zeros(0)


def remove(neuron: object) -> None:
    """Take ``neuron`` out of the registry, by identity, and every dead one with it."""
    found: list[Any] = snntorch.SpikingNeuron.instances
    found[:] = [other for other in found if other is not neuron and type(other) is not Gone]


def _bury(proxy: object) -> None:
    found: list[Any] = snntorch.SpikingNeuron.instances
    for place, other in enumerate(found):
        if other is proxy:
            found[place] = Gone()


def hold_weakly(neuron: object) -> None:
    """Let the host's helpers find ``neuron`` for as long as somebody else keeps it."""
    remove(neuron)
    snntorch.SpikingNeuron.instances.append(weakref.proxy(neuron, _bury))
