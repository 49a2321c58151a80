"""`LNM` as a module, and its presets as laws."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_lnm import LNM

dyadic = st.integers(-16, 16).map(lambda n: n / 8)


def test_defaults_are_the_leaky_drift():
    neuron = LNM()
    assert neuron.coefficients.tolist() == [0, -1, 0, 0] and neuron.dynamics.charge == "drift"
    assert neuron.dynamics.reset == "hard" and neuron.dynamics.domain == (-1.5, 1.5)
    assert LNM(degree=1).dynamics.domain == (-1.5, 1.5) and LNM(degree=0).dynamics.domain is None
    assert [name for name, _ in neuron.named_parameters()] == ["coefficients"]


def test_lif_and_if():
    x = torch.randn(6, 2, 3)
    spikes, state, h = LNM.lif(0.8, reset="soft")(x, return_membrane=True)
    v = torch.zeros(2, 3)
    for x_t, s_t, h_t in zip(x, spikes, h, strict=True):
        u = 0.8 * v + x_t
        assert torch.equal(h_t, u) and torch.equal(s_t, (u > 1).float())
        v = u - (u > 1).float()
    assert torch.equal(state.v, v)
    spikes, state = LNM.if_(reset="none")(x)
    total = torch.zeros(2, 3)
    for x_t in x:
        total = total + x_t
    assert torch.equal(state.v, total)


@given(dyadic, dyadic, dyadic, st.lists(dyadic, min_size=1, max_size=3))
def test_qif_on_dyadic_rationals(a, u1, u2, xs):
    """There float64 is exact, so the factored form and Horner's agree to the bit."""
    neuron = LNM.qif(a, u1, u2, dtype=torch.float64, threshold=1e9, domain=None).double()
    x = torch.tensor(xs, dtype=torch.float64).reshape(-1, 1, 1)
    _, _, h = neuron(x, return_membrane=True)
    u = 0.0
    for x_t, h_t in zip(xs, h.flatten().tolist(), strict=True):
        u = u + a * (u - u1) * (u - u2) + x_t
        assert h_t == u


def test_steps_are_the_sequence():
    for neuron in (LNM(), LNM.lif(0.9, reset="soft_next"), LNM.qif(), LNM.plif(alpha=0.5)):
        x, state, spikes = torch.randn(5, 2, 3), None, []
        for x_t in x:
            s, state = neuron.step(x_t, state)
            spikes.append(s)
        whole, last = neuron(x)
        assert torch.equal(torch.stack(spikes), whole) and torch.equal(state.v, last.v)


def test_everything_learns():
    neuron = LNM(channels=3, alpha=0.5, learn_threshold=True, learn_gain=True, learn_alpha=True)
    spikes, state, h = neuron(torch.randn(5, 2, 3), return_membrane=True)
    (spikes.sum() + h.square().sum() + state.current.sum()).backward()
    assert {name for name, _ in neuron.named_parameters()} == {"coefficients", "threshold", "gain", "alpha"}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neuron.parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda neuron: pickle.loads(pickle.dumps(neuron))])
def test_copies(copied):
    neuron, x = LNM(channels=3, learn_threshold=True), torch.randn(4, 2, 3)
    torch.nn.init.normal_(neuron.coefficients, std=0.1)
    other = copied(neuron)
    assert torch.equal(other(x)[0], neuron(x)[0]) and other.coefficients is not neuron.coefficients
    fresh = LNM(channels=3, learn_threshold=True)
    fresh.load_state_dict(neuron.state_dict())
    assert torch.equal(fresh(x)[1].v, neuron(x)[1].v)


def test_presets_name_their_parameters():
    assert LNM.lif(0.75).coefficients.tolist() == [0, 0.75] and LNM.lif(0.75).gain == 1
    assert LNM.lif(torch.tensor([0.5, 0.25]), degree=2).coefficients.tolist() == [[0, 0.5, 0], [0, 0.25, 0]]
    assert LNM.if_().coefficients.tolist() == [0, 1]
    assert LNM.qif(0.25, 0.0, 0.5).coefficients.tolist() == [0, 0.875, 0.25]
    assert not dict(LNM.lif(learn=False).named_parameters())
    assert {name for name, _ in LNM.plif().named_parameters()} == {"coefficients", "threshold"}


def test_a_state_dict_holds_every_number_and_only_those():
    names = {"coefficients", "threshold", "v_reset", "gain", "_extra_state"}  # the last is the domain
    neuron = LNM()
    neuron(torch.randn(3, 2, 4))
    assert set(neuron.state_dict()) == names and set(LNM(alpha=0.5).state_dict()) == {*names, "alpha"}


def test_dtypes_and_repr():
    x = torch.randn(4, 2, 3)
    assert LNM().double()(x.double())[0].dtype == torch.float64
    spikes, state = LNM().bfloat16()(x.bfloat16())
    assert spikes.dtype == torch.bfloat16 and state.v.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        current = torch.nn.functional.linear(x, torch.randn(5, 3))
        assert current.dtype == torch.bfloat16 and LNM()(current)[1].v.dtype == torch.float32
    assert "degree=3, layout=[4], charge='drift'" in repr(LNM(channels=4))


def test_checkpoints_carry_the_domain():
    wide, narrow = LNM(threshold=1.0), LNM(threshold=0.5)
    assert narrow.domain == (-0.75, 0.75)
    wide.bfloat16().load_state_dict(narrow.state_dict())
    assert wide.domain == (-0.75, 0.75)
    wide.load_state_dict(LNM(domain=None).state_dict())
    assert wide.domain is None
    without = {name: value for name, value in narrow.state_dict().items() if "extra" not in name}
    wide.load_state_dict(without)
    assert wide.domain is None


def test_built_on_the_meta_device_and_filled_from_a_checkpoint():
    neuron = LNM(3, threshold=0.5)
    with torch.device("meta"):
        empty = LNM(3)
        with pytest.raises(ValueError, match="meta device"):
            LNM(3, threshold=torch.ones(3))
    assert empty.coefficients.is_meta and empty.domain != neuron.domain
    empty.load_state_dict(neuron.state_dict(), assign=True)
    x = torch.randn(4, 2, 3) * 3
    assert torch.equal(empty(x)[0], neuron(x)[0]) and empty.domain == neuron.domain
