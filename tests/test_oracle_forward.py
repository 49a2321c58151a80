"""The engines give the bits of `oracle.py`, the law written a second time, whatever the options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import rotation
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from oracle import Law
from oracle_cases import (
    BACKENDS,
    CHARGES,
    DOMAINS,
    EXTENSIONS,
    HALF,
    MEMORY,
    PARAMETERS,
    RESETS,
    SYNAPSES,
    Case,
    by_hand,
    cases,
    check,
    eighths,
    slope_range,
)
from torch import Tensor

# Every combination of options, on eighths: small enough for ties to happen by themselves.


def laws(charge: str, reset: str) -> Iterator[tuple[Law, int]]:
    for synapse, domain, at_threshold, degree in product(SYNAPSES, DOMAINS, (False, True), range(9)):
        for extension in EXTENSIONS if domain else EXTENSIONS[:1]:
            yield Law(charge, reset, synapse, domain, extension, at_threshold), degree


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("charge", "reset"), list(product(CHARGES, RESETS)))
def test_every_combination_of_options(charge: str, reset: str, dtype: Any) -> None:
    """Both dtypes meet the same options, but for the gain: it multiplies in one where it divides in the other."""
    rng = np.random.default_rng(7)
    seen: Counter[str] = Counter()
    for number, (law, degree) in enumerate(laws(charge, reset)):
        due = rotation.is_due(number, 400)  # a kernel is compiled for each; the definition meets them all
        law = replace(law, gain_divides=bool(rng.integers(2)) == (dtype is np.float64))
        draw = partial(eighths, rng, dtype=dtype)
        sparse = rng.integers(0, 2, (8, 1))  # half of the neurons are linear or flat: theirs are the ties
        theta = draw(-1.5, 1.5, (8, degree + 1))
        theta[:, 1:2] *= 2
        theta[:, 2:] *= sparse
        case = Case(
            law,
            x=draw(-1.5, 1.5, (4, 1, 8)),
            theta=theta,
            threshold=draw(0.25, 1.5, (8,)),
            v_reset=draw(-0.5, 0.5, (8,)),
            gain=np.where(sparse[:, 0], 2 * draw(0.125, 1, (8,)), dtype(2) ** rng.integers(-2, 2, 8)).astype(dtype),
            alpha=draw(0, 1, (8,)) if law.synapse else None,
            v=draw(-1.75, 1.75, (1, 8)),
            current=draw(-1, 1, (1, 8)) if law.synapse else None,
        )
        want = check(case, backends=BACKENDS if due else BACKENDS[:1])
        seen["h at the threshold"] += int((want["h"] == case.threshold).sum())
        seen["v at the threshold"] += int((case.v == case.threshold).sum())
        seen["spikes"] += int(want["s"].sum())
        seen["silences"] += int((1 - want["s"]).sum())
        if law.domain:
            low, high = law.domain
            where = want["u"][:, 0]
            seen["at the lower edge"] += int((where == low).sum())
            seen["at the upper edge"] += int((where == high).sum())
            seen[f"outside, {law.extension}"] += int(((where < low) | (where > high)).sum())
            seen["inside"] += int(((where > low) & (where < high)).sum())
            if law.extension == "line" and degree > 0:
                linear = case.theta[:, 1]
                end, top = slope_range(law, case.gain)
                for name, chosen in {
                    "below": linear < end,
                    "within": (linear > end) & (linear < top),
                    "above": linear > top,
                }.items():
                    seen[f"outside, slope {name} its range"] += int(((where < low) | (where > high))[:, chosen].sum())
    rare = {what: n for what, n in seen.items() if n < 10}
    assert len(seen) == 12, seen
    assert not rare, rare


# Whatever Hypothesis can find.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(st.data(), st.sampled_from(MEMORY))
def test_whatever_comes(dtype: Any, data: st.DataObject, memory: Callable[[Tensor], Tensor]) -> None:
    case = data.draw(cases(dtype))
    event(f"theta of {case.theta.ndim} dimensions for {case.x.ndim - 2} of neurons")
    check(case, memory=memory)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(st.data())
def test_bare_polynomials_that_overflow(dtype: Any, data: st.DataObject) -> None:
    """The sequence goes on after infinity; what it makes of it (0·inf, inf - inf) is the law's, too."""
    want = check(data.draw(cases(dtype, bare_and_large=True)))
    event("nan" if np.isnan(want["h"]).any() else "inf" if np.isinf(want["h"]).any() else "finite")


@pytest.mark.parametrize("dtype", HALF)
@given(st.data(), st.sampled_from(MEMORY))
def test_half_inputs_compute_in_float32(
    dtype: torch.dtype, data: st.DataObject, memory: Callable[[Tensor], Tensor]
) -> None:
    case = data.draw(cases(np.float32))
    rounded = torch.from_numpy(case.x).to(dtype).to(torch.float32)
    check(replace(case, x=rounded.numpy()), dtype, memory)


# Layouts, each parameter on its own.


@pytest.mark.parametrize("neurons", [(3,), (3, 2), (3, 2, 2)])
@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("layout", ["layer", "channel", "neuron"])
def test_layouts(neurons: tuple[int, ...], name: str, layout: str) -> None:
    laws = rotation.some(product(CHARGES, ("hard", "soft_next"), SYNAPSES[1:], (False, True)), 4)
    rng = np.random.default_rng(11)
    shapes: dict[str, tuple[int, ...]] = {"layer": (), "channel": neurons[:1], "neuron": neurons}
    spread = {"theta": (-1, 1), "threshold": (0.125, 1.5), "v_reset": (-1, 1), "gain": (0.25, 1.25), "alpha": (0, 1)}
    for charge, reset, synapse, divides in laws:
        shape = (*shapes[layout], 4) if name == "theta" else shapes[layout]
        value = rng.uniform(*spread[name], shape).astype(np.float32)
        assert len(np.unique(value)) == value.size  # reading the wrong entry cannot go unseen
        case = Case(
            Law(charge, reset, synapse, (-1.5, 1.5), gain_divides=divides),
            x=eighths(rng, -2, 2, (4, 2, *neurons), np.float32),
            theta=np.asarray([0.25, -0.5, 0.5, -0.25], np.float32),
            alpha=0.5,
        )
        check(replace(case, **{name: np.asarray(value)}), memory=MEMORY[rng.integers(len(MEMORY))])


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("neurons", [(67,), (3, 41), (5, 3, 7)])
def test_more_neurons_than_a_vector_holds(neurons: tuple[int, ...], memory: Callable[[Tensor], Tensor]) -> None:
    """Sizes that leave a remainder for any vector width, and every parameter its own per neuron."""
    rng = np.random.default_rng(3)
    forms = (("drift", "hard"), ("map", "soft_next"), ("residual", "hard_next"))
    for dtype, (charge, reset), divides in product((np.float32, np.float64), forms, (False, True)):
        draw = partial(eighths, rng, dtype=dtype)
        case = Case(
            Law(charge, reset, "decay", (-1.0, 1.25), gain_divides=divides),
            x=draw(-2, 2, (2, 3, *neurons)),
            theta=draw(-1, 1, (*neurons, 4)),
            threshold=draw(0.25, 1.25, neurons),
            v_reset=draw(-0.5, 0.5, neurons),
            gain=draw(0.125, 1.25, neurons),
            alpha=draw(0, 1, neurons),
        )
        check(case, memory=memory)


# By hand.


def test_synapses_by_hand() -> None:
    pulse, leak = [1.0, 0.0, 0.0], [0.0, 0.0]  # map with f = 0: h is the current
    by_hand(Law("map", "none", "decay"), pulse, h=[1, 0.25, 0.0625], s=[0, 0, 0], end=0.0625, theta=leak, alpha=0.25)
    by_hand(Law("map", "none", "euler"), pulse, h=[1, 0.75, 0.5625], s=[0, 0, 0], end=0.5625, theta=leak, alpha=0.25)


def test_charges_by_hand() -> None:
    """f(1) = -1, c = 1/4; and where the order of roundings shows: 2^-24 twice, one by one or together, after 1."""
    falling = {"theta": [-0.5, -0.5], "start": 1.0, "gain": 0.5}
    for charge, times, divided in (("drift", 0.625, -0.5), ("map", -0.875, -0.5), ("residual", 0.75, -0.75)):
        law = Law(charge, "none")
        by_hand(law, [0.25], h=[times], s=[0], end=times, **falling)
        by_hand(replace(law, gain_divides=True), [0.25], h=[divided], s=[0], end=divided, **falling)
    little = 2.0**-24
    for charge, h in (("drift", 1 + 2 * little), ("residual", 1)):
        by_hand(Law(charge, "none"), [little], h=[h], s=[int(h > 1)], end=h, theta=[little], start=1)


def test_division_is_not_the_product_with_an_inverse() -> None:
    """5/3 in float32 is one unit off 5·(1/3)."""
    five, three = np.float32(5), np.float32(3)
    assert five / three != five * (1 / three)
    third = float(five / three)
    law = Law("map", "none", gain_divides=True)
    by_hand(law, [5.0], h=[third], s=[1], end=third, theta=[0.0], gain=3.0)
    by_hand(replace(law, charge="drift"), [5.0], h=[third], s=[1], end=third, theta=[0.0], gain=3.0)
    by_hand(replace(law, charge="residual"), [0.0], h=[third], s=[1], end=third, theta=[5.0], gain=3.0)
