"""`fuse_time` on SpikingJelly's own layers; the nets of tests/fuse have them, too."""

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.nn import functional as F

import snn_lnm


def test_its_linear_layers_say_how_large_what_they_make_is(monkeypatch):
    """No first block has to find out."""
    seen, linear = [], F.linear

    def spy(x, *parameters):
        seen.append(x.shape[:-1].numel() // 64)
        return linear(x, *parameters)

    net = nn.Sequential(layer.Linear(64, 4096, bias=False), neuron.LIFNode(tau=2.0))
    nn.init.constant_(net[0].weight, 2**-6)  # with whole numbers as inputs every order of the sums has the same bits
    snn_lnm.swap(net)
    x = torch.randint(0, 4, (100, 64, 1, 64)).float()  # 16 KiB in a step, of which 1 MiB is made
    with torch.no_grad():
        expected = torch.stack([net(x_t) for x_t in x])
        functional.reset_net(net)
        monkeypatch.setattr(F, "linear", spy)
        assert torch.equal(snn_lnm.fuse_time(net)(x), expected)
    assert seen == [16, 16, 16, 16, 16, 16, 4] and 0 < expected.mean() < 1
