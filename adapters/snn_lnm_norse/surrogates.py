"""Norse's threshold methods as surrogates: recognised by what the installed version does, or called as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from norse.torch.functional.threshold import threshold
from torch import Tensor

from snn_lnm.adapting import Spike
from snn_lnm.adapting import surrogate as surrogates

__all__ = ["Threshold", "recover"]


@dataclass(frozen=True, eq=False)
class Threshold:
    """Norse's own ``threshold(u, method, alpha)`` as a callable: any method, on the reference engine."""

    method: str
    alpha: Tensor | float

    def __call__(self, u: Tensor) -> Tensor:
        return threshold(u, self.method, cast(float, self.alpha))


def _super_ignores_alpha() -> bool:
    """Norse 1.1.0's "super" is ``1 / (|u| + 1)²`` whatever its alpha; later versions multiply by it."""
    u = torch.ones((), requires_grad=True)
    with torch.enable_grad():
        (found,) = torch.autograd.grad(threshold(u, "super", 3.0), u)
    return float(found) == 0.25


SUPER_IGNORES_ALPHA = _super_ignores_alpha()


def recover(method: str, alpha: Tensor | float) -> Spike:
    """The :class:`snn_lnm.surrogate.Surrogate` with the derivative of Norse's ``method``, or Norse's function.

    With a positive alpha "super" and "triangle" are known to the compiled engines; "tanh", "circ", "heavi_erfc" and
    "heaviside" (no gradient) run as Norse has them, on the reference engine.

    Raises:
        ValueError: Norse has no such method.
    """
    if method == "super" and SUPER_IGNORES_ALPHA:
        return surrogates.SuperSpike(1.0)
    if method == "super" and alpha > 0:
        return surrogates.SuperSpike(float(alpha))
    if method == "triangle" and alpha > 0:
        return surrogates.Triangle(1.0, float(alpha))
    threshold(torch.zeros(()), method, cast(float, alpha))  # raises for an unknown method
    return Threshold(method, alpha)
