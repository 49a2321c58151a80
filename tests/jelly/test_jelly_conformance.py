"""The adapter passes the suite that `snn_lnm.testing` offers."""

import torch
from snn_lnm_spikingjelly.adapter import adapter
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from snn_lnm.testing import AdapterConformance


class TestSpikingJelly(AdapterConformance):
    adapter = adapter
    rounds = ("quadratic",)

    def natives(self):
        return {
            "if": neuron.IFNode(),
            "lif": neuron.LIFNode(tau=2.3, v_reset=None),
            "lif, sequence": neuron.LIFNode(tau=2.3, decay_input=False, detach_reset=True, step_mode="m"),
            "plif": neuron.ParametricLIFNode(init_tau=1.7),
            "quadratic": neuron.QIFNode(tau=2.0),
        }

    def run(self, neuron, x, state=None):
        if state is None:
            functional.reset_net(neuron)
        if neuron.step_mode == "m":
            return neuron(x), neuron.v
        return torch.stack([neuron(x_t) for x_t in x]), neuron.v

    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(
            layer.Linear(5, 8, step_mode="m"),
            neuron.LIFNode(step_mode="m"),
            layer.Linear(8, 4, step_mode="m"),
            neuron.ParametricLIFNode(step_mode="m"),
        )

    def run_model(self, model, x):
        functional.reset_net(model)
        return torch.cat([model(x), model[-1].v[None]])
