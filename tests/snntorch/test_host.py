"""The adapter against snnTorch's own neurons: same bits, same gradients, same manners."""

import copy
import gc
import io
import pickle
import warnings
import weakref

import pytest
import snntorch as snn
import torch
from hypothesis import given
from hypothesis import strategies as st
from snn_lnm_snntorch import LNM, SynapticLNM
from snntorch import surrogate, utils
from snntorch.functional import quant
from torch import nn

import snn_lnm

SURROGATES = {
    "default": lambda: None,
    "atan": lambda: surrogate.atan(1.3),
    "fast sigmoid": lambda: surrogate.fast_sigmoid(10),
    "sigmoid": lambda: surrogate.sigmoid(4),
    "straight through": surrogate.straight_through_estimator,
    "custom": lambda: surrogate.custom_surrogate(lambda u, grad, spikes: grad / (1 + u.abs())),
}
SHAPES = {(3,): [()], (2, 5): [(), (5,)], (2, 3, 4, 5): [(), (3, 1, 1), (5,), (3, 4, 5)]}


@st.composite
def leaky_cases(draw):
    shape = draw(st.sampled_from(list(SHAPES)))
    layout = draw(st.sampled_from(SHAPES[shape]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def number(low, high):
        if not layout:
            return draw(st.floats(low, high, width=32))
        return torch.empty(layout).uniform_(low, high, generator=generator)

    quantise = draw(st.sampled_from([False, False, True]))
    options = {
        "beta": number(-0.25, 1.25),
        "threshold": draw(st.floats(0.125, 2, width=32)),
        "spike_grad": SURROGATES[draw(st.sampled_from(list(SURROGATES)))](),
        "reset_mechanism": draw(st.sampled_from(["subtract", "zero", "none"])),
        "reset_delay": draw(st.booleans()),
        "learn_threshold": True,
        "graded_spikes_factor": draw(st.sampled_from([1.0, 0.5, 0.3])),
        "inhibition": len(shape) == 2 and draw(st.booleans()),
        "state_quant": quant.state_quant(num_bits=4) if quantise else False,
    }
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    x = torch.randn((draw(st.integers(1, 6)), *shape), generator=generator) * draw(st.sampled_from([0.5, 1.5, 4]))
    mem = torch.randn(shape, generator=generator)
    return options, x.to(dtype), mem.to(dtype), draw(st.integers(1, 5))


def loop(neuron, x, *state):
    """The user's loop; spikes and states of every step, stacked."""
    rows = []
    for x_t in x:
        spk, *state = neuron(x_t, *state)
        rows.append(torch.stack([spk.to(x.dtype), *(value.to(x.dtype) for value in state)]))
    return torch.stack(rows)


def swapped(native, degree=3):
    net = nn.Sequential(copy.deepcopy(native))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inhibition warns
        snn_lnm.swap(net, degree=degree)
    return net[0]


def check_same(native, ours, x, *state):
    found = []
    for neuron in (native, ours):
        leaves = [value.clone().requires_grad_() for value in (x, *state)]
        rows = loop(neuron, *leaves)
        generator = torch.Generator().manual_seed(5)
        weight = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows.dtype)
        leaves.append(neuron.threshold)
        found.append((rows.detach(), torch.autograd.grad((rows * weight).sum(), leaves, allow_unused=True)))
    assert torch.equal(found[0][0], found[1][0])
    # The threshold's gradient sums n ≤ 2160 terms, in float32 also in the host's double nets (its spikes
    # are float32): orders of summation differ by n·2⁻²⁴ < 1.3e-4 of the terms. The others are chains of at
    # most 6 steps of about 10 roundings, each 2⁻²⁴ of the largest.
    bounds = [6 * 10 * 2**-24] * (len(found[0][1]) - 1) + [1.3e-4]
    for host, mine, eps in zip(found[0][1], found[1][1], bounds, strict=True):
        if host is not None:
            known = host.isfinite()  # the host's sigmoid overflows to NaN far below the threshold
            host, mine = host[known], mine[known]
            scale = 1 + float(host.abs().amax()) if host.numel() else 1.0
            assert torch.allclose(host, mine, rtol=0, atol=eps * scale)


@given(leaky_cases())
def test_swapped_leaky_is_leaky(case):
    options, x, mem, degree = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inhibition warns
        native = snn.Leaky(**options).to(x.dtype)
    check_same(native, swapped(native, degree), x, mem)


@given(
    st.floats(-0.25, 1.25, width=32),
    st.floats(-0.25, 1.25, width=32),
    st.sampled_from(["subtract", "zero", "none"]),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**31),
)
def test_swapped_synaptic_is_synaptic(alpha, beta, reset, delay, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    native = snn.Synaptic(alpha, beta, reset_mechanism=reset, reset_delay=delay, learn_threshold=True).to(dtype)
    x, syn, mem = (torch.randn(s, generator=generator).to(dtype) for s in ((5, 2, 7), (2, 7), (2, 7)))
    check_same(native, swapped(native), x, syn, mem)


@pytest.mark.filterwarnings("ignore:Inhibition:UserWarning")  # the host calls it unstable, its own neurons too
def test_inhibition_lets_one_neuron_fire():
    """All are far above the threshold; the winner of each sample fires alone, as in the host."""
    native = snn.Leaky(0.9, inhibition=True)
    ours, x = swapped(native), 3 + torch.rand(4, 2, 5)
    expected = loop(native, x, torch.zeros(2, 5))
    assert (expected[:, 0].sum(-1) == 1).all() and torch.equal(loop(ours, x, torch.zeros(2, 5)), expected)


def test_the_inputs_do_spike():
    """The comparison above would be worth little on silent neurons."""
    x = torch.randn(6, 4, 50) * 1.5
    assert 0.1 < loop(LNM(0.9), x, torch.zeros(4, 50))[:, 0].mean() < 0.9


def test_it_learns_more_than_a_leak():
    neuron, x = LNM(0.9, degree=3), torch.randn(6, 4, 5)
    loop(neuron, x, torch.zeros(4, 5)).sum().backward()
    assert neuron.coefficients.grad is not None and (neuron.coefficients.grad != 0).all()


def test_it_is_found_by_the_host_s_helpers():
    net = nn.Sequential(nn.Linear(4, 3), LNM(0.9, init_hidden=True, output=True))
    _, mem = net(torch.randn(2, 4))
    assert isinstance(net[1], snn.Leaky) and mem.any() and mem.requires_grad
    assert utils._final_layer_check(net) == 2
    utils.reset(net)
    assert not net[1].mem.any() and not net[1].mem.requires_grad
    net(torch.randn(2, 4))
    LNM.detach_hidden()
    assert not net[1].mem.requires_grad
    assert net[1].reset_mem().abs().sum() == 0


def test_bptt_of_the_host():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from snntorch import backprop
    import snntorch.functional as sf

    net = nn.Sequential(nn.Linear(4, 3), LNM(0.9, init_hidden=True, output=True))
    before = net[1].coefficients.detach().clone()
    data = [(torch.randn(5, 2, 4) * 3, torch.tensor([0, 2]))]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    backprop.BPTT(net, data, optimizer, sf.ce_rate_loss(), device="cpu")
    assert not torch.equal(before, net[1].coefficients)


def alive():
    """Entries of the host's registry that are neurons, not the places of dead ones."""
    gc.collect()
    return sum(isinstance(neuron, snn.SpikingNeuron) for neuron in snn.SpikingNeuron.instances)


def test_neurons_die():
    before = alive()
    neurons = [LNM(0.9), copy.deepcopy(LNM(0.9))]
    assert alive() == before + 2
    del neurons
    assert alive() == before


def test_neurons_may_die_while_the_host_walks_its_registry():
    nets = [nn.Sequential(LNM(0.9, init_hidden=True)) for _ in range(2)]
    nets[0][0].register_full_backward_hook(lambda *_: None)  # graph -> hook -> neuron -> mem -> graph
    nets[0](torch.randn(2, 3, requires_grad=True))
    nets[1](torch.ones(2, 3))
    del nets[0]
    utils.reset(nets[0])
    assert not nets[0][0].mem.any()


def test_a_neuron_that_dies_after_the_host_looked_at_its_class_can_be_reset():
    neuron = SynapticLNM(0.8, 0.9)
    snn.SpikingNeuron.instances.append(weakref.ref(neuron))
    place = len(snn.SpikingNeuron.instances) - 1
    del neuron
    gc.collect()
    for name in ("syn", "mem"):
        dead = snn.SpikingNeuron.instances[place]
        setattr(dead, name, torch.zeros_like(getattr(dead, name)).detach_())
    LNM(0.9)  # and its place is given up


@pytest.mark.parametrize("make", [lambda: LNM(0.9, threshold=0.7), lambda: SynapticLNM(0.5, 0.9)])
def test_copies_go_on_without_the_graph_and_are_reset(make):
    """In the middle of a sequence, as the host's where there is no graph."""
    neuron, x = make(), torch.full((2, 3), 0.8)
    neuron(x.clone().requires_grad_())
    file = io.BytesIO()
    torch.save(neuron, file)
    file.seek(0)
    others = [
        copy.copy(neuron),
        copy.deepcopy(neuron),
        pickle.loads(pickle.dumps(neuron)),
        torch.load(file, weights_only=False),
    ]
    expected = neuron(x)
    for other in others:
        assert other.mem.any() and not other.mem.requires_grad
        assert all(torch.equal(got, value) for got, value in zip(other(x), expected, strict=True))
    utils.reset(nn.Sequential(neuron))
    assert not any(other.mem.any() for other in others)


def test_dtypes_flow():
    for dtype in (torch.float64, torch.bfloat16):
        net = nn.Sequential(nn.Linear(4, 3), LNM(0.9, init_hidden=True), nn.Linear(3, 2)).to(dtype)
        assert net(torch.randn(2, 4, dtype=dtype)).dtype == dtype


def test_membranes_are_not_broadcast_by_ddp():
    neuron = LNM(0.9)
    neuron(torch.randn(2, 3))
    assert "mem" not in dict(neuron.named_buffers()) and "mem" not in neuron.state_dict()
    assert neuron.to(torch.float64).mem.dtype == torch.float64


def test_setting_the_reset_takes_effect():
    x = torch.full((4, 1, 1), 0.8)
    neuron = LNM(0.9)
    neuron.reset_mechanism = "zero"
    assert torch.equal(loop(neuron, x, torch.zeros(1, 1)), loop(LNM(0.9, reset_mechanism="zero"), x, torch.zeros(1, 1)))
    other = LNM(0.9)
    other.load_state_dict(neuron.state_dict())
    assert other.reset_mechanism == "zero"
    assert torch.equal(loop(other, x, torch.zeros(1, 1)), loop(neuron, x, torch.zeros(1, 1)))


def test_native_checkpoints_load():
    native = nn.Sequential(nn.Linear(4, 3), snn.Leaky(0.7, threshold=0.5))
    ours = nn.Sequential(nn.Linear(4, 3), LNM(0.1, degree=2))
    ours.load_state_dict(native.state_dict())
    assert ours[1].coefficients.tolist() == [0, pytest.approx(0.7), 0] and ours[1].threshold == 0.5
    other = nn.Sequential(nn.Linear(4, 3), LNM(0.1, degree=2, threshold=0.5))
    assert ours[1].domain == (-1.5, 1.5)  # the native checkpoint says nothing of it
    ours.load_state_dict(other.state_dict())
    assert ours[1].domain == (-0.75, 0.75)
    broken = native.state_dict() | {"1.beta": torch.tensor(float("nan"))}
    with pytest.raises(ValueError, match="beta must be finite"):
        ours.load_state_dict(broken)


def test_a_smaller_last_batch_starts_at_zero():
    neuron, native = LNM(0.9), snn.Leaky(0.9)
    for x in (torch.randn(5, 3), torch.randn(2, 3)):
        for _ in range(2):
            mine, host = neuron(x, neuron.mem), native(x, native.mem)
            assert torch.equal(mine[1], host[1])


NEURON, X = LNM(0.9), torch.ones(2, 3)
CALLS = [
    (TypeError, "init_hidden=True", lambda: LNM(0.9, init_hidden=True)(X, X)),
    (TypeError, "input_ must be a torch.Tensor", lambda: NEURON([1.0])),
    (TypeError, "mem must be a torch.Tensor", lambda: NEURON(X, 0.5)),
    (TypeError, "torch.complex64", lambda: NEURON(X.cfloat())),
    (TypeError, "beta must be a number", lambda: LNM(beta="0.9")),
    (ValueError, "finite", lambda: LNM(float("nan"))),
    (ValueError, "give beta", lambda: LNM()),
    (ValueError, "degree must be at least 1", lambda: LNM(0.9, degree=0)),
    (ValueError, "between 0 and 8", lambda: LNM(0.9, degree=9)),
    (TypeError, "coefficients must be a tensor", lambda: LNM(coefficients="cubic")),
    (ValueError, "got a scalar", lambda: LNM(coefficients=torch.tensor(0.9))),
    (ValueError, "finite", lambda: LNM(coefficients=torch.tensor([0.0, torch.inf]))),
    (ValueError, "between 0 and 8", lambda: LNM(coefficients=torch.zeros(10))),
    (ValueError, "unknown surrogate", lambda: LNM(0.9, spike_grad="x")),
    (ValueError, "reset_mechanism", lambda: LNM(0.9, reset_mechanism="hard")),
    (ValueError, "does not fit", lambda: LNM(torch.rand(5))(X)),
    (AttributeError, "has no beta", lambda: LNM(coefficients=[0.0, 0.9, 0.1]).beta),
    (AttributeError, "beta is θ_1", lambda: setattr(NEURON, "beta", X)),
]


@pytest.mark.parametrize("kind, message, call", CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input_changes_nothing(kind, message, call):
    NEURON(X)
    before = NEURON.mem
    with pytest.raises(kind, match=message):
        call()
    assert NEURON.mem is before
