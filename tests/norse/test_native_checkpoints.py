"""Checkpoints of Norse's own models, which hold no numbers of a neuron, in swapped models."""

import copy

import norse.torch as norse
import pytest
import torch
from norse.torch.module.iaf import IAF, IAFCell
from test_exact import behaviour, run
from torch import nn

import snn_lnm

FAST = norse.LIFParameters(tau_mem_inv=torch.tensor(500.0), v_leak=torch.tensor(0.1))
MAKE = {
    "LIFCell": lambda: norse.LIFCell(FAST),
    "LIF": lambda: norse.LIF(FAST),
    "LIFRecurrentCell": lambda: norse.LIFRecurrentCell(4, 4, FAST),
    "LIFRecurrent": lambda: norse.LIFRecurrent(4, 4, FAST),
    "LIFBoxCell": lambda: norse.LIFBoxCell(
        norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_leak=torch.rand(4))
    ),
    "IAFCell": IAFCell,
    "IAF": IAF,
    "IzhikevichCell": lambda: norse.IzhikevichCell(behaviour()),
}


def pair(name):
    """A swapped model, and another native one with other weights."""
    native = nn.ModuleList([nn.Linear(4, 4), MAKE[name]()])
    net = copy.deepcopy(native)
    assert not snn_lnm.swap(net).skipped
    for parameter in native.parameters():
        torch.nn.init.normal_(parameter)
    if hasattr(native[1], "recurrent_weights"):
        native[1].recurrent_weights.data.fill_diagonal_(0.0)
    return native, net


def outputs(net):
    torch.manual_seed(1)
    return run(net[1], net[0](torch.randn(6, 2, 4) * 4))[0]


@pytest.mark.parametrize("name", MAKE)
def test_they_load_and_mean_the_native_neuron(name):
    native, net = pair(name)
    start = net[1].coefficients.detach().clone()
    assert not any(net.load_state_dict(native.state_dict()))
    assert torch.equal(net[1].coefficients, start)
    if name != "IzhikevichCell":  # it rounds in another order
        assert torch.equal(outputs(net), outputs(native)) and outputs(net).any()
    with torch.no_grad():
        net[1].coefficients += 0.125
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "1.coefficients"\. $'):
        net.load_state_dict(native.state_dict())
    with torch.no_grad():
        net[1].coefficients.copy_(start)
    assert not any(net.load_state_dict(native.state_dict()))


def test_a_partial_checkpoint_changes_nothing_that_was_learned():
    _, net = pair("LIFCell")
    assert net.load_state_dict({"0.bias": torch.zeros(4)}, strict=False).missing_keys == ["0.weight"]
    with torch.no_grad():
        net[1].coefficients += 0.125
    learned = net[1].coefficients.detach().clone()
    missing = net.load_state_dict({"0.bias": torch.zeros(4)}, strict=False).missing_keys
    assert missing == ["0.weight", "1.coefficients"] and torch.equal(net[1].coefficients, learned)


def test_other_numbers_stay_as_in_a_native_neuron():
    native, net = pair("LIFCell")
    net[1].v_th.fill_(0.25)
    net.load_state_dict(native.state_dict())
    native[1].p = FAST._replace(v_th=torch.tensor(0.25))
    assert torch.equal(outputs(net), outputs(native))


def test_coefficients_start_at_those_of_the_last_p():
    native, net = pair("LIFCell")
    net[1].p = net[1].p._replace(coefficients=torch.tensor([0.25, -1.0, 0.0, 0.0]), v_start=torch.tensor(0.25))
    net[1].p = net[1].p._replace(v_th=torch.tensor(0.5))  # the coefficients are the module's own
    net.load_state_dict(native.state_dict())
    with torch.no_grad():
        net[1].coefficients += 0.125
    net[1].p = net[1].p._replace(v_th=torch.tensor(0.5))
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict(native.state_dict())


def test_a_neuron_of_one_s_own_has_no_native_start():
    from snn_lnm_norse import LNMCell

    with pytest.raises(RuntimeError, match="Missing key"):
        LNMCell().load_state_dict({})


def test_meta_neurons_lack_what_no_checkpoint_has():
    native, net = pair("LIFCell")
    with pytest.raises(RuntimeError, match=r'Missing key.*"1\.v_th"'):
        net.to("meta").load_state_dict(native.state_dict(), assign=True)


def test_half_and_double_models():
    for dtype in (torch.float64, torch.bfloat16):
        native, net = pair("LIFCell")
        start = net.to(dtype)[1].coefficients.detach().clone()
        net.load_state_dict(native.state_dict())
        assert torch.equal(net[1].coefficients, start) and start.dtype == dtype
