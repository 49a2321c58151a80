"""The law of reference.py for one block of neurons in Triton, and its derivatives.

`D` stands for the :class:`Options`, known when a kernel is compiled; `n` for the :class:`Numbers` of the
block, which are scalars where all its neurons share them. In the forward pass products and sums are rounded
one by one (the launcher forbids contraction), in the order of reference.py. The spikes and resets that the backward
pass computes again multiply by 0 and 1 only, so that contraction changes no bit of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Options(NamedTuple):
    """What shapes a kernel: the :class:`snn_lnm.parameters.Dynamics` and the degree."""

    degree: int
    charge: str
    reset: str
    state_is_membrane: bool
    synapse: str  # "" without one
    bounded: bool
    lo: float
    hi: float
    line: bool
    detach_reset: bool
    fire_at_threshold: bool
    gain_divides: bool
    smooth: bool
    derivative: Any  # of the surrogate, compiled from the function in surrogate.py
    primitive: Any
    first: float  # parameter of the surrogate
    second: float | None


class Numbers(NamedTuple):
    """The law's numbers; ``slope`` is λ of the line outside the domain, ``lowest`` the end of its range.

    ``inverse`` is 1/g where the gain divides: good enough for gradients, which need not keep bits. ``center`` is
    where a membrane that is kept in bfloat16 is measured from.
    """

    coefficients: Any
    threshold: Any
    v_reset: Any
    gain: Any
    alpha: Any
    slope: Any
    lowest: Any
    inverse: Any
    center: Any


@triton.jit
def divide(a, b):
    """Rounded to nearest: Triton's own `/` is an approximation in float32."""
    return tl.div_rn(a, b) if b.dtype == tl.float32 else a / b


@triton.jit
def clamp(v, lo, hi):
    return tl.where(v < lo, lo, tl.where(v > hi, hi, v))


# ---- forward -------------------------------------------------------------------------------------


@triton.jit
def lowest_slope(gain, D: tl.constexpr):
    """The least slope of the line, unless the charge is a map."""
    minus_two = tl.full((), -2.0, gain.dtype)
    return minus_two * gain if D.gain_divides else divide(minus_two, gain)


@triton.jit
def line_slope(coefficients, lowest, D: tl.constexpr):
    zero = tl.full((), 0.0, lowest.dtype)
    if D.degree == 0:
        return zero
    elif D.charge == "map":
        return clamp(coefficients[1], zero - 1, zero + 1)
    else:
        return clamp(coefficients[1], lowest, zero)


@triton.jit
def horner(v, coefficients, D: tl.constexpr):
    p = coefficients[D.degree]
    for k in tl.static_range(D.degree - 1, -1, -1):
        p = p * v + coefficients[k]
    return p


@triton.jit
def held(v, D: tl.constexpr):
    """The membrane held to the domain; of a line, which has no inside, to 0."""
    if D.bounded and D.line and D.degree == 1:
        return tl.zeros_like(v)
    return clamp(v, tl.full((), D.lo, v.dtype), tl.full((), D.hi, v.dtype)) if D.bounded else v


@triton.jit
def polynomial(v, n, D: tl.constexpr):
    if D.bounded and D.line and D.degree == 1:
        return n.slope * v + n.coefficients[0]
    else:
        w = held(v, D)
        inside = horner(w, n.coefficients, D)
        if D.bounded and D.line:
            outside = (n.slope * v + n.coefficients[0]) + (inside - (n.slope * w + n.coefficients[0]))
            return tl.where(w == v, inside, outside)
        else:
            return inside


@triton.jit
def scale(u, n, D: tl.constexpr):
    return divide(u, n.gain) if D.gain_divides else n.gain * u


@triton.jit
def charge(v, current, n, D: tl.constexpr):
    f = polynomial(v, n, D)
    if D.charge == "map":
        return f + scale(current, n, D)
    elif D.charge == "residual":
        return (v + scale(f, n, D)) + current
    else:
        return v + scale(f + current, n, D)


@triton.jit
def above_threshold(u, D: tl.constexpr):
    return u >= 0 if D.fire_at_threshold else u > 0


@triton.jit
def fire(h, n, D: tl.constexpr):
    u = h - n.threshold
    if D.smooth:
        return D.primitive(u, D.first) if D.second is None else D.primitive(u, D.first, D.second)
    else:
        return above_threshold(u, D).to(u.dtype)


@triton.jit
def center_of(threshold):
    """A membrane kept in bfloat16 is kept as its distance from here; a huge threshold is no place to measure from."""
    return tl.where(tl.abs(threshold) <= 100, threshold, 0.0)


@triton.jit
def distance_in_bfloat16(h, n, D: tl.constexpr):
    """The membrane's distance from the center: the nearest that leaves it on its side of the threshold.

    (A bfloat16 is the upper half of a float32.)
    """
    distance = h - n.center
    bits = distance.to(tl.uint32, bitcast=True)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    nearest = tl.where(h == h, nearest, 0x7FC00000)  # rounding must not turn a NaN into infinity
    fires = above_threshold(h - n.threshold, D)
    away = tl.where(fires == (distance > 0), 0xFFFF, 0)  # rounded so, the magnitude grows
    found = nearest.to(tl.float32, bitcast=True) + n.center
    upper = tl.where(above_threshold(found - n.threshold, D) == fires, nearest, bits + away) >> 16
    return upper.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def reset(h, s, n, D: tl.constexpr):
    if D.reset == "hard" or D.reset == "hard_next":
        return (1 - s) * h + s * n.v_reset
    elif D.reset == "none":
        return h
    else:
        return h - s * n.threshold


@triton.jit
def after_reset(h, s, n, D: tl.constexpr):
    """What enters the polynomial, from the membrane of the previous step and its spike."""
    return h if D.reset == "soft_next" else reset(h, s, n, D)


@triton.jit
def synapse(x, state, n, D: tl.constexpr):
    """The current that reaches the membrane, and the synaptic state of the next step."""
    if D.synapse == "":
        return x, state
    elif D.synapse == "decay":
        current = n.alpha * state + x
        return current, current
    else:
        current = state + x
        return current, current - n.alpha * current


@triton.jit
def step(x, entering, spike, synaptic, n, D: tl.constexpr):
    """One step from what enters the polynomial: h, the next entering, spike and synaptic state."""
    current, synaptic = synapse(x, synaptic, n, D)
    h = charge(entering, current, n, D)
    if D.reset == "soft_next":
        h = reset(h, spike, n, D)
    spike = fire(h, n, D)
    return h, after_reset(h, spike, n, D), spike, synaptic


# ---- backward ------------------------------------------------------------------------------------
# `d_a` is the gradient of the loss with respect to `a`. Parameters get their terms of this step back,
# to be summed by the caller; what nobody sums is never computed.


@triton.jit
def reset_backward(h, d_s, spikes_count: tl.constexpr, d_after, d_next, n, D: tl.constexpr):
    """Through ``s = fire(h)`` and ``after = reset(h, s)``: d_h, and the terms of threshold and v_reset.

    ``d_s`` is what the spike receives from elsewhere (zero unless ``spikes_count``), ``d_next`` the
    gradient of the next step's h, from which "soft_next" subtracts.
    """
    s = fire(h, n, D)
    d_h = d_after
    d_threshold = tl.zeros_like(d_after)
    d_v_reset = tl.zeros_like(d_after)
    if D.reset == "hard" or D.reset == "hard_next":
        if not D.detach_reset:
            d_s += d_after * (n.v_reset - h)
        d_h = d_after * (1 - s)
        d_v_reset = d_after * s
    elif D.reset != "none":
        d_subtracted = d_after if D.reset == "soft" else d_next
        if not D.detach_reset:
            d_s -= d_subtracted * n.threshold
        d_threshold = -d_subtracted * s
    if spikes_count or not D.detach_reset:
        u = h - n.threshold
        d_u = d_s * (D.derivative(u, D.first) if D.second is None else D.derivative(u, D.first, D.second))
        d_h += d_u
        d_threshold -= d_u
    return d_h, d_threshold, d_v_reset


@triton.jit
def polynomial_backward(v, d_f, n, D: tl.constexpr):
    """Through ``f = polynomial(v)``: d_v, the coefficients' terms, and the gain's through the line's slope."""
    w = held(v, D)
    p = n.coefficients[D.degree]
    slope = p if D.degree > 0 else tl.zeros_like(p)
    for k in tl.static_range(D.degree - 1, 0, -1):
        p = p * w + n.coefficients[k]
        slope = slope * w + p
    terms = (d_f,)
    power = d_f
    for k in tl.static_range(1, D.degree + 1):
        power = power * w
        terms = terms + (power,)
    d_gain = tl.zeros_like(d_f)
    if D.bounded:
        inside = ~((w < v) | (w > v))  # NaN too, whose gradient is NaN
        if D.line and D.degree > 0:
            # ∂f/∂θ_1 is v where the line's slope is θ_1 itself, w where that is held to its range.
            theta_1 = n.coefficients[1]
            terms = terms[:1] + (tl.where(theta_1 == n.slope, d_f * v, terms[1]),) + terms[2:]
            if D.charge != "map":
                d_lowest = tl.full((), -2.0, n.gain.dtype) if D.gain_divides else -n.lowest / n.gain
                d_gain = tl.where(theta_1 < n.lowest, d_f * (v - w) * d_lowest, d_gain)
            slope = tl.where(inside, n.slope if D.degree == 1 else slope, n.slope)
        else:
            slope = tl.where(inside, slope, 0.0)
    return d_f * slope, terms, d_gain


@triton.jit
def scale_backward(u, d_scaled, n, D: tl.constexpr):
    """Through ``scale(u)``: d_u and the gain's term."""
    if D.gain_divides:
        d_u = d_scaled * n.inverse
        return d_u, -d_u * u * n.inverse
    else:
        return n.gain * d_scaled, d_scaled * u


@triton.jit
def charge_backward(v, current, d_h, n, D: tl.constexpr):
    """Through ``h = charge(v, current)``: d_v, d_current, and the terms of the coefficients and the gain."""
    if D.charge == "map":
        d_current, d_gain = scale_backward(current, d_h, n, D)
        d_v, terms, d_gain_line = polynomial_backward(v, d_h, n, D)
        return d_v, d_current, terms, d_gain
    else:
        f = polynomial(v, n, D)
        if D.charge == "drift":
            f += current
        d_f, d_gain = scale_backward(f, d_h, n, D)
        d_v, terms, d_gain_line = polynomial_backward(v, d_f, n, D)
        return d_h + d_v, d_f if D.charge == "drift" else d_h, terms, d_gain + d_gain_line


@triton.jit
def synapse_backward(current, before, d_current, d_state, n, D: tl.constexpr):
    """Through the synapse: d_x, the gradient of the state before the step, and α's term.

    ``d_state`` is the gradient of the state after the step, ``before`` the state before it.
    """
    if D.synapse == "":
        return d_current, d_state, tl.zeros_like(d_current)
    elif D.synapse == "decay":
        d_x = d_current + d_state
        return d_x, n.alpha * d_x, d_x * before
    else:
        d_x = d_current + (d_state - n.alpha * d_state)
        return d_x, d_x, -d_state * current
