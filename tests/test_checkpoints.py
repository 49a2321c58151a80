"""Checkpoints of another degree, and those of native neurons (SpikingJelly's in its folder)."""

import checkpoints
import pytest
import snn_lnm_norse
import snn_lnm_snntorch
import torch
from hypothesis import given

import snn_lnm


def of_norse(kind, *sizes):
    def build(theta, domain):
        torch.manual_seed(0)
        fast = torch.tensor(500.0)
        p = snn_lnm_norse.LNMParameters(theta, tau_syn_inv=fast, tau_mem_inv=fast, domain=domain)
        return kind(*sizes, p)

    return build


def steps(neuron, x):
    state, seen = None, []
    for x_t in x:
        spikes, state = neuron(x_t, state)
        seen += [spikes, *(state if isinstance(state, tuple) else [state])]
    return seen


def synaptic_steps(neuron, x):
    states, seen = [], []
    for x_t in x:
        spikes, *states = neuron(x_t, *states)
        seen += [spikes, *states]
    return seen


def sequence(neuron, x):
    spikes, state = neuron(x)
    return [spikes, *(value for value in state if value is not None)]


NEURONS = {
    "LNM": (lambda theta, domain: snn_lnm.LNM(coefficients=theta, domain=domain), sequence),
    "snnTorch": (lambda theta, domain: snn_lnm_snntorch.LNM(coefficients=theta, domain=domain), steps),
    "snnTorch synaptic": (
        lambda theta, domain: snn_lnm_snntorch.SynapticLNM(0.5, coefficients=theta, domain=domain),
        synaptic_steps,
    ),
    "Norse cell": (of_norse(snn_lnm_norse.LNMCell), steps),
    "Norse": (of_norse(snn_lnm_norse.LNM), sequence),
}


@pytest.mark.parametrize("name", NEURONS)
@given(case=checkpoints.cases())
def test_another_degree(name, case):
    checkpoints.check(*NEURONS[name], case)


@pytest.mark.parametrize("kind", [snn_lnm_norse.LNMRecurrentCell, snn_lnm_norse.LNMRecurrent])
def test_another_degree_of_recurrent_neurons(kind):
    theta, x = torch.tensor([0.1, -0.5]), torch.randn(6, 2, 3) * 2
    run = steps if kind is snn_lnm_norse.LNMRecurrentCell else sequence
    checkpoints.check(of_norse(kind, 3, 3), run, (theta, 2, x, ((-0.75, 1.0), None)))


def test_shapes_that_no_zeros_mend_stay_an_error_of_pytorch():
    with pytest.raises(RuntimeError, match="size mismatch"):
        snn_lnm.LNM(3, channels=2).load_state_dict(snn_lnm.LNM(1, channels=5).state_dict())


def test_what_is_not_a_number_is_not_zero():
    given = snn_lnm.LNM(3).state_dict()
    given["coefficients"][3] = torch.nan
    with pytest.raises(RuntimeError, match="degree 3 and the neuron of degree 1"):
        snn_lnm.LNM(1).load_state_dict(given)


def test_a_filled_up_checkpoint_is_assigned_and_not_shared():
    given = snn_lnm.LNM(1).state_dict()
    for strict in (True, False):
        neuron = snn_lnm.LNM(3)
        neuron.load_state_dict(given, assign=True, strict=strict)
        assert neuron.degree == 3 and isinstance(neuron.coefficients, torch.nn.Parameter)
    assert given["coefficients"].shape == (2,)
