"""Extreme numbers and sizes: long sequences, subnormal, infinite and missing values, more than 2³¹ elements."""

import math
import os

import pytest
import rotation
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_lnm import LNM, functional, surrogate
from snn_lnm.checks import STATE_DTYPE
from snn_lnm.testing import identical

BACKENDS = ["reference", "cpp"]
LONG = 10_000


def test_ten_thousand_steps_without_drift():
    """float32 against float64 for ``h = β·h + x``: the error stays where the first hundred steps have it.

    A step adds two roundings of at most u·|h| each and shrinks what was there by β, so
    ``|e[t]| ≤ 2u·max|h| / (1 - β)`` for every t, u = 2⁻²⁴ (and once more u for the input, rounded before).
    """
    beta, x = 0.875, torch.randn(LONG, 2, 8, generator=torch.Generator().manual_seed(0))
    words = {"charge": "map", "reset": "none"}
    single, double = (
        functional.lnm(value, torch.tensor([0.0, beta], dtype=value.dtype), backend="cpp", **words).membrane
        for value in (x, x.double())
    )
    error = (single.double() - double).abs().amax((1, 2))
    assert error.max() <= 2 * 2**-24 * double.abs().max() / (1 - beta)
    assert error[-100:].max() <= 4 * error[100:1000].max()


@pytest.mark.turns(4)
@pytest.mark.parametrize("reset", ["hard", "soft", "none", "hard_next", "soft_next"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ten_thousand_steps_to_the_bit(reset, dtype):
    """A cubic with spikes, for which no bound holds: the engines never part."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(LONG, 1, 5, generator=generator, dtype=torch.float64).to(dtype)
    theta = torch.tensor([0.05, 0.8, 0.1, -0.2], dtype=dtype)
    words = {"charge": "map", "reset": reset, "domain": (-1.5, 1.5)}
    ours, law = (functional.lnm(x, theta, backend=backend, **words) for backend in ("cpp", "reference"))
    assert torch.equal(ours.spikes, law.spikes) and torch.equal(ours.membrane, law.membrane)
    assert 0 < law.spikes.mean() < 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_subnormal_numbers_are_kept(dtype, backend):
    """Nothing is flushed to zero, in no thread: sums and halves of the smallest numbers are exact."""
    tiny = torch.finfo(dtype).smallest_normal / 2**10
    x = torch.full((4, 64, 512), tiny, dtype=dtype)
    out = functional.lnm(x, torch.tensor([0.0, 1.0], dtype=dtype), charge="map", backend=backend)
    assert all(torch.equal(out.membrane[t], (t + 1) * x[t]) for t in range(4)) and tiny > 0
    assert not out.spikes.any()
    spikes = functional.lnm(
        x, torch.tensor([0.0, 1.0], dtype=dtype), charge="map", threshold=0.0, backend=backend
    ).spikes
    assert spikes[0].all()


SPECIAL = [math.nan, math.inf, -math.inf, 5e-324, -0.0, 3.5e38, -1e300, 1.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@given(
    values=st.lists(st.sampled_from(SPECIAL), min_size=4, max_size=4),
    reset=st.sampled_from(rotation.some(["hard", "soft", "none", "hard_next", "soft_next"], 2)),
    charge=st.sampled_from(rotation.some(["drift", "map", "residual"], 1)),
    domain=st.sampled_from([None, (-1.5, 1.5)]),
    spike=st.sampled_from([surrogate.ATan(), surrogate.Rectangle()]),  # of NaN the latter's derivative is 0
)
def test_any_input_goes_through_as_the_law_says(dtype, values, reset, charge, domain, spike):
    """Both engines, the backward pass too; and a neuron's NaN never reaches its neighbour."""
    x = torch.zeros(4, 1, 9, dtype=dtype)
    x[:, 0, 4] = torch.tensor(values, dtype=torch.float64).to(dtype)
    theta = torch.tensor([0.1, 0.5, 0.25], dtype=STATE_DTYPE[dtype])
    found = []
    for backend in BACKENDS:
        leaf = x.clone().requires_grad_()
        words = {"reset": reset, "charge": charge, "domain": domain, "surrogate": spike}
        out = functional.lnm(leaf, theta, gain=0.5, backend=backend, **words)
        (gradient,) = torch.autograd.grad(out.membrane.sum() + out.spikes.float().sum(), leaf)
        found.append((out.spikes.detach(), out.membrane.detach(), out.state.v.detach(), gradient.isnan().float()))
        neighbours = [0, 1, 2, 3, 5, 6, 7, 8]
        assert gradient[..., neighbours].isfinite().all() and out.membrane[..., neighbours].isfinite().all()
        assert not out.spikes.isnan().any()
    assert all(identical(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "shape", [(0, 2, 3), (4, 0, 3), (4, 2, 0), (0, 0, 0), (3, 0, 2, 0), (0,), (5,), (1, 1)], ids=str
)
def test_zero_size_everything(shape, backend):
    neuron = LNM(alpha=0.5, learn_threshold=True, learn_gain=True, learn_alpha=True, backend=backend)
    x = torch.zeros(shape, requires_grad=True)
    spikes, state, h = neuron(x, return_membrane=True)
    again, _ = neuron(x, state)
    (spikes.sum() + again.sum() + h.sum() + state.v.sum() + state.current.sum()).backward()
    assert spikes.shape == h.shape == x.grad.shape == shape and state.v.shape == state.current.shape == shape[1:]
    assert all(p.grad is None or p.grad.isfinite().all() for p in neuron.parameters())
    if len(shape) > 1:
        assert neuron.step(x[:1].flatten(0, 1))[0].shape == x[:1].flatten(0, 1).shape


@pytest.mark.skipif("SNN_LNM_LARGE" not in os.environ, reason="takes 6 GiB and minutes: SNN_LNM_LARGE=1 runs it")
def test_more_than_two_to_the_31_elements():
    """The input's pages are never written, so that they cost nothing; spikes are 4 GiB. The last elements tell."""
    steps = 64
    neurons = 2**31 // steps + 4
    assert steps * neurons > 2**31
    x = torch.zeros(steps, 1, neurons, dtype=torch.bfloat16)
    marks = [(0, 0), (0, neurons - 1), (steps - 1, 0), (steps - 1, neurons - 2), (steps - 1, neurons - 1)]
    for t, j in marks:
        x[t, 0, j] = 3.0
    with torch.no_grad():
        spikes, state = LNM.if_(backend="cpp")(x)
    assert [spikes[t, 0, j].item() for t, j in marks] == [1.0] * len(marks)
    assert sum(int(part.count_nonzero()) for part in spikes.view(-1).split(2**27)) == len(marks)
    assert state.v.count_nonzero() == 0
