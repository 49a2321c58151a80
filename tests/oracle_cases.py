"""What the tests of the oracle share: problems as arrays, and the engines held to the oracle's bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import oracle
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import Law
from torch import Tensor

from snn_lnm import functional
from snn_lnm.parameters import State
from snn_lnm.testing.strategies import any_form

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
        backend=backend,
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
    case: Case,
    dtype: torch.dtype | None = None,
    memory: Callable[[Tensor], Tensor] = contiguous,
    backends: Sequence[str] = BACKENDS,
) -> dict[str, np.ndarray]:
    want = expected(case)
    for backend in backends:
        got = compute(case, backend, dtype, memory)
        assert got.spikes.dtype == (dtype or torch.from_numpy(case.x).dtype), backend
        same(got.spikes.to(got.membrane.dtype), want["s"], f"{backend}: spikes")
        same(got.membrane, want["h"], f"{backend}: membrane")
        same(got.state.v, want["v"], f"{backend}: last v")
        if case.law.synapse:
            assert got.state.current is not None
            same(got.state.current, want["current"], f"{backend}: last current")
        else:
            assert got.state.current is None
    return want


def eighths(rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return (rng.integers(int(8 * low), int(8 * high) + 1, shape) / 8).astype(dtype)


def slope_range(law: Law, gain: Any) -> tuple[Any, Any]:
    """The ends of λ, for the tests to know which case they met."""
    if law.charge == "map":
        return -1 + 0 * gain, 1
    return -2 * gain if law.gain_divides else -2 / gain, 0


def numbers(width: int, low: float, high: float) -> st.SearchStrategy[float]:
    """Eighths, which tie, and any number of the dtype, subnormals and -0 included."""
    eighth = st.integers(math.ceil(8 * low), math.floor(8 * high)).map(lambda k: k / 8)
    return st.one_of(eighth, st.floats(low, high, width=width))


@st.composite
def cases(draw: st.DrawFn, dtype: Any, bare_and_large: bool = False) -> Case:
    width = 8 * np.dtype(dtype).itemsize
    form, domain = draw(any_form()), None
    if form.bounded and not bare_and_large:
        edges = st.one_of(
            st.sampled_from(DOMAINS[1:]),
            numbers(width, 0.125, 4).map(lambda a: (-a, a)),
            st.tuples(numbers(width, -4, -0.125), numbers(width, 0, 3)),
            st.just((0.25, 1.5)),
        )
        domain = draw(edges)
    law = Law(form.charge, form.reset, form.synapse, domain, form.extension, form.fire_at_threshold, form.gain_divides)
    neurons = draw(st.sampled_from([(2,), (5,), (2, 3), (2, 1), (2, 1, 2)]))
    batch = draw(st.integers(1, 2))
    degree = max(2, form.degree) if bare_and_large else form.degree
    layouts = {"layer": (), "channel": neurons[:1], "neuron": neurons}

    def values(shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        return draw(hnp.arrays(dtype, shape, elements=numbers(width, low, high)))

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
        x=values((draw(st.integers(1, 4)), batch, *neurons), x_low, x_high),
        theta=values((*layouts[draw(st.sampled_from(list(layouts)))], degree + 1), -2, 2),
        threshold=parameter(-1, 3),
        v_reset=parameter(-2, 2),
        gain=parameter(0.125, 2),
        alpha=parameter(-1, 2) if law.synapse else None,
        v=values((batch, *neurons), -4, 4) if started else None,
        current=values((batch, *neurons), -4, 4) if started and law.synapse else None,
    )


# Numbers worked out on paper, so that oracle and engines cannot be wrong together.


def by_hand(
    law: Law, x: list[float], h: list[float], s: list[int], end: float, start: float = 0.0, **given_: Any
) -> None:
    case = Case(law, np.asarray(x, np.float32).reshape(-1, 1, 1), **{"theta": np.asarray([0.0, 1.0], np.float32)})
    case = replace(case, **{k: np.asarray(n, np.float32) if k == "theta" else n for k, n in given_.items()})
    want = check(replace(case, v=np.full((1, 1), start, np.float32)))
    assert want["h"].flatten().tolist() == h, want
    assert want["s"].flatten().tolist() == s, want
    assert want["v"].item() == end, want
