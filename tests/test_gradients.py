"""True gradients: in smooth mode the spike is the surrogate's primitive, so finite differences apply."""

import itertools

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from snn_lnm import functional, surrogate
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.testing import problems

BACKENDS = ["reference", "cpp"]
RESETS = ["hard", "soft", "none", "hard_next", "soft_next"]
LAYOUTS = {"layer": (), "channel": (3,), "neuron": (3, 2)}


def case(layout, dynamics, synapse):
    """A function of all tensors of a small problem, and the tensors."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    spread = LAYOUTS[layout]
    theta = random(*spread, 4) * 0.2
    theta[..., 1] += 0.6 if dynamics.charge == "map" else -0.6
    leaves = [
        random(3, 2, 3, 2),
        random(2, 3, 2),
        theta,
        0.5 + random(*spread).abs(),
        random(*spread) * 0.1,
        0.4 + random(*spread).abs() * 0.2,
    ]
    if synapse:
        leaves += [torch.full(spread, 0.6, dtype=torch.float64), random(2, 3, 2)]

    def run(backend):
        def f(x, v, coefficients, threshold, v_reset, gain, alpha=None, current=None):
            parameters = Parameters(coefficients, threshold, v_reset, gain, alpha)
            out = functional.run(x, State(v, current), parameters, dynamics, backend=backend)
            return tuple(value for value in (out.spikes, out.membrane, *out.state) if value is not None)

        return f

    return run, [leaf.requires_grad_() for leaf in leaves]


MILD = st.sampled_from([surrogate.ATan(), surrogate.ATan(0.7), surrogate.Sigmoid(3.0)])
DOMAINS = {"bare": (None, "line"), "line": ((-0.9, 1.1), "line"), "constant": ((-0.9, 1.1), "constant")}


@pytest.mark.turns(9)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("charge, reset, layout", [*itertools.product(["drift", "map", "residual"], RESETS, LAYOUTS)])
def test_gradcheck(charge, reset, layout, domain, backend):
    """Random membranes lie on both sides of the edges, never on them."""
    synapse = {"layer": None, "channel": "euler", "neuron": "decay"}[layout]
    edges, extension = DOMAINS[domain]
    dynamics = Dynamics(
        charge,
        reset,
        detach_reset=False,
        synapse=synapse or "decay",
        domain=edges,
        extension=extension,
        smooth=True,
    )
    run, leaves = case(layout, dynamics, synapse=synapse is not None)
    # In one random direction: 180 cases of all Jacobian entries would take minutes.
    assert torch.autograd.gradcheck(run(backend), leaves, fast_mode=True)


@pytest.mark.turns(9)
@pytest.mark.parametrize("gain_divides", [False, True], ids=["multiply", "divide"])
@pytest.mark.parametrize("charge, reset, layout", [*itertools.product(["drift", "map", "residual"], RESETS, LAYOUTS)])
def test_every_entry_of_the_jacobian(charge, reset, layout, gain_divides):
    options = {"detach_reset": False, "gain_divides": gain_divides, "smooth": True}
    dynamics = Dynamics(charge, reset, domain=(-0.9, 1.1), **options)
    run, leaves = case(layout, dynamics, synapse=True)
    assert torch.autograd.gradcheck(run("cpp"), leaves)


@pytest.mark.turns(9)
@pytest.mark.parametrize("smooth", [False, True], ids=["spikes", "smooth"])
@pytest.mark.parametrize("charge, reset, layout", [*itertools.product(["drift", "map", "residual"], RESETS, LAYOUTS)])
def test_detached_resets_are_the_reference_s(charge, reset, layout, smooth):
    """No true gradient exists there; what counts is autograd through the law.

    Each entry sums fewer than 100 terms of fewer than 200 operations: 300 eps of terms below 100.
    """
    dynamics = Dynamics(charge, reset, detach_reset=True, domain=(-0.9, 1.1), smooth=smooth)
    run, leaves = case(layout, dynamics, synapse=True)
    found = []
    for backend in ("cpp", "reference"):
        outputs = run(backend)(*leaves)
        loss = sum((value * torch.arange(value.numel()).reshape(value.shape).sin()).sum() for value in outputs)
        found.append(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
    for mine, true in zip(*found, strict=True):
        assert (mine - true).abs().max() <= 300 * 100 * torch.finfo(torch.float64).eps


@pytest.mark.parametrize("name", surrogate.available())
def test_gradcheck_of_every_surrogate(name):
    dynamics = Dynamics("map", "soft", detach_reset=False, surrogate=surrogate.get(name), smooth=True)
    run, leaves = case("layer", dynamics, synapse=False)
    assert torch.autograd.gradcheck(run("cpp"), leaves)


@pytest.mark.parametrize("gain_divides", [False, True], ids=["multiply", "divide"])
@pytest.mark.parametrize("slope", [0.5, 1.7, -1.7])
@pytest.mark.parametrize("charge", ["drift", "map", "residual"])
def test_gradcheck_outside_the_domain(charge, slope, gain_divides):
    """θ_1 on either side of where the slope of the line is clamped, all membranes outside."""
    dynamics = Dynamics(charge, "none", domain=(-0.01, 0.01), gain_divides=gain_divides, smooth=True)
    theta = torch.tensor([0.1, slope if charge == "map" else -3 * slope, 0.3, -0.2], dtype=torch.float64)
    numbers = [torch.tensor(value, dtype=torch.float64) for value in (1.0, 0.0, 0.7)]
    leaves = [
        torch.ones(2, 2, 3, dtype=torch.float64),
        torch.full((2, 3), 0.5, dtype=torch.float64),
        theta,
        *numbers,
    ]

    def f(x, v, *parameters):
        out = functional.run(x, State(v), Parameters(*parameters), dynamics, backend="cpp")
        return out.membrane

    assert torch.autograd.gradcheck(f, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("backend", BACKENDS)
@given(problem=problems(dyadic=False, max_steps=3, max_degree=4, smooth=True, detach_reset=False, surrogate=MILD))
def test_gradcheck_of_whatever_comes(backend, problem):
    """Every option with every other, mixed layouts included, where numbers stay moderate.

    Finite differences with steps of 1e-6 see 1e-10 of values below 100, and gradcheck allows 1e-5. They
    cannot see the slope beside a corner: surrogates that have one are checked above.
    """
    numbers = [value for value in (problem.x, *problem.state, *problem.parameters) if value is not None]
    synapse = problem.parameters.alpha is not None

    def f(x, v, *rest):
        current, rest = (rest[0], rest[1:]) if synapse else (None, rest)
        out = functional.run(x, State(v, current), Parameters(*rest), problem.dynamics, backend=backend)
        return tuple(value for value in (out.spikes, out.membrane, *out.state) if value is not None)

    leaves = [value.clone().requires_grad_() for value in numbers]
    outputs = f(*leaves)
    slopes = torch.autograd.grad(sum(value.sum() for value in outputs), leaves, allow_unused=True)
    assume(all(float(v.detach().abs().max()) < 100 for v in (*outputs, *slopes) if v is not None))
    assert torch.autograd.gradcheck(f, leaves, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reset", RESETS)
def test_gradcheck_fails_with_real_spikes(reset, backend):
    """A step has no slope: whoever forgets the smooth mode must not pass."""
    run, leaves = case("layer", Dynamics("map", reset, detach_reset=False), synapse=False)
    with pytest.raises(RuntimeError, match="Jacobian"):
        torch.autograd.gradcheck(run(backend), leaves)


# Where nothing holds the bare cubic, neither a domain nor a hard reset, its slopes reach 10⁹ within three steps.
HELD = [
    case
    for case in itertools.product(["drift", "map", "residual"], RESETS, DOMAINS)
    if case[2] != "bare" or case[1].startswith("hard")
]


@pytest.mark.parametrize("charge, reset, domain", HELD)
def test_second_derivatives_of_the_reference(charge, reset, domain):
    """The compiled engines refuse them (`test_engines.py`)."""
    edges, extension = DOMAINS[domain]
    options = {"detach_reset": False, "smooth": True, "gain_divides": charge == "residual"}
    run, leaves = case("channel", Dynamics(charge, reset, domain=edges, extension=extension, **options), synapse=True)
    assert torch.autograd.gradgradcheck(run("reference"), leaves, fast_mode=True)
