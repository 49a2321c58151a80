"""`SpikingNeuron.instances`, through which snnTorch resets hidden states, without keeping neurons alive."""

from __future__ import annotations

import weakref

import snntorch

__all__ = ["hold_weakly", "remove"]


def remove(neuron: object) -> None:
    """Take ``neuron`` (or the proxy ``neuron``) out of the registry, by identity."""
    found = snntorch.SpikingNeuron.instances
    found[:] = [other for other in found if other is not neuron]


def hold_weakly(neuron: object) -> None:
    """Let the host's helpers find ``neuron`` for as long as somebody else keeps it."""
    remove(neuron)
    snntorch.SpikingNeuron.instances.append(weakref.proxy(neuron, remove))
