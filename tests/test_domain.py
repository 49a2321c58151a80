"""What the domain guarantees: continuity, the linear neuron's bits, and a bound."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_lnm import functional
from snn_lnm.parameters import Dynamics, Parameters
from snn_lnm.reference import polynomial

ONE, ZERO = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
numbers = st.floats(-3, 3, allow_subnormal=False)


def make(theta, gain=1.0):
    theta = torch.tensor(theta, dtype=torch.float64)
    return Parameters(theta, ONE, ZERO, torch.tensor(gain, dtype=torch.float64))


@given(st.lists(numbers, min_size=3, max_size=9), st.sampled_from(["map", "drift"]))
def test_continuous_at_the_edges(theta, charge):
    dynamics = Dynamics(charge, domain=(-1.5, 1.25))
    for edge in (-1.5, 1.25):
        near = torch.tensor([edge, math.nextafter(edge, -9), math.nextafter(edge, 9)], dtype=torch.float64)
        f = polynomial(near, make(theta, 0.5), dynamics)
        # Neighbouring floats: |f'| < 9·8·3·1.5^8 < 6000 times 1 ulp; rounding of terms below 1200.
        assert (f - f[0]).abs().max() < 1e4 * torch.finfo(torch.float64).eps


@given(st.floats(-1, 1), numbers, st.lists(numbers, min_size=1, max_size=40), st.booleans())
def test_a_linear_neuron_keeps_its_bits_outside(slope, constant, v, drift):
    """Also for θ_0 ≠ 0: the bracket of the line is exactly zero."""
    slope = -abs(slope) if drift else slope
    v = torch.tensor(v, dtype=torch.float64) * 100
    theta = [constant, slope, 0.0, 0.0]
    dynamics = Dynamics("drift" if drift else "map", domain=(-1.5, 1.5))
    bare = Dynamics(dynamics.charge)
    assert torch.equal(polynomial(v, make(theta), dynamics), polynomial(v, make(theta), bare))


def bound(theta, lo, hi, x_max, v_0):
    """A bound on |h| of a map with |λ| < 1 and g = 1, any reset that does not push |v| up.

    Inside the domain ``|f(v)| ≤ P = Σ|θ_k|·m^k`` with ``m = max(|lo|, |hi|)``. Outside,
    ``f(v) = λ·v + (horner(w) - λ·w)``, so ``|f(v)| ≤ |λ|·|v| + B`` with ``B = P + |λ|·m``. In both cases
    ``|h| ≤ |λ|·|v| + B + x_max``, whose fixed point is ``(B + x_max)/(1 - |λ|)``; by induction
    ``|h[t]| ≤ max(|v_0|, (B + x_max)/(1 - |λ|))``.
    """
    m = max(abs(lo), abs(hi))
    slope = max(-1.0, min(1.0, theta[1]))
    p = sum(abs(coefficient) * m**k for k, coefficient in enumerate(theta))
    return max(abs(v_0), (p + abs(slope) * m + x_max) / (1 - abs(slope)))


@given(
    st.lists(numbers, min_size=3, max_size=9),
    st.floats(-0.95, 0.95),
    st.floats(0, 5),
    st.sampled_from(["none", "hard", "hard_next"]),
    st.integers(0, 2**31),
)
def test_the_membrane_is_bounded(theta, slope, x_max, reset, seed):
    theta[1] = slope
    x = torch.empty(300, 1, 8, dtype=torch.float64).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
    dynamics = Dynamics("map", reset, domain=(-1.5, 1.5))
    out = functional.run(x * x_max, None, make(theta), dynamics, backend="cpp")
    assert out.membrane.abs().max() <= bound(theta, -1.5, 1.5, x_max, 0.0) * (1 + 1e-12)


def test_the_bare_polynomial_is_not_bounded():
    theta, x = [0.0, 0.9, 0.5, 0.5], -torch.ones(300, 1, 1, dtype=torch.float64)
    bare = functional.run(x, None, make(theta), Dynamics("map", "hard"), backend="cpp")
    assert not bare.membrane.isfinite().all()
    held = functional.run(x, None, make(theta), Dynamics("map", "hard", domain=(-1.5, 1.5)), backend="cpp")
    assert held.membrane.abs().max() <= bound(theta, -1.5, 1.5, 1.0, 0.0)
