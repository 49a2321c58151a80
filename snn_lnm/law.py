"""A neuron as data: what engines are made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Law", "Neuron", "Outputs", "Stepped"]


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


Outputs = tuple[Tensor, Tensor, list[Tensor]]
"""Of a neuron over time: spikes, membranes before the reset, and the states after the last step."""


class Neuron(NamedTuple):
    """What an engine is asked to run.

    Attributes:
        text: names the law to the operators (:mod:`snn_lnm.engines.form`); empty: it has none.
        widths: of each tensor of numbers; None for that of a single number.
        membrane_state: the place of the state that is the membrane before the reset; -1 if none is.
        scan: the definition: ``scan(x, states, numbers)`` over the time steps of ``x``, `[T, B, ...]`.
        functions: which elementary functions it needs, of those that not every engine has.
        own: why only the definition can run it; empty: engines can.
    """

    text: str
    widths: tuple[int | None, ...]
    membrane_state: int
    scan: Callable[[Tensor, list[Tensor], list[Tensor]], Outputs]
    functions: tuple[str, ...] = ()
    own: str = ""
