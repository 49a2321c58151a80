"""Nets that take time themselves are refused, whichever layer does."""

import norse.torch as norse
import pytest
import snntorch as snn
import torch
from optional import HAS_SPIKINGJELLY
from torch import nn

import snn_lnm

if HAS_SPIKINGJELLY:
    from spikingjelly.activation_based import functional as jelly
    from spikingjelly.activation_based import layer, neuron

T, B = 4, 3


def norse_net():
    return norse.SequentialState(nn.Linear(5, 5), norse.LIF())


def norse_recurrent():
    return norse.SequentialState(norse.LIFRecurrent(5, 5))


def lifted():
    return norse.SequentialState(norse.Lift(nn.Linear(5, 5)), norse.LIFCell())


def own():
    return norse.SequentialState(nn.Linear(5, 5), snn_lnm.LNM())


def quadratic():
    return norse.SequentialState(nn.Linear(5, 5), snn_lnm.QIF())


def parallel():
    return nn.Sequential(snn.LeakyParallel(5, 5), nn.Linear(5, 5))


def jelly_net():
    net = nn.Sequential(layer.Linear(5, 5), neuron.IFNode())
    jelly.set_step_mode(net, "m")
    return net


def jelly_neuron():
    return nn.Sequential(nn.Linear(5, 5), neuron.IFNode(step_mode="m"))


def jelly_container():
    return nn.Sequential(layer.SeqToANNContainer(nn.Linear(5, 5)), neuron.IFNode())


MANY = [norse_net, norse_recurrent, lifted, own, quadratic, parallel]
MANY += [jelly_net, jelly_neuron, jelly_container] if HAS_SPIKINGJELLY else []


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("build", MANY)
def test_a_net_that_takes_time_itself_is_refused(build, swap):
    net = build()
    if swap:
        snn_lnm.swap(net)
    with pytest.raises(ValueError, match=r"this net takes time itself \(\w+, \w+, takes \[T, B, \.\.\.\]\): call it"):
        snn_lnm.fuse_time(net)


@pytest.mark.skipif(not HAS_SPIKINGJELLY, reason="spikingjelly is not installed")
def test_a_net_that_is_switched_to_sequences_later_is_refused_then():
    net = nn.Sequential(layer.Linear(5, 5), neuron.IFNode())
    snn_lnm.swap(net)
    fused = snn_lnm.fuse_time(net)
    jelly.set_step_mode(net, "m")
    with pytest.raises(ValueError, match="takes time itself"):
        fused(torch.rand(T, B, 5))
    assert net[1].v == 0.0  # as it was
    jelly.set_step_mode(net, "s")
    assert fused(torch.rand(T, B, 5)).shape == (T, B, 5)
