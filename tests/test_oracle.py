"""The engines against `oracle.py`, the law written a second time: the same bits, and true gradients."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import Law
from torch import Tensor

from snn_lnm import functional, surrogate
from snn_lnm.parameters import State

BACKENDS = ("reference", "cpp")
CHARGES = ("drift", "map", "residual")
RESETS = ("hard", "soft", "none", "hard_next", "soft_next")
SYNAPSES = (None, "decay", "euler")
DOMAINS = (None, (-1.0, 1.0), (-0.5, 1.25))
EXTENSIONS = ("line", "constant")
HALF = (torch.bfloat16, torch.float16)
PARAMETERS = ("theta", "threshold", "v_reset", "gain", "alpha")


@dataclass(frozen=True)
class Case:
    """A sequence with its parameters, as arrays of the arithmetic dtype (parameters may be Python numbers)."""

    law: Law
    x: np.ndarray  # [T, B, *neurons]
    theta: np.ndarray  # [D+1], [C, D+1] or [*neurons, D+1]
    threshold: Any = 1.0  # these four: a number, [], [C] or [*neurons]
    v_reset: Any = 0.0
    gain: Any = 1.0
    alpha: Any = None
    v: np.ndarray | None = None  # [B, *neurons]
    current: np.ndarray | None = None


def pick(value: Any, index: tuple[int, ...], neurons: int) -> Any:
    """What the neuron `index` = (batch, channel, ...) sees of a parameter in one of the three layouts."""
    value = np.asarray(value)
    return value[index[1:]] if value.ndim == neurons else value[index[1]] if value.ndim else value[()]


def expected(case: Case) -> dict[str, np.ndarray]:
    """The oracle, neuron by neuron; "u" are the points at which the polynomial was asked for."""
    dtype = case.x.dtype.type
    shape = case.x.shape[1:]
    domain = case.law.domain and tuple(dtype(edge) for edge in case.law.domain)
    law = replace(case.law, domain=domain)
    out = {name: np.zeros(case.x.shape, dtype) for name in ("u", "h", "s")}
    out["v"] = np.zeros(shape, dtype) if case.v is None else case.v.copy()
    out["current"] = np.zeros(shape, dtype) if case.current is None else case.current.copy()
    with np.errstate(all="ignore"):
        for index in np.ndindex(*shape):
            at = partial(pick, index=index, neurons=len(shape) - 1)
            width = case.theta.shape[-1]
            steps = oracle.run(
                case.x[(slice(None), *index)],
                [dtype(at(case.theta[..., k])) for k in range(width)],
                *(dtype(at(value)) for value in (case.threshold, case.v_reset, case.gain)),
                None if case.alpha is None else dtype(at(case.alpha)),
                out["v"][index],
                out["current"][index],
                law,
            )
            for name in ("u", "h", "s"):
                out[name][(slice(None), *index)] = [getattr(step, name) for step in steps]
            if steps:
                out["v"][index], out["current"][index] = steps[-1].v, steps[-1].current
    return out


def contiguous(t: Tensor) -> Tensor:
    return t


def time_last(t: Tensor) -> Tensor:
    """The same values, the first dimension innermost in memory."""
    return t.movedim(0, -1).contiguous().movedim(-1, 0) if t.dim() else t


def transposed(t: Tensor) -> Tensor:
    """The same values, all dimensions in reverse order in memory."""
    order = tuple(reversed(range(t.dim())))
    return t.permute(order).contiguous().permute(order)


def gaps(t: Tensor) -> Tensor:
    """The same values, between NaNs that nobody may read."""
    return torch.stack([torch.full_like(t, math.nan), t], -1)[..., 1]


MEMORY = (contiguous, time_last, transposed, gaps)


def options(law: Law) -> dict[str, Any]:
    return {
        "charge": law.charge,
        "reset": law.reset,
        "domain": law.domain,
        "extension": law.extension,
        "fire_at_threshold": law.fire_at_threshold,
        "gain_divides": law.gain_divides,
        **({"synapse": law.synapse} if law.synapse else {}),
    }


def compute(
    case: Case, backend: str, dtype: torch.dtype | None = None, memory: Callable[[Tensor], Tensor] = contiguous
) -> functional.Output:
    def tensor(value: Any) -> Any:
        return memory(torch.from_numpy(np.asarray(value).copy())) if isinstance(value, np.ndarray) else value

    x = torch.from_numpy(case.x.copy())
    state = None if case.v is None else State(tensor(case.v), tensor(case.current))
    parameters = {name: tensor(getattr(case, name)) for name in PARAMETERS[1:]}
    return functional.lnm(
        memory(x if dtype is None else x.to(dtype)),
        tensor(case.theta),
        state=state,
        backend=backend,  # type: ignore[arg-type]
        **parameters,
        **options(case.law),
    )


def same(ours: Tensor, oracles: np.ndarray, what: str) -> None:
    """Equal bits, except that any NaN equals any other and -0 equals 0."""
    theirs = torch.from_numpy(oracles)
    assert ours.dtype == theirs.dtype, what
    assert ours.shape == theirs.shape, what
    assert torch.equal(ours.isnan(), theirs.isnan()), f"{what}: {ours} instead of {theirs}"
    assert torch.equal(ours.masked_fill(ours.isnan(), 0), theirs.masked_fill(theirs.isnan(), 0)), (
        f"{what}: {ours} instead of {theirs}"
    )


def check(
    case: Case, dtype: torch.dtype | None = None, memory: Callable[[Tensor], Tensor] = contiguous
) -> dict[str, np.ndarray]:
    want = expected(case)
    for backend in BACKENDS:
        got = compute(case, backend, dtype, memory)
        assert got.spikes.dtype == (dtype or torch.from_numpy(case.x).dtype)
        same(got.spikes.to(got.membrane.dtype), want["s"], f"{backend}: spikes")
        same(got.membrane, want["h"], f"{backend}: membrane")
        same(got.state.v, want["v"], f"{backend}: last v")
        if case.law.synapse:
            assert got.state.current is not None
            same(got.state.current, want["current"], f"{backend}: last current")
        else:
            assert got.state.current is None
    return want


# Every combination of options, on eighths: small enough for ties to happen by themselves.


def laws(charge: str, reset: str) -> Iterator[tuple[Law, int]]:
    for synapse, domain, at_threshold, degree in product(SYNAPSES, DOMAINS, (False, True), range(9)):
        for extension in EXTENSIONS if domain else EXTENSIONS[:1]:
            yield Law(charge, reset, synapse, domain, extension, at_threshold), degree


def eighths(rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return (rng.integers(int(8 * low), int(8 * high) + 1, shape) / 8).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("charge", "reset"), list(product(CHARGES, RESETS)))
def test_every_combination_of_options(charge: str, reset: str, dtype: Any) -> None:
    """Both dtypes meet the same options, but for the gain: it multiplies in one where it divides in the other."""
    rng = np.random.default_rng(7)
    seen: Counter[str] = Counter()
    for law, degree in laws(charge, reset):
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
        want = check(case)
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


def slope_range(law: Law, gain: Any) -> tuple[Any, Any]:
    """The ends of λ, for the tests to know which case they met."""
    if law.charge == "map":
        return -1 + 0 * gain, 1
    return -2 * gain if law.gain_divides else -2 / gain, 0


# Whatever Hypothesis can find.


def numbers(width: int, low: float, high: float) -> st.SearchStrategy[float]:
    """Eighths, which tie, and any number of the dtype, subnormals and -0 included."""
    eighth = st.integers(math.ceil(8 * low), math.floor(8 * high)).map(lambda k: k / 8)
    return st.one_of(eighth, st.floats(low, high, width=width))  # type: ignore[arg-type]


@st.composite
def cases(draw: st.DrawFn, dtype: Any, x_width: int | None = None, bare_and_large: bool = False) -> Case:
    width = 8 * np.dtype(dtype).itemsize
    domain = None
    if not bare_and_large:
        edges = st.one_of(
            st.none(),
            st.sampled_from(DOMAINS[1:]),
            numbers(width, 0.125, 4).map(lambda a: (-a, a)),
            st.tuples(numbers(width, -4, -0.125), numbers(width, 0, 3)),
            st.just((0.25, 1.5)),
        )
        domain = draw(edges)
    law = Law(
        draw(st.sampled_from(CHARGES)),
        draw(st.sampled_from(RESETS)),
        draw(st.sampled_from(SYNAPSES)),
        domain,
        draw(st.sampled_from(EXTENSIONS)),
        draw(st.booleans()),
        draw(st.booleans()),
    )
    neurons = draw(st.sampled_from([(2,), (5,), (2, 3), (2, 1), (2, 1, 2)]))
    batch = draw(st.integers(1, 2))
    degree = draw(st.integers(2 if bare_and_large else 0, 8))
    layouts = {"layer": (), "channel": neurons[:1], "neuron": neurons}
    array = partial(hnp.arrays, dtype)

    def values(shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        return draw(array(shape, elements=numbers(width, low, high)))

    def parameter(low: float, high: float) -> Any:
        layout = draw(st.sampled_from(["number", *layouts]))
        if layout == "number":
            return draw(numbers(width, low, high))
        return values(layouts[layout], low, high)

    huge = 2.0 ** (60 if width == 32 else 500)
    x_low, x_high = (-huge, huge) if bare_and_large else (-3, 3)
    started = draw(st.booleans())
    return Case(
        law,
        x=draw(
            hnp.arrays(
                dtype,
                (draw(st.integers(1, 4)), batch, *neurons),
                elements=numbers(x_width or width, x_low, x_high),
            )
        ),
        theta=values((*layouts[draw(st.sampled_from(list(layouts)))], degree + 1), -2, 2),
        threshold=parameter(-1, 3),
        v_reset=parameter(-2, 2),
        gain=parameter(0.125, 2),
        alpha=parameter(-1, 2) if law.synapse else None,
        v=values((batch, *neurons), -4, 4) if started else None,
        current=values((batch, *neurons), -4, 4) if started and law.synapse else None,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(st.data(), st.sampled_from(MEMORY))
@settings(max_examples=400)
def test_whatever_comes(dtype: Any, data: st.DataObject, memory: Callable[[Tensor], Tensor]) -> None:
    case = data.draw(cases(dtype))
    event(f"theta of {case.theta.ndim} dimensions for {case.x.ndim - 2} of neurons")
    check(case, memory=memory)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(st.data())
@settings(max_examples=200)
def test_bare_polynomials_that_overflow(dtype: Any, data: st.DataObject) -> None:
    """The sequence goes on after infinity; what it makes of it (0·inf, inf - inf) is the law's, too."""
    want = check(data.draw(cases(dtype, bare_and_large=True)))
    event("nan" if np.isnan(want["h"]).any() else "inf" if np.isinf(want["h"]).any() else "finite")


@pytest.mark.parametrize("dtype", HALF)
@given(st.data(), st.sampled_from(MEMORY))
@settings(max_examples=100)
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
    rng = np.random.default_rng(11)
    shapes: dict[str, tuple[int, ...]] = {"layer": (), "channel": neurons[:1], "neuron": neurons}
    spread = {"theta": (-1, 1), "threshold": (0.125, 1.5), "v_reset": (-1, 1), "gain": (0.25, 1.25), "alpha": (0, 1)}
    for charge, reset, synapse, memory in product(CHARGES, ("hard", "soft_next"), SYNAPSES[1:], MEMORY):
        shape = (*shapes[layout], 4) if name == "theta" else shapes[layout]
        value = rng.uniform(*spread[name], shape).astype(np.float32)
        assert len(np.unique(value)) == value.size  # reading the wrong entry cannot go unseen
        case = Case(
            Law(charge, reset, synapse, (-1.5, 1.5), gain_divides=bool(rng.integers(2))),
            x=eighths(rng, -2, 2, (4, 2, *neurons), np.float32),
            theta=np.asarray([0.25, -0.5, 0.5, -0.25], np.float32),
            alpha=0.5,
        )
        check(replace(case, **{name: np.asarray(value)}), memory=memory)


# By hand: numbers worked out on paper, so that oracle and engines cannot be wrong together.


def by_hand(
    law: Law, x: list[float], h: list[float], s: list[int], end: float, start: float = 0.0, **given_: Any
) -> None:
    case = Case(law, np.asarray(x, np.float32).reshape(-1, 1, 1), **{"theta": np.asarray([0.0, 1.0], np.float32)})
    case = replace(case, **{k: np.asarray(n, np.float32) if k == "theta" else n for k, n in given_.items()})
    want = check(replace(case, v=np.full((1, 1), start, np.float32)))
    assert want["h"].flatten().tolist() == h
    assert want["s"].flatten().tolist() == s
    assert want["v"].item() == end


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
    for charge, degree, extension, divides in product(CHARGES, (0, 1, 3), EXTENSIONS, (False, True)):
        if domain is None and extension != EXTENSIONS[0]:
            continue
        case = Case(
            Law(charge, reset, None, domain, extension, at_threshold, divides),
            x=np.asarray([[[math.inf, -math.inf, math.nan, 1.0]], [[0.5] * 4], [[0.25] * 4]], np.float32),
            theta=np.asarray([0.5, -0.5, 0.25, -0.25][: degree + 1], np.float32),
            threshold=threshold,
            gain=0.75,
        )
        check(case)


@pytest.mark.parametrize("gain", [-1.0, -0.0, 0.0, math.inf, -math.inf])
def test_a_gain_that_is_no_positive_number(gain: float) -> None:
    """Below zero the range of the slope is empty and its lower end wins; at ±0 and ±inf that end is 0 or infinite."""
    for charge, divides, slope in product(CHARGES, (False, True), (-1.0, 0.5)):
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


# Gradients of smooth mode: central differences of the oracle against autograd.

UNIT = 2.0**-53


class Rounded:
    """A float64 with a bound on how far rounding has taken it from the exact result (running error analysis)."""

    def __init__(self, value: float, error: float = 0.0) -> None:
        self.value, self.error = value, error

    def __add__(self, other: Any) -> Rounded:
        b = rounded(other)
        value = self.value + b.value
        return Rounded(value, self.error + b.error + UNIT * abs(value))

    def __mul__(self, other: Any) -> Rounded:
        b = rounded(other)
        value = self.value * b.value
        carried = abs(self.value) * b.error + abs(b.value) * self.error + self.error * b.error
        return Rounded(value, carried + UNIT * abs(value))

    def __truediv__(self, other: Any) -> Rounded:
        b = rounded(other)
        value = self.value / b.value
        return Rounded(value, (self.error + abs(value) * b.error) / (abs(b.value) - b.error) + UNIT * abs(value))

    def apply(self, function: Callable[[float], float]) -> Rounded:
        """A libm function of slope at most 1, right to 4 units."""
        value = function(self.value)
        return Rounded(value, self.error + 4 * UNIT * abs(value))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Rounded:
        return Rounded(-self.value, self.error)

    def __sub__(self, other: Any) -> Rounded:
        return self + -rounded(other)

    def __rsub__(self, other: Any) -> Rounded:
        return rounded(other) + -self

    def __rtruediv__(self, other: Any) -> Rounded:
        return rounded(other) / self

    def __abs__(self) -> Rounded:
        return Rounded(abs(self.value), self.error)

    def __lt__(self, other: Any) -> bool:
        return self.value < rounded(other).value

    def __le__(self, other: Any) -> bool:
        return self.value <= rounded(other).value

    def __gt__(self, other: Any) -> bool:
        return self.value > rounded(other).value

    def __ge__(self, other: Any) -> bool:
        return self.value >= rounded(other).value


def rounded(number: Any) -> Rounded:
    return number if isinstance(number, Rounded) else Rounded(float(number))


def ramp(u: Any, width: float) -> Any:
    """Integral of a triangle of half-width `width` and area 1."""
    if abs(u) >= width:
        return int(u > 0)
    return 0.5 + u / width - u * abs(u) / (2 * width * width)


# Each surrogate with its primitive as documented, and where that is not smooth.
SMOOTH: list[tuple[surrogate.Surrogate, Callable[[Any], Any], tuple[float, ...]]] = [
    (surrogate.ATan(1.5), lambda u: (math.pi / 2 * 1.5 * u).apply(math.atan) / math.pi + 0.5, ()),
    (surrogate.Sigmoid(3.0), lambda u: 0.5 * (1 + (3.0 * u / 2).apply(math.tanh)), ()),
    (surrogate.FastSigmoid(2.0), lambda u: u / (1 + 2.0 * abs(u)) + 0.5, (0.0,)),
    (surrogate.SuperSpike(3.0), lambda u: u / (1 + 3.0 * abs(u)) + 0.5, (0.0,)),
    (surrogate.Triangle(1.5), lambda u: ramp(u, 1.5), (-1.5, 0.0, 1.5)),
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
        backend=backend,  # type: ignore[arg-type]
        surrogate=instance,
        smooth=True,
        detach_reset=False,
        **options(law),
    )
    terms = torch.stack([out.membrane, out.spikes], 1).flatten()
    last = torch.stack([out.state.v, torch.zeros(1, 1) if out.state.current is None else out.state.current]).flatten()
    loss = torch.cat([terms, last]) @ torch.from_numpy(weights)
    grads = torch.autograd.grad(loss, list(t.values()), allow_unused=True, materialize_grads=True)
    return {name: grad.numpy() for name, grad in zip(t, grads, strict=True)}


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
    for (instance, primitive, kinks), synapse, (domain, extension) in product(SMOOTH, SYNAPSES, regions):
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
        for backend in BACKENDS:
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


class Dual:
    """An exact number with its derivatives with respect to the leaves of one neuron."""

    def __init__(self, value: Any, slopes: dict[Any, Fraction] | None = None) -> None:
        self.value = value if isinstance(value, Fraction) else Fraction(float(value))
        self.slopes = slopes or {}

    def chain(self, other: Any, value: Fraction, by_self: Any, by_other: Any) -> Dual:
        slopes = {leaf: by_self * slope for leaf, slope in self.slopes.items()}
        for leaf, slope in dual(other).slopes.items():
            slopes[leaf] = slopes.get(leaf, 0) + by_other * slope
        return Dual(value, slopes)

    def __add__(self, other: Any) -> Dual:
        return self.chain(other, self.value + dual(other).value, 1, 1)

    def __sub__(self, other: Any) -> Dual:
        return self.chain(other, self.value - dual(other).value, 1, -1)

    def __mul__(self, other: Any) -> Dual:
        return self.chain(other, self.value * dual(other).value, dual(other).value, self.value)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Dual:
        return -1 * self

    def __rsub__(self, other: Any) -> Dual:
        return other + -self

    def __truediv__(self, other: Any) -> Dual:
        by = dual(other).value
        return self.chain(other, self.value / by, 1 / by, -self.value / by**2)

    def __rtruediv__(self, other: Any) -> Dual:
        return dual(other) / self

    def __lt__(self, other: Any) -> bool:
        return self.value < dual(other).value

    def __le__(self, other: Any) -> bool:
        return self.value <= dual(other).value

    def __gt__(self, other: Any) -> bool:
        return self.value > dual(other).value

    def __ge__(self, other: Any) -> bool:
        return self.value >= dual(other).value


def dual(number: Any) -> Dual:
    return number if isinstance(number, Dual) else Dual(number)


def rectangle(u: Fraction) -> Fraction:
    return Fraction(int(abs(u) < 1), 2)


def triangle(u: Fraction) -> Fraction:
    return max(Fraction(0), 1 - abs(u) / 2) / 2


EXACT: list[tuple[surrogate.Surrogate, Callable[[Fraction], Fraction]]] = [
    (surrogate.Rectangle(2.0), rectangle),
    (surrogate.Triangle(2.0), triangle),
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
        backend=backend,  # type: ignore[arg-type]
        surrogate=instance,
        detach_reset=detach_reset,
        **options(case.law),
    )
    outputs = {"s": out.spikes, "h": out.membrane, "v": out.state.v, "current": out.state.current}
    loss = torch.stack(
        [(torch.from_numpy(weights[name]) * value).sum() for name, value in outputs.items() if value is not None]
    ).sum()
    grads = torch.autograd.grad(loss, list(t.values()), allow_unused=True, materialize_grads=True)
    return {name: grad.numpy() for name, grad in zip(t, grads, strict=True)}


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize(("charge", "reset"), list(product(CHARGES, RESETS)))
def test_spiking_gradients_to_the_bit(charge: str, reset: str, detach_reset: bool) -> None:
    """On a few halves nothing is rounded, so that every gradient is a fraction which floats hold exactly.

    Ties are meant: the edges of the domain, and a slope at the end of its range, belong to the inside.
    """
    rng = np.random.default_rng(13)
    seen: Counter[str] = Counter()
    for synapse, domain, extension, layout in product(SYNAPSES, DOMAINS, EXTENSIONS, range(3)):
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
        case.theta[..., 1:2] = rng.choice([-4, -2.5, -2, -1, -0.5, 0, 1, 1.5], case.theta[..., 1:2].shape)
        weights = {name: draw(-1, 1, case.x.shape) for name in ("s", "h")}
        weights |= {name: draw(-1, 1, case.x.shape[1:]) for name in ("v", "current")}
        want = exact_gradients(case, spiking(law, derivative, detach_reset), weights)
        for backend in BACKENDS:
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


# Surrogates.

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
