"""Every surrogate: the derivative is that of the primitive, and the hosts' where they have it."""

import pytest
import snntorch.surrogate
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_lnm import surrogate

GRID = torch.linspace(-3, 3, 1201, dtype=torch.float64) + 1e-4  # off the kinks


@pytest.mark.parametrize("name", surrogate.available())
@given(size=st.floats(0.3, 30))
def test_derivative_of_the_primitive(name, size):
    kind = type(surrogate.get(name))(size)
    eps = 1e-7
    kinks = torch.tensor([0.0, size, size / 2], dtype=torch.float64)
    u = GRID[((GRID.abs().unsqueeze(1) - kinks).abs() > 2 * eps).all(1)]
    slope = (kind.primitive(u + eps, size) - kind.primitive(u - eps, size)) / (2 * eps)
    torch.testing.assert_close(kind.derivative(u, size), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", surrogate.available())
def test_forward_is_a_step(name):
    u = torch.tensor([-1.0, -0.0, 0.0, 1e-30, 1.0])
    spike = surrogate.get(name)
    assert spike(u).tolist() == [0, 0, 0, 1, 1]
    assert spike(u, True).tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (surrogate.ATan(2.0), snntorch.surrogate.atan(2.0)),
        (surrogate.ATan(0.7), snntorch.surrogate.atan(0.7)),
        (surrogate.FastSigmoid(25.0), snntorch.surrogate.fast_sigmoid(25)),
        (surrogate.Sigmoid(5.0), snntorch.surrogate.sigmoid(5)),
    ],
    ids=str,
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
