"""The text that names a neuron to the operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from snn_lnm import reference
from snn_lnm.checks import check_degree
from snn_lnm.engines.generator import program
from snn_lnm.law import Law, Neuron, Outputs
from snn_lnm.parameters import FLAGS, WORDS, Dynamics, Parameters, State
from snn_lnm.surrogate import BY_NAME, ATan, Surrogate

__all__ = ["Form", "neuron", "parse", "register"]


@dataclass(frozen=True)
class Form:
    """What a text says.

    Attributes:
        law: what kernels are made from.
        scan: the same, as a definition: that of :class:`snn_lnm.law.Neuron`.
    """

    law: Law
    scan: Callable[[Tensor, list[Tensor], list[Tensor]], Outputs]

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


def neuron(dynamics: Dynamics, degree: int, synapse: bool) -> Neuron:
    """The neuron with these options. Its text: ``name=value`` for each of them, and a name for each that is true."""
    surrogate = dynamics.surrogate
    own = not isinstance(surrogate, Surrogate)
    return Neuron(
        text=f"degree={degree} {dynamics.text}" + (f" synapse={dynamics.synapse}" if synapse else ""),
        widths=(degree + 1, None, None, None, *([None] if synapse else [])),
        membrane_state=0 if dynamics.state_is_membrane else -1,
        scan=functools.partial(_scan, dynamics),
        functions=("atan",) if dynamics.smooth and isinstance(surrogate, ATan) else (),
        own=_OWN_SURROGATE.format(surrogate) if own else "",
    )


_OWN_SURROGATE = (
    "the surrogate {!r} is a callable of your own: only the reference engine can differentiate it "
    f"(compiled: {', '.join(BY_NAME)})."
)


def _scan(dynamics: Dynamics, x: Tensor, states: list[Tensor], numbers: list[Tensor]) -> Outputs:
    spikes, h, last = reference.scan(x, State(*states), Parameters(*numbers), dynamics)
    return spikes, h, [value for value in last if value is not None]


_REGISTERED: dict[str, Form] = {}


def register(text: str, form: Form) -> None:
    """Let ``text``, one word, mean ``form`` in this process."""
    _REGISTERED[text] = form


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> Form:
    """What ``text`` says.

    Raises:
        ValueError: it says nothing that is known.
    """
    if text in _REGISTERED:
        return _REGISTERED[text]
    if text.startswith("equations="):
        raise ValueError(f"the neuron {text!r} is not known here: run the snn_lnm.neuron_from_equations that makes it.")
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
    return Form(reference.law(dynamics, degree, "synapse" in said), functools.partial(_scan, dynamics))
