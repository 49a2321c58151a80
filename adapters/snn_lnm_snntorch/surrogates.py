"""snnTorch's surrogates are closures: recover which formula and which slope a closure holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from snntorch import surrogate as host

from snn_lnm.adapting import Spike, Surrogate
from snn_lnm.adapting import surrogate as surrogates

_BY_CODE: dict[Any, Callable[[float], Surrogate]] = {
    host.atan().__code__: surrogates.ATan,
    host.fast_sigmoid().__code__: surrogates.FastSigmoid,
    host.sigmoid().__code__: surrogates.Sigmoid,
}


def recover(spike_grad: str | Spike | Callable[..., Any]) -> Spike:
    """The :class:`Surrogate` with the same derivative as ``spike_grad``, or ``spike_grad`` itself.

    Only snnTorch's own ``atan``, ``fast_sigmoid`` and ``sigmoid`` are recognised, by their code object;
    anything else stays the user's function, and never becomes another surrogate.
    """
    if isinstance(spike_grad, (str, Surrogate)):
        return surrogates.get(spike_grad)
    kind = _BY_CODE.get(getattr(spike_grad, "__code__", None))
    closure = getattr(spike_grad, "__closure__", None)
    if kind is None or not closure:
        return spike_grad
    slope = closure[0].cell_contents
    if isinstance(slope, (int, float)) and math.isfinite(slope) and slope > 0:
        return kind(float(slope))
    return spike_grad
