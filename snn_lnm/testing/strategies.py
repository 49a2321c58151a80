"""Hypothesis strategies for neurons: whole problems, drawn as a user would meet them.

Import it explicitly; it needs `hypothesis`.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple, cast, get_args

import torch
from hypothesis import strategies as st
from torch import Tensor

from snn_lnm import surrogate as surrogates
from snn_lnm.checks import MAX_DEGREE
from snn_lnm.parameters import Charge, Dynamics, Extension, Parameters, Reset, State, Synapse

__all__ = ["Form", "Problem", "dynamics", "forms", "identical", "problems"]

LAYOUTS = ("layer", "channel", "neuron")
DOMAINS = (None, (-1.5, 1.5), (-0.5, 0.75))
SHAPES = ((1, 1), (2, 3), (3, 17), (2, 3, 5), (1, 2, 3, 3))


class Problem(NamedTuple):
    """Arguments of :func:`snn_lnm.functional.run`."""

    x: Tensor
    state: State
    parameters: Parameters
    dynamics: Dynamics


def identical(a: Tensor, b: Tensor) -> bool:
    """Same dtype, shape and values; NaN equals NaN (the bare polynomial may run away)."""
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


class Form(NamedTuple):
    """What an engine compiles a kernel for."""

    charge: str
    reset: str
    detach_reset: bool
    fire_at_threshold: bool
    synapse: str | None
    surrogate: str
    bounded: bool
    extension: str
    gain_divides: bool
    degree: int


_VALUES: dict[str, Sequence[Any]] = {
    "charge": get_args(Charge),
    "reset": get_args(Reset),
    "detach_reset": (True, False),
    "fire_at_threshold": (False, True),
    "synapse": (None, *get_args(Synapse)),
    "surrogate": surrogates.available(),
    "bounded": (True, True, False),
    "extension": get_args(Extension),
    "gain_divides": (False, True),
    "degree": range(MAX_DEGREE + 1),
}
FORMS: list[Form] = []
"""What :func:`problems` draws from; empty: from all. A kernel is compiled for each, so a suite keeps to few."""


def forms(count: int, seed: int | str) -> list[Form]:
    """So many forms, in which every value of every option comes up about equally often."""
    random = Random(seed)

    def column(values: Sequence[Any]) -> list[Any]:
        start = random.randrange(len(values))
        chosen = [values[(start + k) % len(values)] for k in range(count)]
        random.shuffle(chosen)
        return chosen

    return [Form(*row) for row in zip(*map(column, _VALUES.values()), strict=True)]


@st.composite
def any_form(draw: st.DrawFn) -> Form:
    if FORMS:
        return draw(st.sampled_from(FORMS))
    return Form(*[draw(st.sampled_from(values)) for values in _VALUES.values()])


@st.composite
def dynamics(draw: st.DrawFn, form: Form | None = None, **fixed: Any) -> Dynamics:
    """Any options of the law; keyword arguments fix some of them, a strategy restricts one."""
    form = draw(any_form()) if form is None else form
    options: dict[str, Any] = form._asdict()
    del options["degree"], options["bounded"]
    options["synapse"] = form.synapse or "decay"
    options["domain"] = st.sampled_from(DOMAINS[1:]) if form.bounded else None
    options |= fixed
    for name, value in options.items():
        options[name] = draw(cast(Any, value)) if isinstance(value, st.SearchStrategy) else value
    return Dynamics(**options)


@st.composite
def problems(
    draw: st.DrawFn,
    dtype: torch.dtype = torch.float64,
    max_steps: int = 6,
    shapes: st.SearchStrategy[tuple[int, ...]] | None = None,
    layouts: tuple[str, ...] = LAYOUTS,
    max_degree: int = 8,
    dyadic: bool | None = None,
    **fixed: Any,
) -> Problem:
    """A neuron layer and its input, scaled so that neurons do fire.

    Args:
        dtype: of the input and of all numbers.
        max_steps: the largest T.
        shapes: of one step, `[B, C, ...]`; default: small, odd sizes included.
        layouts: which of "layer", "channel", "neuron" every parameter may take, each on its own.
        max_degree: the largest degree.
        dyadic: all numbers are small multiples of 1/4 or 1/8 and gains powers of two. Membranes then
            meet the threshold and the edges of the domain exactly, as real numbers never do. Default:
            drawn.
        **fixed: options of the law to fix.
    """
    form = draw(any_form())
    chosen = draw(dynamics(form, **fixed))
    step = draw(st.sampled_from(SHAPES) if shapes is None else shapes)
    degree, steps = min(form.degree, max_degree), draw(st.integers(1, max_steps))
    dyadic = draw(st.booleans()) if dyadic is None else dyadic
    synapse = form.synapse is not None
    scale = draw(st.sampled_from([0.3, 1.0, 3.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int, grid: int = 4) -> Tensor:
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (value * grid).round() / grid if dyadic else value

    def layout() -> tuple[int, ...]:
        return {"layer": (), "channel": step[1:2], "neuron": step[1:]}[draw(st.sampled_from(layouts))]

    def gain() -> Tensor:
        value = normal(*layout(), grid=1).abs()
        g = 2.0 ** -value.clamp(max=2) if dyadic else 0.3 + 0.3 * value
        return 1 / g if chosen.gain_divides else g

    def coefficients() -> Tensor:
        theta = normal(*layout(), degree + 1) * 0.125
        if chosen.domain is None and not dyadic:  # or high powers run away within a few steps
            theta = theta * 0.5 ** torch.arange(degree + 1)
        # With a domain the line's slope may be anything; its clamp holds it, its ends included.
        is_map = chosen.charge == "map"
        slopes = [0.75, 1.0, 1.5, -1.0, -1.25] if is_map else [-0.5, -8.0, -4.0, -2.0, 0.5, 0.0]
        if degree:
            theta[..., 1] = theta[..., 1].round() if dyadic else theta[..., 1]
            theta[..., 1] += draw(st.sampled_from(slopes[: 1 if chosen.domain is None else None]))
        return theta

    alpha = 0.125 * draw(st.integers(0, 8)) if dyadic else draw(st.floats(0.05, 0.95))
    numbers = (
        coefficients(),
        0.5 + normal(*layout()).abs(),
        normal(*layout()) * 0.25,
        gain(),
        torch.full(layout(), alpha, dtype=torch.float64) if synapse else None,
    )
    x = normal(steps, *step) * (1.0 if dyadic else scale)
    state = State(normal(*step), normal(*step) if synapse else None)

    def cast(value: Any) -> Any:
        return None if value is None else value.to(dtype)

    return Problem(x.to(dtype), State(*map(cast, state)), Parameters(*map(cast, numbers)), chosen)
