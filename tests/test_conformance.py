"""Our adapters pass the suite that `snn_lnm.testing` offers (SpikingJelly's in its folder); broken ones do not."""

import dataclasses
import sys

import norse.torch as norse
import pytest
import snn_lnm_norse.adapter
import snn_lnm_snntorch.adapter
import snntorch as snn
import torch
from norse.torch.module.iaf import IAF, IAFCell
from snntorch import utils
from torch import nn

from snn_lnm.testing import AdapterConformance


class TestSnnTorch(AdapterConformance):
    adapter = snn_lnm_snntorch.adapter.adapter

    def natives(self):
        return {
            "subtract": snn.Leaky(0.9, learn_threshold=True),
            "zero": snn.Leaky(torch.linspace(0.1, 0.9, 5), threshold=0.7, reset_mechanism="zero"),
            "immediate": snn.Leaky(0.8, reset_delay=False),
            "synaptic": snn.Synaptic(0.4, 0.8),
        }

    def run(self, neuron, x, state=None):
        spikes, state = [], (neuron.reset_mem() if state is None else state)
        state = state if isinstance(state, tuple) else (state,)
        for x_t in x:
            spike, *state = neuron(x_t, *state)
            spikes.append(spike)
        return torch.stack(spikes), tuple(state)

    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 8),
            snn.Leaky(0.9, init_hidden=True),
            nn.Linear(8, 4),
            snn.Synaptic(0.5, 0.9, init_hidden=True, output=True),
        )

    def run_model(self, model, x):
        utils.reset(model)
        return torch.stack([torch.stack(model(x_t)) for x_t in x])


class TestNorse(AdapterConformance):
    adapter = snn_lnm_norse.adapter.adapter
    rounds = ("izhikevich",)

    def natives(self):
        torch.manual_seed(0)
        p = norse.LIFParameters(tau_mem_inv=torch.tensor(500.0), v_leak=torch.tensor(0.1))
        quiet = norse.IzhikevichParameters(a=0.0, b=0.0, c=-64.0, d=0.0)
        rest = norse.IzhikevichState(v=torch.tensor(-64.0), u=torch.tensor(0.0))
        return {
            "cell": norse.LIFCell(p),
            "layer": norse.LIF(p),
            "recurrent cell": norse.LIFRecurrentCell(5, 5, p),
            "recurrent": norse.LIFRecurrent(5, 5, p),
            "box": norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0))),
            "iaf cell": IAFCell(),
            "iaf": IAF(),
            "izhikevich": norse.IzhikevichCell(norse.IzhikevichSpikingBehavior(quiet, rest)),
        }

    def run(self, neuron, x, state=None):
        if isinstance(neuron, norse.IzhikevichCell):
            x = x * 20
        if isinstance(neuron, (norse.module.snn.SNN, norse.module.snn.SNNRecurrent)):
            return neuron(x, state)
        spikes = []
        for x_t in x:
            spike, state = neuron(x_t, state)
            spikes.append(spike)
        return torch.stack(spikes), state

    def model(self):
        torch.manual_seed(0)
        fast = norse.LIFParameters(tau_mem_inv=torch.tensor(500.0))
        return norse.SequentialState(nn.Linear(5, 8), norse.LIFCell(fast), nn.Linear(8, 4), norse.LIFBoxCell())

    def run_model(self, model, x):
        rows, state = [], None
        for x_t in x:
            out, state = model(x_t, state)
            rows.append(out)
        return torch.cat([torch.stack(rows), state[-1].v.expand(1, 3, 4)])


def broken(change):
    """The snnTorch adapter with builders that go wrong in one way."""
    adapter = snn_lnm_snntorch.adapter.adapter

    def spoil(build):
        def run(old, *options):
            return change(old, build(old, *options))

        return run

    return dataclasses.replace(adapter, replace={kind: spoil(build) for kind, build in adapter.replace.items()})


def wrong_threshold(old, new):
    new._buffers.pop("threshold", None), new._parameters.pop("threshold", None)
    new.register_buffer("threshold", old.threshold.detach() * 1.0625)
    return new


def wrong_leak(old, new):
    with torch.no_grad():
        new.coefficients[..., 1] += 2**-20
    return new


def no_domain(old, new):
    new.domain = None
    return new


def other_dynamics(**change):
    """Options that the neuron shows but does not use."""

    def spoil(old, new):
        dynamics = new._dynamics
        new._dynamics = lambda: dataclasses.replace(dynamics(), **change)
        return new

    return spoil


def fixed(old, new):
    new.coefficients.requires_grad_(False)
    return new


@pytest.mark.parametrize("change, test", [
    (wrong_threshold, "test_a_model"),
    (wrong_leak, "test_swapped_is_native_to_the_bit"),
    (wrong_leak, "test_a_model"),
    (wrong_leak, "test_there_and_back_again"),
    (fixed, "test_coefficients_learn"),
    (no_domain, "test_the_options_of_swap_are_kept"),
    (no_domain, "test_checkpoints_hold_the_domain_and_it_bounds_the_membrane"),
    (wrong_leak, "test_every_neuron_finds_its_way_back"),
    (other_dynamics(fire_at_threshold=True), "test_threshold_ties_and_float64_to_the_bit"),
    (other_dynamics(domain=None), "test_checkpoints_hold_the_domain_and_it_bounds_the_membrane"),
])  # fmt: skip
def test_a_broken_adapter_is_caught(change, test, monkeypatch):
    class Suite(TestSnnTorch):
        adapter = broken(change)

    monkeypatch.setattr(sys.modules["snn_lnm.swapping.swaps"], "loaded_adapters", lambda: [Suite.adapter])
    with pytest.raises((AssertionError, RuntimeError)):
        getattr(Suite(), test)()
