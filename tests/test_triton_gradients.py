"""The Triton engine's backward pass: true gradients, and those of the reference."""

import itertools
import math

import pytest
import test_engines
import test_gradients
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from triton_cases import DEVICE, SHAPES, fewer, on_device, poisoned, programs

from snn_lnm import functional, surrogate
from snn_lnm.engines.triton import launches
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.testing import problems

# The interpreter computes with numpy, which warns of the infinities and NaNs that the law carries on.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")

RESETS = ["hard", "soft", "none", "hard_next", "soft_next"]
LAYOUTS = ["layer", "channel", "neuron"]
CASES = [*itertools.product(["drift", "map", "residual"], RESETS, LAYOUTS)]


@fewer
@given(st.data())
def test_same_gradients_to_the_bit_where_arithmetic_is_exact(data):
    problem = on_device(
        data.draw(problems(shapes=SHAPES, max_steps=2, max_degree=1, dyadic=True, **test_engines.EXACT))
    )
    with poisoned(), programs(data.draw(st.sampled_from([1, 3, 1024]))):
        found = test_engines.gradients(problem, "triton")
    for ours, law in zip(found, test_engines.gradients(problem, "reference"), strict=True):
        assert torch.equal(ours, law)


@fewer
@given(problems(shapes=SHAPES, max_steps=8, dyadic=False))
def test_same_gradients(problem):
    """The bound is that of `test_engines.test_same_gradients`, for the same reasons."""
    problem = on_device(problem)
    eps = torch.finfo(torch.float64).eps
    path = 2 * len(problem.x) * (4 * problem.parameters.degree + 30)
    law = test_engines.gradients(problem, "reference")
    terms = test_engines.gradients(problem, "reference", spread=True)
    largest = max(float(value.abs().max()) for value in terms)
    assume(math.isfinite(largest) and largest < 1e6)
    for mine, true, term in zip(test_engines.gradients(problem, "triton"), law, terms, strict=True):
        n = max(1, term.numel() // max(1, true.numel()))
        assert (mine - true).abs().max() <= (path + n) * eps * n * largest


def test_gradients_of_many_steps():
    """Sums go to float64 every few rows: none is lost."""
    x = torch.randn(3 * launches.ROWS + 1, 1, 5, device=DEVICE)
    found = []
    for backend in ("triton", "reference"):
        theta = torch.tensor([0.1, -0.5, 0.25], device=DEVICE, requires_grad=True)
        spikes = functional.lnm(x, theta, backend=backend, domain=(-1.5, 1.5)).spikes
        found.append(torch.autograd.grad(spikes.sum(), theta)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("charge", ["drift", "map", "residual"])
@pytest.mark.parametrize("extension", ["line", "constant"])
def test_a_membrane_that_is_nan_has_the_gradient_of_the_law(charge, extension):
    x = torch.zeros(4, 1, 3, device=DEVICE)
    x[1, 0, 1] = math.nan
    found = []
    for backend in ("triton", "reference"):
        leaf = x.clone().requires_grad_()
        words = {"charge": charge, "reset": "none", "domain": (-1.5, 1.5), "extension": extension}
        spike = surrogate.Rectangle()  # of NaN its derivative is 0
        theta = torch.tensor([0.1, 0.5, 0.25], device=DEVICE)
        out = functional.lnm(leaf, theta, surrogate=spike, backend=backend, **words)
        found.append(torch.autograd.grad(out.membrane.nansum(), leaf)[0].isnan())
    assert torch.equal(*found)
    assert found[0].any() and not found[0][..., [0, 2]].any()


def leaves_of(layout, dynamics, synapse):
    run, leaves = test_gradients.case(layout, dynamics, synapse=synapse)
    return run, [leaf.detach().to(DEVICE).requires_grad_() for leaf in leaves]


@pytest.mark.turns(5)
@pytest.mark.parametrize("charge, reset, layout", CASES)
def test_gradcheck(charge, reset, layout):
    """Smooth mode, float64, attached reset; domain, synapse, gain and surrogate take turns over the cases."""
    turn = CASES.index((charge, reset, layout))
    edges, extension = [*test_gradients.DOMAINS.values()][turn % 3]
    synapse = [None, "euler", "decay"][turn // 3 % 3]
    smooth = ["fast_sigmoid", "sigmoid", "triangle", "superspike"][turn % 4]
    dynamics = Dynamics(
        charge, reset, detach_reset=False, synapse=synapse or "decay", domain=edges, extension=extension,
        gain_divides=turn % 2 == 1, surrogate=surrogate.get(smooth), smooth=True,
    )  # fmt: skip
    run, leaves = leaves_of(layout, dynamics, synapse is not None)
    assert torch.autograd.gradcheck(run("triton"), leaves, fast_mode=True)


@pytest.mark.slow
def test_every_entry_of_one_jacobian():
    dynamics = Dynamics("drift", "hard", detach_reset=False, domain=(-0.9, 1.1), surrogate="sigmoid", smooth=True)
    run, leaves = leaves_of("layer", dynamics, True)
    assert torch.autograd.gradcheck(run("triton"), leaves)


def test_gradcheck_fails_with_real_spikes():
    run, leaves = leaves_of("layer", Dynamics("map", "soft", detach_reset=False), False)
    with pytest.raises(RuntimeError, match="Jacobian"):
        torch.autograd.gradcheck(run("triton"), leaves, fast_mode=True)


@pytest.mark.turns(5)
@pytest.mark.parametrize("charge, reset, layout", CASES)
def test_detached_resets_are_the_reference_s(charge, reset, layout):
    """Real spikes, every surrogate in turn. Each entry sums fewer than 100 terms of fewer than 200 operations."""
    names = surrogate.available()
    kind = surrogate.get(names[CASES.index((charge, reset, layout)) % len(names)])
    dynamics = Dynamics(charge, reset, detach_reset=True, domain=(-0.9, 1.1), surrogate=kind)
    run, leaves = leaves_of(layout, dynamics, True)
    found = []
    for backend in ("triton", "reference"):
        outputs = run(backend)(*leaves)
        weights = (torch.arange(value.numel(), device=DEVICE).reshape(value.shape).sin() for value in outputs)
        loss = sum((value * weight).sum() for value, weight in zip(outputs, weights, strict=True))
        found.append(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
    for mine, true in zip(*found, strict=True):
        assert (mine - true).abs().max() <= 300 * 100 * torch.finfo(torch.float64).eps


def problem_of(shape, dtype=torch.float32):
    numbers = Parameters(*(torch.tensor(v, device=DEVICE) for v in ([0.01, 0.9, 0.02, -0.03], 0.8, 0.0, 1.0)))
    dynamics = Dynamics(charge="map", reset="soft", domain=(-1.5, 1.5))
    x = torch.randn(shape, device=DEVICE)
    return x.to(dtype), State(torch.zeros(shape[1:], device=DEVICE)), numbers, dynamics


def grads(problem, backend, weight):
    x, state, numbers, dynamics = problem
    leaves = [x.clone().requires_grad_(), numbers.coefficients.clone().requires_grad_()]
    out = functional.run(leaves[0], state, numbers._replace(coefficients=leaves[1]), dynamics, backend=backend)
    return torch.autograd.grad((out.spikes * weight).sum() + out.membrane.square().sum(), leaves)


def test_gradients_are_the_same_from_run_to_run():
    problem, weight = problem_of((20, 2, 300)), torch.randn(20, 2, 300, device=DEVICE)
    first, second = (grads(problem, "triton", weight) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_as_good_as_eager_s(dtype):
    """Against float64 on the same input: at most twice the reference's own error in that dtype."""
    x, state, numbers, dynamics = problem_of((12, 2, 300), dtype)
    weight = torch.randn(12, 2, 300, device=DEVICE).to(dtype)
    double = (x.double(), State(state.v.double()), Parameters(*(n if n is None else n.double() for n in numbers)))
    truth = grads((*double, dynamics), "reference", weight.double())
    errors = [
        [
            (found.double() - true).abs().max()
            for found, true in zip(grads(problem, backend, weight), truth, strict=True)
        ]
        for problem, backend in (((x, state, numbers, dynamics), b) for b in ("triton", "reference"))
    ]
    assert all(ours <= 2 * theirs for ours, theirs in zip(*errors, strict=True)) and errors[1][0] > 0


def test_an_empty_batch_gives_no_gradient():
    """Zero, of parameters per channel too, whose sums are then taken over nothing."""
    for channels in (None, 3):
        theta = torch.full((3, 2) if channels else (2,), 0.5, device=DEVICE, requires_grad=True)
        out = functional.lnm(torch.zeros((2, 0, 3), device=DEVICE), theta, backend="triton")
        out.spikes.sum().backward()
        assert torch.equal(theta.grad, torch.zeros_like(theta))
