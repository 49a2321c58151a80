"""LNMNode against the host's nodes: gradients of the input, the initial membrane and w; surrogates; learning."""

import jelly_cases as jelly
import pytest
import rotation
import torch
from hypothesis import given
from hypothesis import strategies as st
from snn_lnm_spikingjelly import LNMNode
from snn_lnm_spikingjelly.surrogates import recover
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import snn_lnm
from snn_lnm.surrogate import Surrogate

KINDS = {
    "if": lambda **words: neuron.IFNode(**words),
    "lif": lambda **words: neuron.LIFNode(4.0, **words),
    "lif, whole input": lambda **words: neuron.LIFNode(2.0, decay_input=False, **words),
    "plif": lambda **words: neuron.ParametricLIFNode(**words),
    "plif, whole input": lambda **words: neuron.ParametricLIFNode(decay_input=False, **words),
    "qif": lambda **words: neuron.QIFNode(2.0, 0.5, 0.5, **words),
}


@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=st.integers(0, 2**31),
    v_reset=st.sampled_from([None, 0.0, -0.25]),
    detach_reset=st.booleans(),
    alpha=st.sampled_from([0.5, 1.0]),
    mode=st.sampled_from("sm"),
    store=st.booleans(),
    degree=st.just(*rotation.some(range(2, 5), 1)),
)
def test_to_the_bit_where_arithmetic_is_exact(kind, seed, v_reset, detach_reset, alpha, mode, store, degree):
    """Few steps of dyadic numbers in float64, with a surrogate whose derivative is dyadic: no rounding anywhere."""
    v_reset = -0.25 if kind == "qif" and v_reset == 0 else v_reset
    words = {"v_reset": v_reset, "detach_reset": detach_reset, "step_mode": mode, "store_v_seq": store}
    native = KINDS[kind](surrogate_function=surrogate.Rect(alpha), **words).double()  # w and its gradient too
    generator = torch.Generator().manual_seed(seed)
    steps = 2 if kind == "qif" else 3  # every square doubles the bits
    x, v = jelly.dyadic(generator, steps, *jelly.STEP) * 2, jelly.dyadic(generator, *jelly.STEP)
    ours = jelly.gradients(jelly.swapped(native, degree), x, v, seed)
    for mine, theirs in zip(ours, jelly.gradients(native, x, v, seed), strict=True):
        assert torch.equal(mine, theirs) and theirs.any()


CHANGES = {"v_reset": None, "detach_reset": True, "v_threshold": 0.5, "surrogate_function": surrogate.Rect(0.5)}


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_set_after_a_call_counts(name):
    native = neuron.LIFNode(4.0, surrogate_function=surrogate.Rect(1.0), step_mode="m").double()
    ours, generator = jelly.swapped(native), torch.Generator().manual_seed(0)
    x, v = jelly.dyadic(generator, 3, *jelly.STEP) * 2, jelly.dyadic(generator, *jelly.STEP)
    before = jelly.gradients(ours, x, v, 0)
    for node in (native, ours):
        setattr(node, name, CHANGES[name])
    after = jelly.gradients(ours, x, v, 0)
    assert not all(map(torch.equal, before, after))
    assert all(map(torch.equal, after, jelly.gradients(native, x, v, 0)))


class Scaled:
    """A surrogate of the user's own, equal to any other one by name."""

    def __init__(self, scale):
        self.scale = scale

    def __eq__(self, other):
        return isinstance(other, Scaled)

    def __call__(self, u):
        return (u > 0).to(u) * self.scale


def test_a_callable_is_that_very_one():
    node, x = LNMNode(step_mode="m", surrogate_function=Scaled(1.0)), torch.full((1, 3), 4.0)
    once = node(x)
    node.reset()
    node.surrogate_function = Scaled(2.0)
    assert once.any() and torch.equal(node(x), 2 * once)


def test_a_list_for_a_domain_may_change():
    node = LNMNode(domain=[-1.0, 1.0])
    node(torch.ones(2))
    node.domain[1] = 0.25
    assert node._dynamics().domain == (-1.0, 0.25)


def steepest(function):
    u = torch.linspace(-4, 4, 801, dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(function(u).sum(), u)[0].abs().max())


@given(case=jelly.cases(), seed=st.integers(0, 2**31))
def test_within_a_bound(case, seed):
    """Membranes are equal to the bit, so only the backward passes round: at most 20 times per step on either side.

    Every rounding is at most ε/2 of a partial sum, and no partial sum exceeds M, the same recursion on absolute
    values: ``M[t] = |s̄[t]|·S + (|v̄[t]| + 2·M[t+1])·(1 + S·R)`` with S the steepest slope of the surrogate, R the
    longest way that a reset moves a membrane, 2 ≥ 1 + 1/τ, and all weights at most W.
    """
    native, x = case.native, case.x[0]
    v = x[0] / 2
    ours = jelly.gradients(jelly.swapped(native, case.degree), x, v, seed)
    theirs = jelly.gradients(native, x, v, seed)
    kept = jelly.run(native, x)
    largest = float(torch.stack([x.abs().max(), v.abs().max(), kept[1].detach().abs().max()]).max())
    slope, weight = steepest(native.surrogate_function), 8.0  # |s̄| < 4, |v̄| < 4 + 4
    reach = 4 * largest + abs(native.v_reset or 0.0) + native.v_threshold
    m, terms = 0.0, 0.0
    for _ in x:
        m = weight * slope + (weight + 2 * m) * (1 + slope * reach)
        terms += m * reach / 4 * x[0].numel()
    epsilon = torch.finfo(case.dtype).eps
    rounds = 20 * len(x) * epsilon
    epsilon_w = torch.finfo(torch.float32).eps  # w stays float32, and with it sigmoid(w) and the gradient
    bounds = [rounds * m, rounds * 2 * m, (20 * len(x) + x.numel()) * epsilon_w * terms]
    for mine, host, bound in zip(ours, theirs, bounds, strict=False):
        assert (mine - host).abs().max() <= bound


ORDINARY = [s for s in jelly.SURROGATES if isinstance(recover(s), Surrogate)]


@pytest.mark.parametrize("function", ORDINARY, ids=repr)
def test_recovered_surrogates_have_the_host_s_derivative(function):
    """Each evaluates at most 8 operations, on numbers of at most S (and u of relative error ε where |u·S'| ≤ 4·S)."""
    ours = recover(function)
    for dtype in (torch.float32, torch.float64):
        u = torch.linspace(-3, 3, 1201, dtype=dtype, requires_grad=True)
        (host,) = torch.autograd.grad(function(u).sum(), u)
        mine = ours.derivative(u.detach(), *ours.parameters)
        assert (mine - host).abs().max() <= 16 * torch.finfo(dtype).eps * steepest(function)


def test_what_is_recovered():
    names = {type(s).__name__ for s in ORDINARY}
    assert names == {"Sigmoid", "ATan", "PiecewiseQuadratic", "Rect", "SoftSign", "SuperSpike"}


class Steeper(surrogate.Sigmoid):
    pass


LEARNED = surrogate.Sigmoid()
LEARNED.alpha = nn.Parameter(torch.tensor(4.0))


@pytest.mark.parametrize(
    "function",
    [
        surrogate.SoftSign(3.0), surrogate.SuperSpike(2.0), surrogate.Erf(), Steeper(), LEARNED,
        surrogate.Sigmoid(spiking=False), surrogate.ATan(alpha=-1.0), surrogate.ATan(alpha=float("inf")), torch.sigmoid,
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)  # fmt: skip
def test_everything_else_stays_the_user_s(function):
    assert recover(function) is function


def test_a_learned_surrogate_learns():
    native = neuron.LIFNode(2.0, surrogate_function=LEARNED, step_mode="m")
    x = torch.randn(3, 4)
    out = jelly.swapped(native)
    loss = out(x).sum()
    assert torch.equal(loss, native(x).sum()) and "alpha" in str([*out.state_dict()])


def test_smooth_spikes_are_the_host_s():
    """``set_spiking_mode(False)`` takes effect at once: the node reads its surrogate at every call."""
    native = neuron.LIFNode(2.0, surrogate_function=surrogate.Sigmoid(), step_mode="m")
    ours = jelly.swapped(native)
    for node in (native, ours):
        node.surrogate_function.set_spiking_mode(False)
    x = torch.randn(3, 4)
    out = ours(x)
    assert torch.equal(out, native(x)) and not ((out == 0) | (out == 1)).any()


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("v_reset", [None, -0.2])
def test_engines_agree_on_coefficients(store, detach, v_reset):
    """The stored membranes carry gradient to θ as every other output does."""
    theta, results = torch.tensor([0.1, -0.8, 0.3, -0.2], dtype=torch.float64), []
    x = torch.randn(4, *jelly.STEP, dtype=torch.float64) * 2
    for backend in ("cpp", "reference"):
        node = LNMNode(
            1.7, True, 0.5, v_reset, detach_reset=detach, step_mode="m", store_v_seq=store,
            coefficients=theta, backend=backend,
        )  # fmt: skip
        outs = jelly.run(node, x)
        generator = torch.Generator().manual_seed(0)
        total = sum((out * jelly.dyadic(generator, *out.shape)).sum() for out in outs)
        results.append((outs, torch.autograd.grad(total, node.coefficients)[0]))
    (outs, mine), (expected, reference) = results
    assert all(torch.equal(a, b) for a, b in zip(outs, expected, strict=True))
    assert torch.allclose(mine, reference, rtol=1e-12, atol=0) and reference.all()


def test_training_moves_the_coefficients():
    net = nn.Sequential(nn.Linear(3, 4), neuron.ParametricLIFNode(step_mode="m"), nn.Linear(4, 2))
    snn_lnm.swap(net)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    assert "1.w" in before and "1.coefficients" in before
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(5, 6, 3) * 3).square().sum().backward()
    optimizer.step()
    assert all((value != before[name]).any() for name, value in net.named_parameters())
    assert (net[1].coefficients != before["1.coefficients"]).all()
