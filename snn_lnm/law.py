"""A neuron as data: what engines are made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Law", "Stepped"]


class Stepped(NamedTuple):
    """What a step gives.

    Attributes:
        spikes: 0 or 1.
        membrane: what is kept for the backward pass.
        states: after the step, by name.
    """

    spikes: Any
    membrane: Any
    states: Mapping[str, Any]


@dataclass(frozen=True)
class Law:
    """The tables and the step of a neuron.

    Attributes:
        states: the names of what it carries from step to step.
        numbers: (name, width) of each tensor of numbers that may be learned; None for the width of a single number.
        constants: (name, value) of those that never are.
        step: ``step(x, states, numbers, constants)``, mappings by name, gives a :class:`Stepped`. Elementwise, in the
            vocabulary of :mod:`snn_lnm.engines.generator.symbols`. Equal steps compare equal.
    """

    states: tuple[str, ...]
    numbers: tuple[tuple[str, int | None], ...]
    constants: tuple[tuple[str, float], ...]
    step: Callable[[Any, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], Stepped]

    @property
    def form(self) -> Law:
        """The law but for the values of its constants: all that a kernel is compiled for."""
        return Law(self.states, self.numbers, tuple((name, 0.0) for name, _ in self.constants), self.step)
