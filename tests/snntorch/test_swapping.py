"""What `swap` keeps besides the numbers: hooks, the registry, neurons that somebody rebuilt."""

import gc
import weakref

import pytest
import snntorch as snn
import torch
from snn_lnm_snntorch import registry
from torch import nn

import snn_lnm


def leaky(**options):
    return nn.Sequential(snn.Leaky(0.9, init_hidden=True, **options))


def test_hooks_keep_their_signature_and_their_handles():
    net, seen = leaky(), []
    handles = [
        net[0].register_forward_hook(lambda m, args, kwargs, out: seen.append(kwargs), with_kwargs=True),
        net[0].register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True),
        net[0].register_full_backward_hook(lambda m, inputs, outputs: seen.append(outputs)),
    ]
    snn_lnm.swap(net)
    x = torch.randn(2, 3, requires_grad=True)
    net(x).sum().backward()
    assert seen[:2] == [{}, {}] and len(seen) == 3
    for handle in handles:
        handle.remove()
    net(x.detach())
    assert len(seen) == 3
    net[0].reset_mem()  # its last graph holds the backward hook, and that the neuron


def replaced_update():
    net = leaky()
    net[0].state_function = lambda input_: input_
    return net


def two_resets():
    net = leaky(reset_delay=False)
    net[0].reset_mechanism = "zero"  # the host's update goes on subtracting
    return net


@pytest.mark.parametrize(
    "make, reason", [(replaced_update, "state_function was replaced"), (two_resets, "mixes two resets")]
)
def test_neurons_whose_behaviour_would_change_stay(make, reason):
    net = make()
    before = net[0]
    with pytest.raises(ValueError, match=reason):
        snn_lnm.swap(net, strict=True)
    report = snn_lnm.swap(net)
    assert net[0] is before and reason in report.skipped[0].reason and not report.swapped


def test_replaced_neurons_die():
    net = leaky()
    native = weakref.ref(net[0])
    net(torch.randn(2, 3, requires_grad=True))
    snn_lnm.swap(net)
    gc.collect()
    assert native() is None


def test_replaced_neurons_that_are_kept_are_still_reset():
    net = leaky()
    native = net[0]
    native(torch.ones(2, 3))
    snn_lnm.swap(net)
    snn.Leaky.reset_hidden()
    assert not native.mem.any() and not net[0].mem.any()


def test_a_failed_swap_leaves_the_registry():
    net = nn.Sequential(snn.Leaky(0.9), snn.Leaky(float("nan")))
    gc.collect()
    registry.remove(None)
    before = [*map(id, snn.SpikingNeuron.instances)]
    with pytest.raises(ValueError, match="finite"):
        snn_lnm.swap(net)
    gc.collect()
    registry.remove(None)
    assert [*map(id, snn.SpikingNeuron.instances)] == before
