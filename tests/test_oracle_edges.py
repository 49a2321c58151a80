"""The engines give the bits of `oracle.py` where a comparison ties, a number is not finite, or a size is 0 or 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import rotation
import torch
from oracle import Law
from oracle_cases import (
    BACKENDS,
    CHARGES,
    DOMAINS,
    EXTENSIONS,
    MEMORY,
    RESETS,
    SYNAPSES,
    Case,
    by_hand,
    check,
    expected,
)
from torch import Tensor

from snn_lnm import functional
from snn_lnm.parameters import State


def test_at_the_threshold_by_hand() -> None:
    x = [0.5, 0.5, 0.25, -0.5]
    by_hand(Law("map"), x, h=[0.5, 1, 1.25, -0.5], s=[0, 0, 1, 0], end=-0.5)
    at = partial(Law, fire_at_threshold=True)
    by_hand(at("map"), x, h=[0.5, 1, 0.25, -0.25], s=[0, 1, 0, 0], end=-0.25)
    by_hand(at("map", "soft"), x, h=[0.5, 1, 0.25, -0.25], s=[0, 1, 0, 0], end=-0.25)
    by_hand(Law("map", "soft_next"), x, h=[0.5, 1, 1.25, -0.25], s=[0, 0, 1, 0], end=-0.25)
    by_hand(at("map", "soft_next"), x, h=[0.5, 1, 0.25, -0.25], s=[0, 1, 0, 0], end=-0.25)
    by_hand(at("map", "hard_next"), x, h=[0.5, 1, 0.5, 0], s=[0, 1, 0, 0], end=0, v_reset=0.25)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("at_threshold", [False, True])
@pytest.mark.parametrize("reset", ["soft_next", "hard_next"])
def test_a_start_state_at_the_threshold(reset: str, at_threshold: bool, backend: str) -> None:
    """The delayed reset fires on the state by the same rule as every other spike."""
    start = State(torch.tensor([[1.0]]))
    rule = {"charge": "map", "reset": reset, "fire_at_threshold": at_threshold}
    out = functional.lnm(torch.zeros(1, 1, 1), torch.tensor([0.0, 1.0]), state=start, backend=backend, **rule)
    assert out.membrane.item() == (0 if at_threshold else 1)


def test_at_the_edges_of_the_domain_by_hand() -> None:
    square = [0.0, 0.5, 1.0]  # f(v) = v²+ v/2 on [-1, 1]; outside v/2 + 1
    line = Law("map", "none", domain=(-1.0, 1.0))
    constant = replace(line, extension="constant")
    for law in (line, constant):
        by_hand(law, [0.0], h=[1.5], s=[1], end=1.5, theta=square, start=1)
        by_hand(law, [0.0], h=[0.5], s=[0], end=0.5, theta=square, start=-1)
    by_hand(line, [0.0], h=[2], s=[1], end=2, theta=square, start=2)
    by_hand(line, [0.0], h=[0], s=[0], end=0, theta=square, start=-2)
    by_hand(constant, [0.0], h=[1.5], s=[1], end=1.5, theta=square, start=2)
    by_hand(constant, [0.0], h=[0.5], s=[0], end=0.5, theta=square, start=-2)
    # drift with gain 1/2: the slope -8 becomes -4, so f(2) = -8 + (-8 + 2 + 4) = -10
    steep = replace(line, charge="drift")
    by_hand(steep, [0.0], h=[-3], s=[0], end=-3, theta=[0.0, -8.0, 2.0], start=2, gain=0.5)
    by_hand(replace(steep, charge="residual"), [0.0], h=[-3], s=[0], end=-3, theta=[0.0, -8.0, 2.0], start=2, gain=0.5)
    # and 1/2 becomes 0, so f(2) = 1/2 + 1
    by_hand(steep, [0.0], h=[2.75], s=[1], end=2.75, theta=square, start=2, gain=0.5)
    # divided by 1/2 the slope becomes -1, so f(2) = -2 + (-8 + 2 + 1) = -7; a map knows no gain in its slope: -7, too
    by_hand(
        replace(steep, gain_divides=True), [0.0], h=[-12], s=[0], end=-12, theta=[0.0, -8.0, 2.0], start=2, gain=0.5
    )
    by_hand(replace(line, gain_divides=True), [0.0], h=[-7], s=[0], end=-7, theta=[0.0, -8.0, 2.0], start=2, gain=0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("charge", CHARGES)
def test_the_edges_are_inside(charge: str, dtype: Any) -> None:
    """f is continuous, so only rounding tells: at an edge, line + (horner - line) is not horner to the bit."""
    rng = np.random.default_rng(17)
    domain = (float(dtype(-0.7)), float(dtype(1.3)))
    case = Case(
        Law(charge, "none", domain=domain),
        x=np.zeros((1, 2, 64), dtype),
        theta=rng.uniform(-1, 1, (64, 4)).astype(dtype),
        v=np.repeat(np.asarray(domain, dtype)[:, None], 64, 1),
    )
    want = check(case)["h"]
    bare = expected(replace(case, law=Law(charge, "none")))["h"]
    assert np.array_equal(want, bare)


# The ends of the number line.


@pytest.mark.parametrize("at_threshold", [False, True])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("layout", [(), (3,)])
def test_an_infinite_threshold(layout: tuple[int, ...], reset: str, at_threshold: bool) -> None:
    """Never a spike: "none" and "hard" integrate; the soft resets subtract 0·inf, which is NaN."""
    case = Case(
        Law("map", reset, fire_at_threshold=at_threshold),
        x=np.asarray([[[0.5, -1, 2]], [[0.25, 3, 1]]], np.float32),
        theta=np.asarray([0.0, 1.0], np.float32),
        threshold=np.full(layout, math.inf, np.float32) if layout else math.inf,
    )
    want = check(case)
    assert not want["s"].any()
    if reset in ("none", "hard", "hard_next"):
        assert want["v"].tolist() == [[0.75, 2, 3]]
    else:
        assert np.isnan(want["v"]).all()


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(
    ("threshold", "at_threshold"), [(1.0, False), (1.0, True), (math.inf, True), (-math.inf, False), (-math.inf, True)]
)
@pytest.mark.parametrize("domain", DOMAINS)
def test_infinite_and_nan_membranes(reset: str, threshold: float, at_threshold: bool, domain: Any) -> None:
    cases = product(CHARGES, (0, 1, 3), EXTENSIONS, (False, True))
    for number, (charge, degree, extension, divides) in enumerate(cases):
        if domain is None and extension != EXTENSIONS[0]:
            continue
        case = Case(
            Law(charge, reset, None, domain, extension, at_threshold, divides),
            x=np.asarray([[[math.inf, -math.inf, math.nan, 1.0]], [[0.5] * 4], [[0.25] * 4]], np.float32),
            theta=np.asarray([0.5, -0.5, 0.25, -0.25][: degree + 1], np.float32),
            threshold=threshold,
            gain=0.75,
        )
        check(case, backends=BACKENDS if rotation.is_due(number, 36) else BACKENDS[:1])


@pytest.mark.parametrize("gain", [-1.0, -0.0, 0.0, math.inf, -math.inf])
def test_a_gain_that_is_no_positive_number(gain: float) -> None:
    """Below zero the range of the slope is empty: its lower end is asked first. At ±0 and ±inf it is 0 or infinite."""
    for charge, divides, slope in product(CHARGES, (False, True), (-1.0, 0.5, 4.0)):
        law = Law(charge, "none", domain=(-0.25, 0.25), gain_divides=divides)
        theta = np.asarray([0.25, slope, 0.5], np.float32)
        check(Case(law, np.full((1, 1, 1), 0.5, np.float32), theta, gain=gain, v=np.full((1, 1), 2, np.float32)))


@pytest.mark.parametrize("reset", ["none", "hard"])
@pytest.mark.parametrize("infinity", [math.inf, -math.inf])
def test_infinity_at_an_infinite_threshold(infinity: float, reset: str) -> None:
    """No spike: inf ≥ inf is true, but u = h - ϑ is what the law compares, and NaN ≥ 0 is not."""
    x = np.full((2, 1, 1), infinity, np.float32)
    law = Law("map", reset, fire_at_threshold=True)
    want = check(Case(law, x, np.asarray([0.0, 1.0], np.float32), threshold=infinity))
    assert (want["h"] == infinity).all()
    assert not want["s"].any()


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("synapse", SYNAPSES)
@pytest.mark.parametrize("shape", [(0, 2, 3), (1, 2, 3), (3, 0, 3), (3, 2, 0), (0, 0, 3), (2, 0, 3, 2), (1, 1, 1)])
def test_sizes_zero_and_one(
    shape: tuple[int, ...], synapse: str | None, dtype: Any, memory: Callable[[Tensor], Tensor]
) -> None:
    for reset, started in product(RESETS, (False, True)):
        charge = CHARGES[(RESETS.index(reset) + started) % 3]
        case = Case(
            Law(charge, reset, synapse, (-1.0, 1.0), gain_divides=started),
            x=np.full(shape, 0.75, dtype),
            theta=np.asarray([0.25, -0.5, 0.5], dtype),
            alpha=0.5 if synapse else None,
            v=np.full(shape[1:], 1.5, dtype) if started else None,
            current=np.full(shape[1:], 0.5, dtype) if started and synapse else None,
        )
        check(case, memory=memory)
