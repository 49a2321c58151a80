"""Surrogates as they are documented: derivative, primitive, area."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from oracle_numbers import UNIT

from snn_lnm import surrogate

SLOPES: dict[str, Callable[[float], float]] = {  # S' as documented, at the default numbers
    "atan": lambda u: 1 / (1 + (math.pi * u) ** 2),
    "fast_sigmoid": lambda u: 1 / (1 + 25 * abs(u)) ** 2,
    "sigmoid": lambda u: 25 * math.exp(-25 * abs(u)) / (1 + math.exp(-25 * abs(u))) ** 2,
    "triangle": lambda u: max(0.0, 1 - abs(u)),
    "rectangle": lambda u: float(abs(u) < 0.5),
    "superspike": lambda u: 1 / (1 + 100 * abs(u)) ** 2,
}
AREAS = {"fast_sigmoid": 2 / 25, "superspike": 2 / 100}  # the others have area 1


@pytest.mark.parametrize("name", surrogate.available())
def test_the_derivative_of_a_surrogate_is_the_slope_of_its_primitive(name: str) -> None:
    """Every S' falls on both sides of 0, so each cell [a, b] of a grid brackets what S gains in it:
    S'(outer end)·(b - a) ≤ S(b) - S(a) ≤ S'(inner end)·(b - a). Summed up, the same for the whole area.

    S is at most 1 and comes from fewer than 10 roundings of numbers at most 1 (libm's included, at most 4 units
    each), the slopes from fewer than 10 relative ones: 80 units on each of the two S, and 80 of the product.
    """
    spike = surrogate.get(name)
    right = torch.cat([torch.zeros(1), torch.logspace(-6, 12, 4000)]).double()
    for u in (right, -right):
        u = u.clone().requires_grad_()
        s = spike.smooth(u)  # type: ignore[union-attr]
        (by_smooth,) = torch.autograd.grad(s.sum(), u)
        (by_spike,) = torch.autograd.grad(spike(u).sum(), u)
        gained = s.detach().diff().abs()
        width = right.diff()
        for slope in (by_smooth, by_spike):
            outer, inner = slope[1:] * width, slope[:-1] * width
            slack = 160 * UNIT + 80 * UNIT * inner
            assert (outer - slack <= gained).all()
            assert (gained <= inner + slack).all()
            assert outer.sum() - 4000 * 240 * UNIT <= AREAS.get(name, 1) / 2
        assert (s.detach().diff().sign() * u.detach().diff().sign() >= 0).all()


@pytest.mark.parametrize("name", surrogate.available())
def test_the_area_of_a_surrogate(name: str) -> None:
    """S at both ends of the number line; beyond 2^80 every S' holds less than 2^-53 of its area."""
    ends = surrogate.get(name).smooth(torch.tensor([-(2.0**80), 2.0**80], dtype=torch.float64))  # type: ignore[union-attr]
    assert abs(ends[1] - ends[0] - AREAS.get(name, 1)).item() <= 20 * UNIT
    assert abs(ends[1] + ends[0] - 1).item() <= 20 * UNIT


@pytest.mark.parametrize("name", surrogate.available())
def test_the_formula_of_a_surrogate(name: str) -> None:
    """S' as documented, and H with its own rule at zero."""
    u = torch.tensor(
        [-3, -1, -0.75, -0.5, -0.25, -0.125, -0.0, 0.0, 0.0625, 0.25, 0.5, 0.75, 1, 2], dtype=torch.float64
    )
    u.requires_grad_()
    for at_zero in (False, True):
        s = surrogate.get(name)(u, at_zero)
        assert torch.equal(s, (u >= 0 if at_zero else u > 0).double())
        (slope,) = torch.autograd.grad(s.sum(), u)
        for ours, at in zip(slope.tolist(), u.tolist(), strict=True):
            want = SLOPES[name](at)
            assert abs(ours - want) <= 80 * UNIT * max(want, 25 if name == "sigmoid" else 0), (at, ours, want)
