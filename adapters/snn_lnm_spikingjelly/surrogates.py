"""SpikingJelly's surrogates are modules: recover which formula and which numbers a module holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from spikingjelly.activation_based import surrogate as host

from snn_lnm.adapting import Spike, Surrogate
from snn_lnm.adapting import surrogate as surrogates


def _if_alpha_is(wanted: float, same: Surrogate) -> Callable[[float], Surrogate | None]:
    return lambda alpha: same if alpha == wanted else None


# SoftSign is α/2 / (1 + α|u|)² and SuperSpike α / (1 + |u|)²: FastSigmoids for one α each.
_BY_CLASS: dict[type, Callable[[float], Surrogate | None]] = {
    host.ATan: surrogates.ATan,
    host.Sigmoid: surrogates.Sigmoid,
    host.PiecewiseQuadratic: lambda alpha: surrogates.Triangle(1 / alpha),
    host.Rect: lambda alpha: surrogates.Rectangle(1 / alpha),
    host.SoftSign: _if_alpha_is(2, surrogates.FastSigmoid(2.0)),
    host.SuperSpike: _if_alpha_is(1, surrogates.FastSigmoid(1.0)),
}


def recover(surrogate_function: str | Spike | Callable[..., Any]) -> Spike:
    """The :class:`Surrogate` with the same derivative as ``surrogate_function``, or that function itself.

    Recognised by exact class, a plain positive number ``alpha``, and ``spiking=True``. Anything else
    stays the user's function, and never becomes another surrogate.

    Raises:
        TypeError: not callable; ValueError: an unknown name.
    """
    build = _BY_CLASS.get(type(surrogate_function))
    if build is None:
        return surrogates.get(surrogate_function)
    module: Any = surrogate_function
    alpha = module.alpha
    if not module.spiking or not isinstance(alpha, (int, float)) or not (math.isfinite(alpha) and alpha > 0):
        return module
    return build(float(alpha)) or module
