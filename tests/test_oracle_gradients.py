"""Gradients of the engines: slopes of `oracle.py` where it is smooth, exact fractions where it spikes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import oracle
import pytest
import rotation
import torch
from oracle import Law
from oracle_cases import (
    BACKENDS,
    CHARGES,
    DOMAINS,
    EXTENSIONS,
    PARAMETERS,
    RESETS,
    SYNAPSES,
    Case,
    eighths,
    expected,
    options,
    pick,
    slope_range,
)
from oracle_numbers import Dual, Rounded, rounded

from snn_lnm import functional, surrogate
from snn_lnm.parameters import State

# Gradients of smooth mode: central differences of the oracle against autograd.


def ramp(u: Any, width: float, area: float) -> Any:
    """Integral of a triangle of half-width `width`."""
    if abs(u) >= width:
        return area * int(u > 0)
    return area * (0.5 + u / width - u * abs(u) / (2 * width * width))


# Each surrogate with its primitive as documented, and where that is not smooth.
SMOOTH: list[tuple[surrogate.Surrogate, Callable[[Any], Any], tuple[float, ...]]] = [
    (surrogate.ATan(1.5), lambda u: (math.pi / 2 * 1.5 * u).apply(math.atan) / math.pi + 0.5, ()),
    (surrogate.Sigmoid(3.0), lambda u: 0.5 * (1 + (3.0 * u / 2).apply(math.tanh)), ()),
    (surrogate.FastSigmoid(2.0), lambda u: u / (1 + 2.0 * abs(u)) + 0.5, (0.0,)),
    (surrogate.SuperSpike(3.0), lambda u: u / (1 + 3.0 * abs(u)) + 0.5, (0.0,)),
    (surrogate.Triangle(1.5, 0.75), lambda u: ramp(u, 1.5, 0.75), (-1.5, 0.0, 1.5)),
    (surrogate.Rectangle(3.0), lambda u: oracle.clamp(u / 3.0 + 0.5, 0, 1), (-1.5, 1.5)),
]
DELTA = 2.0**-13
T = 3


def draw_leaves(rng: np.random.Generator, degree: int, synapse: str | None) -> dict[str, np.ndarray]:
    """What one neuron is differentiated with respect to."""
    draw = partial(eighths, rng, dtype=np.float64)
    theta = draw(-1.25, 1.25, (degree + 1,))
    theta[1:2] *= 2  # past the ends of the slope's range
    return {
        "x": draw(-1.5, 1.5, (T,)),
        "theta": theta,
        "threshold": draw(0.25, 1.25, (1,)),
        "v_reset": draw(-0.5, 0.5, (1,)),
        "gain": draw(0.5, 1.5, (1,)),
        "v": draw(-1.75, 1.75, (1,)),
        **({"alpha": draw(0.125, 1, (1,)), "current": draw(-1, 1, (1,))} if synapse else {}),
    }


def smooth_loss(
    leaves: dict[str, np.ndarray], weights: np.ndarray, law: Law, kinks: tuple[float, ...]
) -> tuple[Rounded, list[bool]]:
    """A weighted sum of everything a neuron gives, and on which side of every kink it ran."""
    r = {name: [Rounded(float(n)) for n in value] for name, value in leaves.items()}
    alpha, current = r.get("alpha", [None])[0], r.get("current", [Rounded(0.0)])[0]
    threshold, gain = r["threshold"][0], r["gain"][0]
    steps = oracle.run(r["x"], r["theta"], threshold, r["v_reset"][0], gain, alpha, r["v"][0], current, law)
    terms = [n for step in steps for n in (step.h, step.s)] + [steps[-1].v, steps[-1].current]
    loss = sum((w * rounded(n) for w, n in zip(weights.tolist(), terms, strict=True)), start=Rounded(0.0))
    sides = [h - threshold > kink for h in (r["v"][0], *(step.h for step in steps)) for kink in kinks]
    if law.domain:
        sides += [step.u > edge for step in steps for edge in law.domain]
        linear = leaves["theta"][1] if len(leaves["theta"]) > 1 else 0.0
        sides += [linear > edge for edge in slope_range(law, gain.value)]
    return loss, sides


def smooth_gradients(
    leaves: dict[str, np.ndarray], weights: np.ndarray, law: Law, instance: Any, backend: str
) -> dict[str, np.ndarray]:
    t = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in leaves.items()}
    state = State(t["v"].reshape(1, 1), t["current"].reshape(1, 1) if law.synapse else None)
    out = functional.lnm(
        t["x"].reshape(T, 1, 1),
        t["theta"],
        **{name: t[name].reshape(()) for name in PARAMETERS[1:] if name in t},
        state=state,
        backend=backend,
        surrogate=instance,
        smooth=True,
        detach_reset=False,
        **options(law),
    )
    terms = torch.stack([out.membrane, out.spikes], 1).flatten()
    last = torch.stack([out.state.v, torch.zeros(1, 1) if out.state.current is None else out.state.current]).flatten()
    loss = torch.cat([terms, last]) @ torch.from_numpy(weights)
    grads = torch.autograd.grad(loss, list(t.values()), allow_unused=True, materialize_grads=True)
    return {name: grad.detach().numpy() for name, grad in zip(t, grads, strict=True)}


@pytest.mark.parametrize(("charge", "reset"), list(product(CHARGES, RESETS)))
def test_smooth_gradients_are_the_slopes_of_the_law(charge: str, reset: str) -> None:
    """D(δ) = (L(+δ) - L(-δ)) / 2δ = L' + δ²·L‴/6 + O(δ⁴) + r with |r| ≤ R/δ, where R bounds the rounding of L.

    D(2δ) - D(δ) is three times the second term, up to rounding of 3/2·R/δ: the bound below holds it with a
    factor 3 to spare for O(δ⁴), and R/δ with autograd's own rounding, which is a few R (as many operations as L,
    a few times over) and so 2^-10 of R/δ. Where a kink lies within ±2δ there is no L‴: such points are redrawn.
    """
    rng = np.random.default_rng(5)
    sharp = Counter[str]()
    regions = ((None, "line"), ((-1.0, 1.0), "line"), ((-0.5, 0.75), "constant"))
    for number, (spike, synapse, (domain, extension)) in enumerate(product(SMOOTH, SYNAPSES, regions)):
        instance, primitive, kinks = spike
        law = Law(charge, reset, synapse, domain, extension, gain_divides=bool(rng.integers(2)))
        law = replace(law, spike=lambda h, theta, S=primitive: S(h - theta))
        while True:
            leaves = draw_leaves(rng, int(rng.integers(0, 4)), synapse)
            weights = eighths(rng, -2, 2, (2 * T + 2,), np.float64)
            weights[-1] *= synapse is not None
            sides, slopes, bounds = [], {}, {}
            for name, value in leaves.items():
                slopes[name], bounds[name] = np.zeros_like(value), np.zeros_like(value)
                for i in range(len(value)):
                    loss = {}
                    for k in (-2, -1, 1, 2):
                        moved = {**leaves, name: value + k * DELTA * (np.arange(len(value)) == i)}
                        loss[k], side = smooth_loss(moved, weights, law, kinks)
                        sides.append(side)
                    rounding = max(n.error for n in loss.values()) / DELTA
                    near, far = ((loss[k].value - loss[-k].value) / (2 * k * DELTA) for k in (1, 2))
                    slopes[name][i], bounds[name][i] = near, abs(far - near) + 2.5 * rounding
            if all(side == sides[0] for side in sides):
                break
        for backend in BACKENDS if rotation.is_due(number, 60) else BACKENDS[:1]:
            ours = smooth_gradients(leaves, weights, law, instance, backend)
            for name, slope in slopes.items():
                off = np.abs(ours[name] - slope)
                assert (off <= bounds[name]).all(), (backend, law, instance, name, ours[name], slope, bounds[name])
                of = f"{name}, divided by gain" if law.gain_divides else name
                sharp[of] += int((bounds[name] < 2.0**-10 * np.abs(slope)).sum())
    # the bounds are tight enough to see any term of one slope in a thousand, and the slopes not all zero
    dead = {"v_reset"} if reset not in ("hard", "hard_next") else set()
    alive = {*PARAMETERS, "x", "v", "current"} - dead
    alive |= {f"{name}, divided by gain" for name in alive}
    assert {name for name, n in sharp.items() if n >= 10} == alive, sharp


# Gradients of spikes, where all arithmetic is exact: the law differentiated forwards, in fractions.


def rectangle(u: Fraction) -> Fraction:
    return Fraction(int(abs(u) < 1), 2)


def triangle(u: Fraction) -> Fraction:
    return max(Fraction(0), 1 - abs(u) / 2)


EXACT: list[tuple[surrogate.Surrogate, Callable[[Fraction], Fraction]]] = [
    (surrogate.Rectangle(2.0), rectangle),
    (surrogate.Triangle(2.0, 2.0), triangle),
]


# degree, T, how many of EXACT, dtype
BITS = [(0, 2, 2, np.float64), (1, 3, 2, np.float64), (2, 2, 2, np.float64), (3, 2, 1, np.float64)]
BITS += [(0, 2, 1, np.float32), (1, 2, 1, np.float32)]


def spiking(law: Law, derivative: Callable[[Fraction], Fraction], detach_reset: bool) -> Law:
    def spike(h: Dual, threshold: Dual) -> Dual:
        u = h - threshold
        fires = u.value >= 0 if law.fire_at_threshold else u.value > 0
        return Dual(int(fires), {leaf: derivative(u.value) * slope for leaf, slope in u.slopes.items()})

    return replace(law, spike=spike, detach=(lambda s: Dual(s.value)) if detach_reset else law.detach)


def exact_gradients(case: Case, law: Law, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The gradient of the weighted sum of all outputs, each parameter's collected in its own layout."""
    leaves = {name: np.asarray(getattr(case, name)) for name in (*PARAMETERS, "x", "v", "current")}
    leaves = {name: value for name, value in leaves.items() if value.dtype != object}
    grads = {name: np.full(value.shape, Fraction(0), object) for name, value in leaves.items()}
    shape = case.x.shape[1:]
    law = replace(law, domain=law.domain and tuple(Fraction(edge) for edge in law.domain))
    for index in np.ndindex(*shape):

        def see(name: str, index: tuple[int, ...] = index) -> Any:
            """The parameter as this neuron sees it: each leaf knows where it came from."""
            ids = np.arange(leaves[name].size).reshape(leaves[name].shape)
            if name == "theta":
                ids = np.stack([pick(ids[..., k], index, len(shape) - 1) for k in range(ids.shape[-1])])
            elif name == "x":
                ids = ids[(slice(None), *index)]
            else:
                ids = ids[index] if name in ("v", "current") else pick(ids, index, len(shape) - 1)
            seen = [Dual(leaves[name].flat[i], {(name, i): Fraction(1)}) for i in np.ravel(ids)]
            return seen if name in ("theta", "x") else seen[0]

        alpha, current = (see("alpha"), see("current")) if law.synapse else (None, Dual(0))
        parameters = (see(name) for name in PARAMETERS[1:4])
        steps = oracle.run(see("x"), see("theta"), *parameters, alpha, see("v"), current, law)
        pairs = [(weights["v"][index], steps[-1].v), (weights["current"][index], steps[-1].current)]
        for t, step in enumerate(steps):
            pairs += [(weights[name][(t, *index)], getattr(step, name)) for name in ("h", "s")]
        for weight, term in pairs:
            for (name, i), slope in term.slopes.items():
                grads[name].flat[i] += Fraction(float(weight)) * slope
    return grads


def engine_gradients(
    case: Case, instance: Any, detach_reset: bool, weights: dict[str, np.ndarray], backend: str
) -> dict[str, np.ndarray]:
    t = {
        name: torch.from_numpy(getattr(case, name).copy()).requires_grad_()
        for name in (*PARAMETERS, "x", "v", "current")
        if getattr(case, name) is not None
    }
    out = functional.lnm(
        t["x"],
        t["theta"],
        **{name: t[name] for name in PARAMETERS[1:] if name in t},
        state=State(t["v"], t.get("current")),
        backend=backend,
        surrogate=instance,
        detach_reset=detach_reset,
        **options(case.law),
    )
    outputs = {"s": out.spikes, "h": out.membrane, "v": out.state.v, "current": out.state.current}
    loss = torch.stack(
        [(torch.from_numpy(weights[name]) * value).sum() for name, value in outputs.items() if value is not None]
    ).sum()
    grads = torch.autograd.grad(loss, list(t.values()), allow_unused=True, materialize_grads=True)
    return {name: grad.detach().numpy() for name, grad in zip(t, grads, strict=True)}


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize(("charge", "reset"), list(product(CHARGES, RESETS)))
def test_spiking_gradients_to_the_bit(charge: str, reset: str, detach_reset: bool) -> None:
    """On a few halves nothing is rounded, so that every gradient is a fraction which floats hold exactly.

    Ties are meant: the edges of the domain, and a slope at the end of its range, belong to the inside.
    """
    rng = np.random.default_rng(13)
    seen: Counter[str] = Counter()
    regions = [(None, "line"), *product(DOMAINS[1:], EXTENSIONS)]
    for number, (synapse, (domain, extension), layout) in enumerate(product(SYNAPSES, regions, range(3))):
        law = Law(charge, reset, synapse, domain, extension, bool(rng.integers(2)), bool(rng.integers(2)))
        # the bits of h grow like degree^T, and a triangle adds those of h once more at each step
        degree, steps, kinds, dtype = BITS[rng.integers(len(BITS))]
        instance, derivative = EXACT[rng.integers(kinds)]
        neurons = (2, 2) if layout else (2,)
        shapes = [(), neurons[:1], neurons]

        def draw(low: float, high: float, shape: tuple[int, ...], dtype: Any = dtype) -> np.ndarray:
            return np.asarray(rng.integers(int(2 * low), int(2 * high) + 1, shape) / 2, dtype)

        case = Case(
            law,
            x=draw(-1.5, 1.5, (steps, 2, *neurons)),
            theta=draw(-2.5, 2.5, (*shapes[layout], degree + 1)),
            threshold=draw(0.5, 1.5, shapes[rng.integers(3)]),
            v_reset=draw(-0.5, 0.5, shapes[rng.integers(3)]),
            gain=np.asarray(0.5 ** rng.integers(-1, 2, shapes[rng.integers(3)]), dtype),
            alpha=draw(0.5, 1, shapes[rng.integers(3)]) if synapse else None,
            v=draw(-2, 2, (2, *neurons)),
            current=draw(-1, 1, (2, *neurons)) if synapse else None,
        )
        slopes = [-2, -1, -1, -0.5, 1, 1, 1.5] if charge == "map" else [-4, -2.5, -2, -1, -0.5, 0, 1]
        case.theta[..., 1:2] = rng.choice(slopes, case.theta[..., 1:2].shape)
        weights = {name: draw(-1, 1, case.x.shape) for name in ("s", "h")}
        weights |= {name: draw(-1, 1, case.x.shape[1:]) for name in ("v", "current")}
        want = exact_gradients(case, spiking(law, derivative, detach_reset), weights)
        for backend in BACKENDS if rotation.is_due(number, 120) else BACKENDS[:1]:
            ours = engine_gradients(case, instance, detach_reset, weights, backend)
            assert set(ours) == set(want)
            for name, exact in want.items():
                got = np.asarray([Fraction(float(n)) for n in ours[name].flat], object).reshape(exact.shape)
                assert (got == exact).all(), (backend, law, instance, name, ours[name], exact.astype(float))
                seen[f"{name}, divided by gain" if law.gain_divides else name] += int((exact != 0).sum())
        points = expected(case)
        for i in np.ndindex(2, *neurons):
            u, h = (points[name][(slice(None), *i)] for name in ("u", "h"))
            threshold, gain = (pick(value, i, len(neurons)) for value in (case.threshold, case.gain))
            seen["h at the threshold"] += int((h == threshold).sum())
            if domain:
                seen["at an edge"] += int(np.isin(u, domain).sum())
            if domain and degree > 0 and extension == "line":
                at_end = pick(case.theta[..., 1], i, len(neurons)) in slope_range(law, gain)
                seen["slope at an end"] += at_end * int(((u < domain[0]) | (u > domain[1])).sum())
    for tie in ("h at the threshold", "at an edge", "slope at an end"):
        assert seen.pop(tie) >= 10, tie
    dead = {"v_reset"} if reset not in ("hard", "hard_next") else set()
    alive = {*PARAMETERS, "x", "v", "current"} - dead
    alive |= {f"{name}, divided by gain" for name in alive}
    assert {name for name, n in seen.items() if n} == alive, seen
