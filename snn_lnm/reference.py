"""The law: every equation of the neuron, once, in eager PyTorch.

This file is the definition. The engines must give its bits; autograd through it defines the
gradients. One step `t`, elementwise over neurons, `θ` the coefficients, `ϑ` the threshold::

    synapse   c[t] = α·c[t-1] + x[t]                 or, without one, c[t] = x[t]
    charge    h[t] = v[t-1] + g·(f(v[t-1]) + c[t])   "drift"
              h[t] = f(v[t-1]) + g·c[t]              "map"
              h[t] = (v[t-1] + g·f(v[t-1])) + c[t]   "residual"
    fire      s[t] = H(h[t] - ϑ)
    reset     v[t] = (1 - s[t])·h[t] + s[t]·v_r      "hard"
              v[t] = h[t] - s[t]·ϑ                   "soft"
              v[t] = h[t]                            "none"

With `gain_divides`, u/g stands for g·u. The resets "hard_next" and "soft_next" keep v[t] = h[t] and act
at the start of step t+1.

Sources: LNM, arXiv 2510.07341 (the drift form with a hard reset, Horner's scheme); QIF,
arXiv 2510.05168; the "map" form and the delayed resets are those of snnTorch, the "residual" form and
the division those of SpikingJelly.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from snn_lnm.checks import STATE_DTYPE
from snn_lnm.law import Law, Stepped
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.surrogate import Surrogate

__all__ = ["charge", "fire", "law", "polynomial", "reset", "scan", "step", "synapse"]


def horner(v: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
    """``θ_0 + θ_1·v + ... + θ_D·v^D``, rounded as ``(..(θ_D·v + θ_{D-1})·v + ..)·v + θ_0``."""
    *lower, p = coefficients
    p = p.expand_as(v) if not lower else p
    for coefficient in reversed(lower):
        p = p * v + coefficient
    return p


def clamp(v: Tensor, lo: Tensor | float, hi: Tensor | float) -> Tensor:
    """``v`` held to [lo, hi]; the edges belong to the inside, for the gradient too (`torch.clamp` leaves them out)."""
    return torch.where(v < lo, lo, torch.where(v > hi, hi, v))


def polynomial(v: Tensor, parameters: Parameters, dynamics: Dynamics) -> Tensor:
    """``f(v)``: Horner's polynomial on the domain, a straight line (or a constant) outside.

    With ``w = clamp(v, lo, hi)`` and ``line(u) = λ·u + θ_0``::

        f(v) = line(v)                                 degree 0 or 1, extension "line": a line has no inside
        f(v) = horner(v)                               lo ≤ v ≤ hi
        f(v) = line(v) + (horner(w) - line(w))         elsewhere, extension "line"
        f(v) = horner(w)                               elsewhere, extension "constant"

    λ is θ_1 clamped so that the line never expands: to [-1, 1] for a map, to [-2/g, 0] otherwise.
    Where the higher coefficients are zero the bracket is exactly 0, so the line is the linear neuron
    to the bit.
    """
    coefficients = parameters.coefficients.unbind(-1)
    if dynamics.domain is None:
        return horner(v, coefficients)
    slope = line_slope(parameters, dynamics)

    def line(u: Tensor) -> Tensor:
        return slope * u + coefficients[0]

    if dynamics.extension == "line" and len(coefficients) <= 2:
        return line(v)
    w = clamp(v, *dynamics.domain)
    inside = horner(w, coefficients)
    if dynamics.extension == "constant":
        return inside
    outside = (v < w) | (v > w)
    return torch.where(outside, line(v) + (inside - line(w)), inside)


def line_slope(parameters: Parameters, dynamics: Dynamics) -> Tensor:
    """λ: θ_1, held to the slopes that do not expand."""
    coefficients = parameters.coefficients.unbind(-1)
    if len(coefficients) == 1:
        return 0 * coefficients[0]
    slope = coefficients[1]
    if dynamics.charge == "map":
        return clamp(slope, -1.0, 1.0)
    lowest = -2 * parameters.gain if dynamics.gain_divides else -2 / parameters.gain
    return clamp(slope, lowest, 0.0)


def scale(u: Tensor, parameters: Parameters, dynamics: Dynamics) -> Tensor:
    """The gain's work: ``g·u``, or ``u/g`` where the gain is a time constant."""
    return u / parameters.gain if dynamics.gain_divides else parameters.gain * u


def charge(v: Tensor, current: Tensor, parameters: Parameters, dynamics: Dynamics) -> Tensor:
    """The membrane before reset, from the previous membrane and the current that reaches it."""
    f = polynomial(v, parameters, dynamics)
    if dynamics.charge == "map":
        return f + scale(current, parameters, dynamics)
    if dynamics.charge == "residual":
        return (v + scale(f, parameters, dynamics)) + current
    return v + scale(f + current, parameters, dynamics)


def fire(h: Tensor, parameters: Parameters, dynamics: Dynamics) -> Tensor:
    """Spikes, 0 or 1, with the surrogate's gradient (smooth mode: the surrogate's primitive)."""
    u = h - parameters.threshold
    surrogate = dynamics.surrogate
    if not isinstance(surrogate, Surrogate):
        return surrogate(u).to(u.dtype)
    return surrogate.smooth(u) if dynamics.smooth else surrogate(u, dynamics.fire_at_threshold)


def reset(h: Tensor, spikes: Tensor, parameters: Parameters, dynamics: Dynamics) -> Tensor:
    """The membrane after the reset that ``spikes`` causes."""
    s = spikes.detach() if dynamics.detach_reset else spikes
    if dynamics.reset.startswith("hard"):
        return (1 - s) * h + s * parameters.v_reset
    if dynamics.reset.startswith("soft"):
        return h - s * parameters.threshold
    return h


def synapse(
    x: Tensor, state: Tensor | None, parameters: Parameters, dynamics: Dynamics
) -> tuple[Tensor, Tensor | None]:
    """The current that reaches the membrane, and the synaptic state for the next step."""
    alpha = parameters.alpha
    if alpha is None or state is None:
        return x, None
    if dynamics.synapse == "decay":
        current = alpha * state + x
        return current, current
    current = state + x
    return current, current - alpha * current


def step(x: Tensor, state: State, parameters: Parameters, dynamics: Dynamics) -> tuple[Tensor, Tensor, State]:
    """One time step: ``(spikes, h, next state)``, all of the shape of ``x``."""
    current, synaptic = synapse(x, state.current, parameters, dynamics)
    v = state.v
    if dynamics.reset == "hard_next":
        v = reset(v, fire(v, parameters, dynamics), parameters, dynamics)
        h = charge(v, current, parameters, dynamics)
    elif dynamics.reset == "soft_next":
        h = charge(v, current, parameters, dynamics)
        h = reset(h, fire(v, parameters, dynamics), parameters, dynamics)
    else:
        h = charge(v, current, parameters, dynamics)
    spikes = fire(h, parameters, dynamics)
    v = h if dynamics.state_is_membrane else reset(h, spikes, parameters, dynamics)
    return spikes, h, State(v, synaptic)


def scan(x: Tensor, state: State, parameters: Parameters, dynamics: Dynamics) -> tuple[Tensor, Tensor, State]:
    """All time steps of ``x``, `[T, B, ...]`, T ≥ 1: ``(spikes, h, last state)``.

    Half-precision inputs are computed in float32; spikes come back in the input's dtype, membranes
    and states in the arithmetic dtype.
    """
    arithmetic = STATE_DTYPE[x.dtype]
    spikes: list[Tensor] = []
    h: list[Tensor] = []
    for x_t in x.to(arithmetic).unbind(0):
        s_t, h_t, state = step(x_t, state, parameters, dynamics)
        spikes.append(s_t)
        h.append(h_t)
    return torch.stack(spikes).to(x.dtype), torch.stack(h), state


@dataclass(frozen=True)
class _Step:
    """:func:`step` by the names of its states and numbers, as an engine asks for it; constants come by name, too."""

    synapse: bool
    dynamics: Dynamics

    def __call__(
        self, x: Any, states: Mapping[str, Any], numbers: Mapping[str, Any], constants: Mapping[str, Any]
    ) -> Stepped:
        dynamics = self.dynamics
        if dynamics.domain is not None:
            dynamics = copy.copy(dynamics)
            object.__setattr__(dynamics, "domain", (constants["lo"], constants["hi"]))
        parameters = Parameters(**numbers)
        spikes, h, state = step(x, State(**states), parameters, dynamics)
        return Stepped(spikes, h, {name: value for name, value in state._asdict().items() if value is not None})


def law(dynamics: Dynamics, degree: int, synapse: bool) -> Law:
    """The neuron as data: its states, its numbers, its step, and the constants that are no numbers to learn."""
    surrogate = dynamics.surrogate
    assert isinstance(surrogate, Surrogate)
    constants: dict[str, float] = {}
    if dynamics.domain is not None:
        constants |= {"lo": dynamics.domain[0], "hi": dynamics.domain[1]}
        dynamics = replace(dynamics, domain=(-1.0, 1.0))
    for name, value in zip(surrogate.__match_args__, surrogate.parameters, strict=True):
        constants[f"surrogate_{name}"] = value
    numbers = [("coefficients", degree + 1), ("threshold", None), ("v_reset", None), ("gain", None)]
    return Law(
        states=("v", "current") if synapse else ("v",),
        numbers=(*numbers, *([("alpha", None)] if synapse else [])),
        constants=tuple(constants.items()),
        step=_Step(synapse, replace(dynamics, surrogate=type(surrogate)())),
    )
