"""What a neuron does under noise: the distribution of its membrane, and a surrogate window made from it.

Ours, not the papers': that of the QIF (arXiv 2510.05168) computes its window from mean and variance of
the membrane too, by a formula that could not be had. `docs/qif.md` derives this one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from snn_lnm import reference
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.surrogate import Rectangle, Surrogate

__all__ = ["Membrane", "membrane_distribution", "surrogate_window"]

CELLS_PER_STD = 40
REACH = 8  # standard deviations of the noise beyond the furthest centre


class Membrane(NamedTuple):
    """Distribution of h, the membrane before the reset, at one step.

    Attributes:
        values: a grid, `[N]`, float64.
        probability: of each cell of the grid, `[N]`, summing to 1.
    """

    values: Tensor
    probability: Tensor

    @property
    def mean(self) -> float:
        return float((self.values * self.probability).sum())

    @property
    def std(self) -> float:
        return math.sqrt(float(((self.values - self.mean) ** 2 * self.probability).sum()))

    def rate(self, threshold: float) -> float:
        """Probability of a spike, ``P(h > threshold)``."""
        return float(self.probability[self.values > threshold].sum())


def membrane_distribution(
    parameters: Parameters, dynamics: Dynamics, mean: float = 0.0, std: float = 1.0, steps: int = 64
) -> Membrane:
    """The membrane after ``steps`` steps of independent normal input, started at v = 0.

    Given the state, h is normal around the law's own step for the mean input; so
    ``p(h') = Σ_i P(h_i)·N(h'; step(state_i), σ_h)`` on a grid, one step after another. Resets are those
    of the law: nothing is linearised.

    Args:
        parameters: one number each (a layer's), no synapse.
        dynamics: any, with a built-in surrogate or not.
        mean, std: of the input at every step; 0 and 1 is normalised input.

    Raises:
        ValueError: a synapse, parameters that differ within the layer, std <= 0, or a membrane that runs away.
    """
    if parameters.alpha is not None:
        raise ValueError("a synapse has a state of its own: the membrane alone has no such distribution.")
    flat = [value.detach().double() for value in parameters[:4]]
    if any(value.numel() != size for value, size in zip(flat, (parameters.degree + 1, 1, 1, 1), strict=True)):
        raise ValueError("one neuron at a time: parameters that differ within the layer were given.")
    if not std > 0:
        raise ValueError(f"std must be positive, got {std}.")
    numbers = Parameters(flat[0].reshape(-1), *(value.reshape(()) for value in flat[1:]))

    def centre(state: Tensor, x: float) -> Tensor:
        return reference.step(torch.full_like(state, x), State(state), numbers, dynamics)[1]

    state = torch.zeros(1, dtype=torch.float64)
    probability = torch.ones(1, dtype=torch.float64)
    noise = std * float(centre(state, 1.0) - centre(state, 0.0))
    h = state
    for _ in range(steps):
        centres = centre(state, mean)
        kept = centres[probability > 1e-18]
        low, high = float(kept.min()) - REACH * noise, float(kept.max()) + REACH * noise
        cell = noise / CELLS_PER_STD
        if not (high - low) / cell < 20_000:
            raise ValueError("the membrane runs away under this input: give the neuron a domain.")
        # The threshold lies between two cells, so that none is both above and below it.
        first = float(numbers.threshold) + (math.floor((low - float(numbers.threshold)) / cell) + 0.5) * cell
        h = torch.arange(first, high + cell, cell, dtype=torch.float64)
        kernel = torch.exp(-0.5 * ((h[:, None] - centres) / noise) ** 2)
        probability = kernel @ probability
        probability = probability / probability.sum()
        after = reference.reset(h, reference.fire(h, numbers, dynamics), numbers, dynamics)
        state = h if dynamics.state_is_membrane else after
    return Membrane(h, probability)


def surrogate_window(
    parameters: Parameters, dynamics: Dynamics, mean: float = 0.0, std: float = 1.0, steps: int = 64
) -> Surrogate:
    """A rectangular surrogate as wide as the neuron's own membrane needs it.

    Half its width is ``|threshold - m| + s``, m and s mean and standard deviation of h under normal
    input: the window reaches one standard deviation past the mean, so that most neurons
    get a gradient: Φ(1) = 84 % if the membrane were normal. Area 1. Arguments and errors as for
    :func:`membrane_distribution`.
    """
    membrane = membrane_distribution(parameters, dynamics, mean, std, steps)
    return Rectangle(2 * (abs(float(parameters.threshold.detach()) - membrane.mean) + membrane.std))
