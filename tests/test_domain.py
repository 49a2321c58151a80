"""What the domain guarantees: continuity, the linear neuron's bits, and a bound."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import snn_lnm
from snn_lnm import functional
from snn_lnm.parameters import Dynamics, NoDefaultDomain, Parameters, State, default_domain
from snn_lnm.reference import polynomial
from snn_lnm.testing import dynamics

ONE, ZERO = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
numbers = st.floats(-3, 3, allow_subnormal=False)
ragged = st.integers(0, 2**31).map(lambda seed: random.Random(seed).uniform(-1, 1))  # whose arithmetic rounds


def make(theta, gain=1.0):
    theta = torch.tensor(theta, dtype=torch.float64)
    return Parameters(theta, ONE, ZERO, torch.tensor(gain, dtype=torch.float64))


@given(st.lists(numbers, min_size=3, max_size=9), st.sampled_from(["map", "drift", "residual"]))
def test_continuous_at_the_edges(theta, charge):
    dynamics = Dynamics(charge, domain=(-1.5, 1.25))
    for edge in (-1.5, 1.25):
        near = torch.tensor([edge, math.nextafter(edge, -9), math.nextafter(edge, 9)], dtype=torch.float64)
        f = polynomial(near, make(theta, 0.5), dynamics)
        # Neighbouring floats: |f'| < 9·8·3·1.5^8 < 6000 times 1 ulp; rounding of terms below 1200.
        assert (f - f[0]).abs().max() < 1e4 * torch.finfo(torch.float64).eps


def test_an_edge_at_minus_zero_is_zero():
    """Equal options are the same neuron, to the sign of a zero: engines look their kernels up by them."""
    lo, hi = Dynamics(domain=(-0.0, 1.0)).domain
    assert math.copysign(1, lo) == 1 and hi == 1
    assert math.copysign(1, Dynamics(domain=(-1.0, -0.0)).domain[1]) == 1


@given(st.floats(-1, 1) | ragged, numbers | ragged, st.lists(numbers | ragged, min_size=1, max_size=40), st.booleans())
def test_a_linear_neuron_keeps_its_bits_outside(slope, constant, v, drift):
    """Also for θ_0 ≠ 0: the bracket of the line is exactly zero."""
    slope = -abs(slope) if drift else slope
    v = torch.tensor(v, dtype=torch.float64) * 100
    theta = [constant, slope, 0.0, 0.0]
    dynamics = Dynamics("drift" if drift else "map", domain=(-1.5, 1.5))
    bare = Dynamics(dynamics.charge)
    assert torch.equal(polynomial(v, make(theta), dynamics), polynomial(v, make(theta), bare))
    state, x = State(v[None]), torch.ones(3, 1, len(v), dtype=torch.float64)
    for backend in ("reference", "cpp"):
        ours, law = (functional.run(x, state, make(theta), d, backend=backend) for d in (dynamics, bare))
        assert torch.equal(ours.membrane, law.membrane)


def bound(theta, threshold, gain, x_max, v_0, dynamics):
    """A bound on every |h[t]| when the line contracts.

    Let ``m = max(|lo|, |hi|)`` and λ the slope of the line. Write the charge as ``h = φ(v) + g·c`` (a
    residual: ``+ c``) with ``φ(v) = f(v)`` (map) or ``v + g·f(v)``, and ``μ = λ`` or ``1 + g·λ``. Inside the domain
    ``|φ(v)| ≤ P = Σ|φ_k|·m^k``, φ_k the coefficients of φ. Outside, ``φ(v) = φ(w) + μ·(v - w)`` with
    ``|w| ≤ m``, so everywhere ``|φ(v)| ≤ |μ|·|v| + B``, ``B = P + |μ|·m``.

    Resets "none", "hard" and "hard_next" (to 0) and "soft" (h > ϑ > 0, so 0 < h - ϑ < h) never raise
    |v|; "soft_next" subtracts at most ϑ from h. So ``|h[t]| ≤ |μ|·|h[t-1]| + R`` with ``R = B + g·x_max``
    (+ ϑ for "soft_next"), and by induction, if |μ| < 1, ``|h[t]| ≤ max(|v_0|, R / (1 - |μ|))``.
    """
    m = max(map(abs, dynamics.domain))
    gain = 1 / gain if dynamics.gain_divides else gain
    if dynamics.charge == "map":
        phi, mu = list(theta), max(-1.0, min(1.0, theta[1]))
    else:
        phi, mu = [gain * coefficient for coefficient in theta], 1 + gain * max(-2 / gain, min(0.0, theta[1]))
        phi[1] += 1
    p = sum(abs(coefficient) * m**k for k, coefficient in enumerate(phi))
    r = (
        p
        + abs(mu) * m
        + (1 if dynamics.charge == "residual" else gain) * x_max
        + (threshold if dynamics.reset == "soft_next" else 0)
    )
    return max(abs(v_0), r / (1 - abs(mu)))


@given(
    theta=st.lists(numbers, min_size=2, max_size=9),
    mu=st.floats(-0.95, 0.95),
    gain=st.floats(0.1, 1.5),
    x_max=st.floats(0, 5),
    v_0=st.floats(-50, 50),
    dynamics=dynamics(
        domain=st.sampled_from([(-1.5, 1.5), (-0.5, 2.0), (1.0, 1.25)]),
        extension="line",
    ),
    seed=st.integers(0, 2**31),
)
def test_the_membrane_is_bounded(theta, mu, gain, x_max, v_0, dynamics, seed):
    gain_of_law = 1 / gain if dynamics.gain_divides else gain
    theta[1] = mu if dynamics.charge == "map" else (mu - 1) / gain
    x = torch.empty(300, 1, 16, dtype=torch.float64).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
    x = torch.cat([x, x.sign(), torch.ones_like(x), -torch.ones_like(x)], -1) * x_max  # the worst are constant
    state = State(torch.full((1, 64), v_0, dtype=torch.float64))
    out = functional.run(x, state, make(theta, gain_of_law), dynamics, backend="cpp")
    limit = bound(theta, 1.0, gain_of_law, x_max, v_0, dynamics)
    # λ itself is rounded when mu is turned into θ_1 and back: 1 - |mu| >= 0.05 loses 20 ulp at most.
    assert out.membrane.abs().max() <= limit * (1 + 1e-12)


@given(
    theta=st.lists(numbers, min_size=3, max_size=9),
    charge=st.sampled_from(["map", "drift", "residual"]),
    v=st.lists(numbers, min_size=1, max_size=20),
)
def test_the_polynomial_itself_inside(theta, charge, v):
    v = torch.tensor(v, dtype=torch.float64) / 2  # within [-1.5, 1.5], the edges included
    for extension in ("line", "constant"):
        f = polynomial(v, make(theta), Dynamics(charge, domain=(-1.5, 1.5), extension=extension))
        assert torch.equal(f, polynomial(v, make(theta), Dynamics(charge)))


@pytest.mark.parametrize("charge, slopes", [("map", (1.5, -1.5)), ("drift", (0.5, -5.0)), ("residual", (0.5, -5.0))])
@pytest.mark.parametrize("reset", ["none", "soft", "soft_next"])
def test_a_line_that_expands_grows_no_faster_than_linearly(charge, slopes, reset):
    """Nor do its gradients: snnTorch trains on where β has left [0, 1], because its forward pass holds it there."""
    x = torch.ones(2000, 1, 1, dtype=torch.float64)
    for slope in slopes:
        words = {"coefficients": torch.tensor([0.0, slope], dtype=torch.float64), "charge": charge, "reset": reset}
        neuron, bare = (snn_lnm.LNM(**words, **domain) for domain in ({}, {"domain": None}))
        membrane = neuron.double()(x, return_membrane=True)[2]
        assert membrane.abs().max() <= 2000 * (1 + 1)  # a step adds the input and takes the threshold, at most
        membrane.sum().backward()
        assert 0 < neuron.coefficients.grad[0].abs() <= 2000**2 and neuron.coefficients.grad[1] == 0
        assert reset != "none" or not bare.double()(x, return_membrane=True)[2].abs().max() < 1e100


@pytest.mark.parametrize("threshold", [1.0, 0.0, math.inf])
def test_the_default_domain(threshold):
    """A line needs no scale; a polynomial above it does."""
    edge = 1.5 * threshold if threshold == 1 else 1.5
    assert default_domain(0, threshold) is None and default_domain(1, threshold) == (-edge, edge)
    if threshold == 1:
        assert default_domain(2, threshold) == (-1.5, 1.5)
    else:
        with pytest.raises(NoDefaultDomain, match="no default domain"):
            default_domain(2, threshold)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_the_bare_polynomial_is_not_bounded(backend):
    theta, x = [0.0, 0.9, 0.5, 0.5], -torch.ones(300, 1, 1, dtype=torch.float64)
    bare = functional.run(x, None, make(theta), Dynamics("map", "hard"), backend=backend)
    assert not bare.membrane.isfinite().all()
    dynamics = Dynamics("map", "hard", domain=(-1.5, 1.5))
    held = functional.run(x, None, make(theta), dynamics, backend=backend)
    assert held.membrane.abs().max() <= bound(theta, 1.0, 1.0, 1.0, 0.0, dynamics)
