"""The law of docs/law.md written a second time: one neuron, one number at a time, nothing shared with the package.

Any number type will do (floats, numpy scalars, fractions): each operation below is one operation of that type,
so numpy.float32 rounds after every one of them, as the law asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Law:
    """What the neuron does.

    `spike`, of h and the threshold, replaces the step (smooth mode); resets see `detach` of the spike.
    """

    charge: str = "drift"
    reset: str = "hard"
    synapse: str | None = None
    domain: tuple[Any, Any] | None = None
    extension: str = "line"
    fire_at_threshold: bool = False
    gain_divides: bool = False
    spike: Callable[[Any, Any], Any] | None = None
    detach: Callable[[Any], Any] = lambda s: s


class Step(NamedTuple):
    """One step as it went: u, what the polynomial was asked for; h; s; the states after it."""

    u: Any
    h: Any
    s: Any
    v: Any
    current: Any


def clamp(value: Any, low: Any, high: Any) -> Any:
    """Below the lower end that end, else above the upper end that one: also where the range is empty."""
    if value < low:
        return low
    return high if value > high else value


def horner(v: Any, theta: Sequence[Any]) -> Any:
    p = theta[-1]
    for coefficient in reversed(theta[:-1]):
        p = p * v + coefficient
    return p


def slope(theta: Sequence[Any], gain: Any, law: Law) -> Any:
    """λ: the slope of the linear neuron, never expanding."""
    linear = theta[1] if len(theta) > 1 else 0 * theta[0]
    one = 1 + 0 * theta[0]
    if law.charge == "map":
        return clamp(linear, -one, one)
    return clamp(linear, -2 * gain if law.gain_divides else -2 / gain, 0 * one)


def f(v: Any, theta: Sequence[Any], gain: Any, law: Law) -> Any:
    if law.domain is None:
        return horner(v, theta)
    low, high = law.domain
    lam = slope(theta, gain, law)
    if len(theta) == 2 and law.extension == "line":
        return lam * v + theta[0]
    if low <= v <= high:
        return horner(v, theta)
    w = clamp(v, low, high)
    if law.extension == "constant":
        return horner(w, theta)
    line_v = lam * v + theta[0]
    line_w = lam * w + theta[0]
    return line_v + (horner(w, theta) - line_w)


def charge(v: Any, c: Any, theta: Sequence[Any], gain: Any, law: Law) -> Any:
    def scale(u: Any) -> Any:
        return u / gain if law.gain_divides else gain * u

    if law.charge == "drift":
        return v + scale(f(v, theta, gain, law) + c)
    if law.charge == "map":
        return f(v, theta, gain, law) + scale(c)
    return (v + scale(f(v, theta, gain, law))) + c


def fire(h: Any, threshold: Any, law: Law) -> Any:
    if law.spike is not None:
        return law.spike(h, threshold)
    u = h - threshold
    return int(u >= 0) if law.fire_at_threshold else int(u > 0)


def run(
    x: Sequence[Any],
    theta: Sequence[Any],
    threshold: Any,
    v_reset: Any,
    gain: Any,
    alpha: Any,
    v: Any,
    current: Any,
    law: Law,
) -> list[Step]:
    """The steps t = 1..T of one neuron from the state (v, current)."""
    steps = []
    for x_t in x:
        # synapse
        c = x_t
        if law.synapse == "decay":
            c = alpha * current + x_t
            current = c
        elif law.synapse == "euler":
            c = current + x_t
            current = c - alpha * c
        # charge; the delayed resets belong to its start and to its end
        u = v
        if law.reset == "hard_next":
            s = law.detach(fire(v, threshold, law))
            u = (1 - s) * v + s * v_reset
        h = charge(u, c, theta, gain, law)
        if law.reset == "soft_next":
            h = h - law.detach(fire(v, threshold, law)) * threshold
        # fire
        s = fire(h, threshold, law)
        # reset
        v = h
        if law.reset == "hard":
            v = (1 - law.detach(s)) * h + law.detach(s) * v_reset
        elif law.reset == "soft":
            v = h - law.detach(s) * threshold
        steps.append(Step(u, h, s, v, current))
    return steps
