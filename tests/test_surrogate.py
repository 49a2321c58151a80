"""Surrogates against the hosts', where they have them; `test_oracle_surrogates.py` holds them to their formulas."""

import pytest
import snntorch.surrogate
import torch

from snn_lnm import surrogate

GRID = torch.linspace(-3, 3, 1201, dtype=torch.float64) + 1e-4  # off the kinks


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (surrogate.ATan(2.0), snntorch.surrogate.atan(2.0)),
        (surrogate.ATan(0.7), snntorch.surrogate.atan(0.7)),
        (surrogate.FastSigmoid(25.0), snntorch.surrogate.fast_sigmoid(25)),
        (surrogate.Sigmoid(5.0), snntorch.surrogate.sigmoid(5)),
    ],
    ids=lambda value: getattr(value, "__qualname__", str(value)),
)
def test_gradients_are_snntorch_s(ours, theirs):
    """Up to rounding: each formula is at most ten operations, and 1 - σ loses one digit near 1."""
    u = GRID.clone().requires_grad_()
    (mine,) = torch.autograd.grad(ours(u).sum(), u)
    (host,) = torch.autograd.grad(theirs(u).sum(), u)
    torch.testing.assert_close(mine, host, rtol=1e-9, atol=1e-14)


def test_bad_surrogates():
    with pytest.raises(ValueError, match=r"unknown surrogate 'atn': expected one of atan"):
        surrogate.get("atn")
    with pytest.raises(TypeError, match="must be a name"):
        surrogate.get(surrogate.ATan)  # a class, not an instance
    for value in (0.0, -1.0, float("nan"), float("inf"), "2"):
        with pytest.raises(ValueError, match="positive finite"):
            surrogate.ATan(value)
