"""Where a sequence starts from: states of one number, and states that are views, in the C++ engine."""

import math

import pytest
import torch

from snn_lnm import State, functional
from snn_lnm.testing import identical


@pytest.mark.parametrize("value", [0.0, -0.0, 0.5, math.nan])
@pytest.mark.parametrize("synapse", [False, True])
def test_one_number_under_every_index_is_a_state_like_any_other(value, synapse):
    """A start that is one zero, the usual one, is not read from memory; with or without it the bits are the same."""
    theta, x = torch.tensor([0.1, 0.5, 0.25, -0.1], requires_grad=True), torch.randn(5, 3, 700)
    found = []
    for make in (torch.Tensor.clone, lambda state: state):
        states = [make(torch.tensor(value).expand(3, 700)) for _ in range(1 + synapse)]
        leaf = x.clone().requires_grad_()
        words = {"alpha": 0.5 if synapse else None, "reset": "soft", "gain": torch.tensor(0.7, requires_grad=True)}
        out = functional.lnm(leaf, theta, state=State(*states), backend="cpp", **words)
        gradients = torch.autograd.grad(out.spikes.sum() + out.membrane.sum(), [leaf, theta, words["gain"]])
        found.append([out.spikes, out.membrane, *out.state[: len(states)], *gradients])
    assert all(identical(a, b) for a, b in zip(*found, strict=True))


def test_states_that_are_views():
    """A row for all the batch, whose first number is zero, and a transposed state."""
    theta, x = torch.tensor([0.0, 0.9]), torch.randn(4, 3, 5)
    row, other = torch.arange(5.0), torch.arange(15.0).view(5, 3).t()
    for state in (row.expand(3, 5), other):
        ours, law = (functional.lnm(x, theta, state=State(state, None), backend=b) for b in ("cpp", "reference"))
        assert identical(ours.membrane, law.membrane)
