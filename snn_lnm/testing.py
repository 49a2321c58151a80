"""Hypothesis strategies for neurons: whole problems, drawn as a user would meet them.

Import it explicitly; it needs `hypothesis`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from snn_lnm import surrogate as surrogates
from snn_lnm.parameters import Dynamics, Parameters, State

__all__ = ["Problem", "dynamics", "problems"]

LAYOUTS = ("layer", "channel", "neuron")


class Problem(NamedTuple):
    """Arguments of :func:`snn_lnm.functional.run`."""

    x: Tensor
    state: State
    parameters: Parameters
    dynamics: Dynamics


def dynamics(**fixed: Any) -> st.SearchStrategy[Dynamics]:
    """Any options of the law; keyword arguments fix some of them."""
    options: dict[str, Any] = {
        "charge": st.sampled_from(["drift", "map"]),
        "reset": st.sampled_from(["hard", "soft", "none", "hard_next", "soft_next"]),
        "detach_reset": st.booleans(),
        "fire_at_threshold": st.booleans(),
        "synapse": st.sampled_from(["decay", "euler"]),
        "surrogate": st.sampled_from([surrogates.get(name) for name in surrogates.available()]),
        "domain": st.sampled_from([None, (-1.5, 1.5), (-0.5, 0.8)]),
        "extension": st.sampled_from(["line", "constant"]),
    }
    options.update({name: st.just(value) for name, value in fixed.items()})
    return st.builds(Dynamics, **options)


@st.composite
def problems(
    draw: st.DrawFn,
    dtype: torch.dtype = torch.float64,
    max_steps: int = 6,
    shapes: st.SearchStrategy[tuple[int, ...]] | None = None,
    layouts: tuple[str, ...] = LAYOUTS,
    **fixed: Any,
) -> Problem:
    """A neuron layer and its input, scaled so that neurons do fire.

    Args:
        dtype: of the input and of all numbers.
        shapes: of one step, `[B, C, ...]`; default: small, odd sizes included.
        layouts: which of "layer", "channel", "neuron" the coefficients and the threshold may take.
        **fixed: options of the law to fix.
    """
    chosen = draw(dynamics(**fixed))
    if shapes is None:
        shapes = st.sampled_from([(1, 1), (2, 3), (3, 17), (2, 3, 5), (1, 2, 3, 3)])
    step = draw(shapes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    degree = draw(st.integers(0, 8 if chosen.domain else 3))

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def layout() -> tuple[int, ...]:
        return {"layer": (), "channel": step[1:2], "neuron": step[1:]}[draw(st.sampled_from(layouts))]

    coefficients = random(*layout(), degree + 1) * 0.1
    if degree:
        coefficients[..., 1] += -0.5 if chosen.charge == "drift" else 0.8
    synapse = draw(st.booleans())
    numbers = (
        coefficients,
        0.4 + random(*layout()).abs(),
        random() * 0.1,
        0.3 + random().abs() * 0.3,
        torch.tensor(draw(st.floats(0.05, 0.95)), dtype=torch.float64) if synapse else None,
    )
    x = random(draw(st.integers(1, max_steps)), *step) * draw(st.sampled_from([0.3, 1.0, 3.0]))
    state = State(random(*step), random(*step) if synapse else None)
    return Problem(
        x.to(dtype),
        State(*(None if value is None else value.to(dtype) for value in state)),  # type: ignore[arg-type]
        Parameters(*(None if value is None else value.to(dtype) for value in numbers)),  # type: ignore[arg-type]
        chosen,
    )
