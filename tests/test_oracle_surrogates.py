"""Surrogates as they are documented: derivative, primitive, area, at any numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_numbers import UNIT

from snn_lnm import surrogate


class Documented(NamedTuple):
    defaults: tuple[float, ...]
    slope: Callable[..., float]  # S', of u and the numbers
    area: Callable[..., float]


FAST = (lambda u, k: 1 / (1 + k * abs(u)) ** 2, lambda k: 2 / k)
DOCUMENTED = {
    "atan": Documented((2,), lambda u, a: (a / 2) / (1 + (math.pi / 2 * a * u) ** 2), lambda a: 1),
    "fast_sigmoid": Documented((25,), *FAST),
    "sigmoid": Documented(
        (25,), lambda u, k: k * math.exp(-k * abs(u)) / (1 + math.exp(-k * abs(u))) ** 2, lambda k: 1
    ),
    "triangle": Documented((1, 1), lambda u, w, a: a * max(0.0, 1 - abs(u) / w) / w, lambda w, a: a),
    "rectangle": Documented((1,), lambda u, w: (abs(u) < w / 2) / w, lambda w: 1),
    "superspike": Documented((100,), *FAST),
}
RIGHT = torch.cat([torch.zeros(1), torch.logspace(-6, 12, 4000)]).double()


def test_every_surrogate_is_documented() -> None:
    assert set(DOCUMENTED) == set(surrogate.available())


def build(data: st.DataObject, name: str) -> tuple[surrogate.Surrogate, tuple[float, ...], float]:
    """One with its own numbers or others, those numbers, and its area."""
    defaults, _, area = DOCUMENTED[name]
    others = st.tuples(*[st.floats(0.01, 1000)] * len(defaults))
    numbers = data.draw(st.just(None) | others)
    instance = surrogate.get(name)
    assert isinstance(instance, surrogate.Surrogate)
    if numbers is not None:
        instance = type(instance)(*numbers)
    return instance, numbers or defaults, area(*(numbers or defaults))


@pytest.mark.parametrize("name", DOCUMENTED)
@given(st.data())
def test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive(name: str, data: st.DataObject) -> None:
    """Every S' falls on both sides of 0, so each cell [a, b] of a grid brackets what S gains in it:
    S'(outer end)·(b - a) ≤ S(b) - S(a) ≤ S'(inner end)·(b - a). Summed up, the same for the whole area.

    |S| is at most M = 1 + area, and S comes from fewer than 10 roundings of numbers at most M (libm's included, at
    most 4 units each), the slopes from fewer than 10 of numbers at most themselves or, where 1 is subtracted from,
    at most S'(0), over cells of a hundredth of |u|: 80·M units on each of the two S, and 80 of the product.
    """
    spike, _, area = build(data, name)
    most = 1 + area
    for sign in (1, -1):
        u = (sign * RIGHT).requires_grad_()
        s = spike.smooth(u)
        (by_smooth,) = torch.autograd.grad(s.sum(), u)
        (by_spike,) = torch.autograd.grad(spike(u).sum(), u)
        gained = sign * s.detach().diff()
        width = RIGHT.diff()
        for slope in (by_smooth, by_spike):
            outer, inner = slope[1:] * width, slope[:-1] * width
            slack = 160 * UNIT * most + 80 * UNIT * inner
            assert (outer - slack <= gained).all()
            assert (gained <= inner + slack).all()
            assert outer.sum() - 4000 * 240 * UNIT * most <= area / 2


@pytest.mark.parametrize("name", DOCUMENTED)
@given(st.data())
def test_the_area_of_a_surrogate(name: str, data: st.DataObject) -> None:
    """S at both ends of the number line; beyond 2^80 every S' holds less than 2^-53 of its area."""
    spike, _, area = build(data, name)
    low, high = spike.smooth(torch.tensor([-(2.0**80), 2.0**80], dtype=torch.float64)).tolist()
    assert abs(high - low - area) <= 20 * UNIT * (1 + area)
    middle = area if name == "triangle" else 1  # it starts at 0 for any area, the others pass 1/2
    assert abs(high + low - middle) <= 20 * UNIT * (1 + area)


@pytest.mark.parametrize("name", DOCUMENTED)
@given(st.data())
def test_the_formula_of_a_surrogate(name: str, data: st.DataObject) -> None:
    """S' as documented, up to fewer than 80 units, and H with its own rule at zero."""
    spike, numbers, _ = build(data, name)
    half = [0.0, 2.0**-1074, 1e-30, 0.0625, 0.125, 0.25, 0.5, 0.75, 1, 2, 3, data.draw(st.floats(0, 100))]
    u = torch.tensor([*half, *(-n for n in half)], dtype=torch.float64, requires_grad=True)
    want = [DOCUMENTED[name].slope(at, *numbers) for at in u.tolist()]
    # where 1 is subtracted from, what counts is the largest slope, and of sigmoid's p·(1 - p) four times that
    peak = 4 * DOCUMENTED[name].slope(0, *numbers) if name in ("sigmoid", "triangle") else 0.0
    for at_zero in (False, True):
        s = spike(u, at_zero)
        assert torch.equal(s, (u >= 0 if at_zero else u > 0).double())
        (slope,) = torch.autograd.grad(s.sum(), u)
        for ours, theirs in zip(slope.tolist(), want, strict=True):
            assert abs(ours - theirs) <= 80 * UNIT * max(theirs, peak), (numbers, ours, theirs)
