"""The text that names a neuron to the operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from snn_lnm import reference
from snn_lnm.engines.generator import program
from snn_lnm.law import Law
from snn_lnm.parameters import FLAGS, WORDS, Dynamics, Parameters, check_degree
from snn_lnm.surrogate import BY_NAME

__all__ = ["Form", "parse", "text"]


@dataclass(frozen=True)
class Form:
    """What a text says.

    Attributes:
        law: the neuron.
        dynamics: the options it was made from.
    """

    law: Law
    dynamics: Dynamics

    @property
    def degree(self) -> int:
        return (dict(self.law.numbers)["coefficients"] or 1) - 1

    @cached_property
    def membrane_state(self) -> int:
        """The place of the state that is the membrane before the reset; -1 if none is."""
        found = program.forward(self.law.form)
        return next((k for k, node in enumerate(found.after) if node is found.h), -1)

    @cached_property
    def uses_input(self) -> Callable[[tuple[bool, ...]], bool]:
        """Of which tensors of numbers the gradients are asked for -> whether these follow from the input, too."""

        def follows(needs: tuple[bool, ...]) -> bool:
            return program.backward(self.law.form, needs).uses_input

        return functools.cache(follows)

    def parameters(self, numbers: list[Tensor]) -> Parameters:
        """The numbers of a call by their names."""
        return Parameters(**dict(zip((name for name, _ in self.law.numbers), numbers, strict=True)))


def text(dynamics: Dynamics, degree: int, synapse: bool) -> str:
    """The text of a neuron with these options: ``name=value`` for each, and a name for each that is true."""
    return f"degree={degree} {dynamics.text}" + (f" synapse={dynamics.synapse}" if synapse else "")


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> Form:
    """What ``text`` says.

    Raises:
        ValueError: it says nothing that is known.
    """
    flags = {word for word in text.split() if "=" not in word}
    said = dict(word.split("=", 1) for word in text.split() if "=" in word)
    known = {"degree", "surrogate", "synapse", "domain", *WORDS}
    if unknown := sorted(flags - {*FLAGS} | said.keys() - known):
        raise ValueError(f"the operators do not know {', '.join(unknown)} of the neuron {text!r}.")
    if missing := sorted({"degree", "surrogate", *WORDS} - said.keys()):
        raise ValueError(f"the neuron {text!r} does not say its {', '.join(missing)}.")
    kind, *numbers = said["surrogate"].split(",")
    if kind not in BY_NAME:
        raise ValueError(f"unknown surrogate {kind!r}: expected one of {', '.join(BY_NAME)}.")
    try:
        domain = [float(edge) for edge in said["domain"].split(",")] if "domain" in said else None
        options: dict[str, Any] = {name: said[name] for name in WORDS} | {name: name in flags for name in FLAGS}
        options |= {"synapse": said.get("synapse", "decay"), "domain": domain and tuple(domain)}
        dynamics = Dynamics(surrogate=BY_NAME[kind](*map(float, numbers)), **options)
        degree = check_degree(int(said["degree"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the operators do not understand the neuron {text!r}: {error}") from error
    return Form(reference.law(dynamics, degree, "synapse" in said), dynamics)
