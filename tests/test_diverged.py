"""Training that made coefficients NaN: the error names the layer, and says what to try; nothing has changed."""

import copy

import norse.torch as norse
import pytest
import snntorch as snn
import torch
from optional import HAS_SPIKINGJELLY
from torch import nn
from torch.utils._pytree import tree_leaves

import snn_lnm

NETS = {
    "snntorch": lambda: nn.Sequential(nn.Linear(3, 3), nn.Sequential(snn.Leaky(0.9, init_hidden=True))),
    "snntorch, in its own code": lambda: nn.Sequential(
        nn.Linear(3, 3), nn.Sequential(snn.Leaky(0.9, init_hidden=True, reset_delay=False))
    ),
    "norse": lambda: norse.SequentialState(nn.Linear(3, 3), norse.SequentialState(norse.LIFCell())),
    "norse over time": lambda: nn.Sequential(nn.Linear(3, 3), nn.Sequential(norse.LIF())),
    "norse, recurrent": lambda: norse.SequentialState(
        nn.Linear(3, 3), norse.SequentialState(norse.LIFRecurrentCell(3, 3))
    ),
}
FUSED = ["snntorch", "norse"]
if HAS_SPIKINGJELLY:
    from spikingjelly.activation_based import neuron

    NETS["spikingjelly"] = lambda: nn.Sequential(nn.Linear(3, 3), nn.Sequential(neuron.LIFNode()))
    FUSED.append("spikingjelly")
X = torch.ones(4, 2, 3)
MESSAGE = r"coefficients must be finite, got \[nan.* in layer '1\.0'\. .*smaller learning rate"


def diverged(name):
    """A net whose coefficients are NaN, and what they were."""
    net = NETS[name]()
    snn_lnm.swap(net)
    before = net[1][0].coefficients.detach().clone()
    with torch.no_grad():
        net[1][0].coefficients.fill_(torch.nan)
    return net, before


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("name", NETS)
def test_the_layer_is_named(name, backend):
    net, before = diverged(name)
    fresh, x = copy.deepcopy(net), X if "over time" in name else X[0]
    net[1][0].backend = backend
    with pytest.raises(ValueError, match=MESSAGE):
        net(x)
    for model in (net, fresh):
        model[1][0].coefficients.data = before
    ours, others = (tree_leaves(model(x)) for model in (net, fresh))  # as if the call had not been
    assert all(a is b or torch.equal(a, b) for a, b in zip(ours, others, strict=True))


@pytest.mark.parametrize("name", FUSED)
def test_the_layer_of_a_fused_network_is_named(name):
    with pytest.raises(ValueError, match=MESSAGE):
        snn_lnm.fuse_time(diverged(name)[0])(X)


@pytest.mark.parametrize("lengths", [None, [1, 4]])
def test_a_layer_without_a_path(lengths):
    layer = snn_lnm.LNM()
    layer.coefficients.data.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"coefficients must be finite, got \[inf, inf, inf, inf\]\. If they were"):
        layer(X, lengths=lengths)


def test_other_errors_stay_what_they_are():
    with pytest.raises(ValueError, match=r"state\.v has shape \[5\]"):
        snn_lnm.LNM()(X, snn_lnm.State(torch.ones(5)))
