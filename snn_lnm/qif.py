"""`QIF`: the quadratic neuron with its parameters as factors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from snn_lnm.analysis import surrogate_window
from snn_lnm.checks import check_finite
from snn_lnm.neuron import LNM

__all__ = ["QIF"]


class QIF(LNM):
    """Quadratic integrate-and-fire, ``h = v + a(v - u_1)(v - u_2) + x``, with a, u_1 and u_2 learned.

    The law computes it as the polynomial ``(a·u_1·u_2, 1 - a(u_1 + u_2), a)`` of a map; gradients reach
    the factors through these. ``LNM.qif`` is the same neuron with the coefficients learned instead: it
    also holds the leaky neurons (a = 0), which no finite u_1, u_2 give.

    Args:
        a, u1, u2: numbers, or tensors of one of the layouts of :class:`snn_lnm.LNM`.
        learn: the three are ``nn.Parameter``s, else buffers.
        surrogate: as for :class:`snn_lnm.LNM`, or ``"window"``: as wide as the membrane needs it under
            normalised input (:func:`snn_lnm.analysis.surrogate_window`), from the values given here.
        **options: those of :class:`snn_lnm.LNM`, but for coefficients, degree and channels.

    Source: arXiv 2510.05168 (the recurrence; values of its Figure).
    """

    a: Tensor
    u1: Tensor
    u2: Tensor

    def __init__(
        self,
        a: Tensor | float = 0.25,
        u1: Tensor | float = 0.0,
        u2: Tensor | float = 0.5,
        *,
        learn: bool = True,
        surrogate: Any = "atan",
        **options: Any,
    ) -> None:
        given = {"a": a, "u1": u1, "u2": u2}
        tensors = (torch.as_tensor(value).detach() for value in given.values())
        numbers = cast("tuple[Tensor, ...]", torch.broadcast_tensors(*tensors))
        factors = [
            check_finite(name, value if value.is_floating_point() else value.float())
            for name, value in zip(given, numbers, strict=True)
        ]
        window = isinstance(surrogate, str) and surrogate == "window"
        options = {"charge": "map", "surrogate": "rectangle" if window else surrogate, **options}
        super().__init__(coefficients=coefficients_of(*factors), **options)
        for name, value in zip(given, factors, strict=True):
            self._add(name, value.clone(), learn)
        if window:
            found = surrogate_window(self.parameters_of_law, self.dynamics)
            self.dynamics = replace(self.dynamics, surrogate=found)

    def _add(self, name: str, value: Tensor | None, learn: bool) -> None:
        if name != "coefficients":  # they follow from the factors
            super()._add(name, value, learn)

    @property
    def coefficients(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride] - read-only here
        """θ, `[3]` or `[..., 3]`, differentiable with respect to the factors."""
        return coefficients_of(self.a, self.u1, self.u2)


def coefficients_of(a: Tensor, u1: Tensor, u2: Tensor) -> Tensor:
    """θ of ``v + a(v - u_1)(v - u_2)``."""
    return torch.stack([a * u1 * u2, 1 - a * (u1 + u2), a], -1)
