"""`utils.reset` and kept states in a compiled model: one graph, the numbers of the eager one, whoever else lives."""

import copy
import gc

import pytest
import snntorch as snn
import torch
from snn_lnm_snntorch import LNM, registry
from snntorch import utils
from torch import nn

import snn_lnm

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # Dynamo looks at states' own
X = 2 * torch.rand(2, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A sequence from rest at every call, or one step more of the kept state."""

    def __init__(self, resets, make):
        super().__init__()
        self.resets, self.fc, self.lif = resets, nn.Linear(4, 3), make()

    def forward(self, x):
        if not self.resets:
            return self.lif(self.fc(x))
        utils.reset(self)
        return torch.stack([self.lif(self.fc(x)) for _ in range(3)])


@pytest.fixture(autouse=True)
def nobody_else():
    """The host resets every neuron of the process, so a compiler follows each that other tests left."""
    torch.compiler.reset()
    utils.reset(nn.Sequential())  # a compiler does not see the host's globals be made
    before, snn.SpikingNeuron.instances = snn.SpikingNeuron.instances, []
    yield
    snn.SpikingNeuron.instances = before


def model(resets=True, make=lambda: snn.Leaky(0.9, init_hidden=True)):
    torch.manual_seed(1)
    net = Net(resets, make)
    snn_lnm.swap(net)
    return net


def compiled(net):
    return torch.compile(net, fullgraph=True, backend="eager")


def test_a_reset_in_forward_is_one_graph():
    net = model(make=lambda: snn.Synaptic(0.8, 0.9, init_hidden=True))
    run, eager = compiled(net), copy.deepcopy(net)
    for x in (X, X + 1, X):
        got, mem = run(x), net.lif.mem
        assert torch.equal(got, eager(x)) and torch.equal(mem, eager.lif.mem)  # who runs last resets all


def test_others_come_and_go():
    """A second compiled model, one that dies between calls, and one that is registered after the first call."""
    net = model()
    run, expected = compiled(net), net(X)
    dying, second = model(), model(resets=False)
    other = compiled(second)
    assert torch.equal(run(X), expected) and other(X).shape == (2, 3)
    assert second.lif.mem.any()
    assert torch.equal(run(X), expected) and not second.lif.mem.any()
    gc.collect()
    before = [type(entry) for entry in snn.SpikingNeuron.instances]
    del dying
    gc.collect()
    after = [type(entry) for entry in snn.SpikingNeuron.instances]
    assert len(after) == len(before) and after.count(registry.Gone) == before.count(registry.Gone) + 1
    assert torch.equal(run(X), expected)
    late = model()
    late(X)
    assert torch.equal(run(X), expected) and not late.lif.mem.any()


def test_kept_states_change_between_calls():
    net = model(resets=False)
    run, eager = compiled(net), copy.deepcopy(net)
    for changes in (lambda n: None, lambda n: None, utils.reset, lambda n: setattr(n.lif, "mem", torch.ones(2, 3))):
        changes(net), changes(eager)
        assert torch.equal(run(X), eager(X)) and torch.equal(net.lif.mem, eager.lif.mem)


def test_the_registry_is_the_host_s_list():
    native, ours = snn.Leaky(0.9), LNM(0.9)
    found = snn.SpikingNeuron.instances
    assert [*found] == found[:] == found[0:2] == [native, ours] and ours in found and found[-1] is ours
    found.remove(ours)
    found[0] = ours
    assert [*found] == [ours] and found.pop() is ours and not found
    snn.SpikingNeuron.init()
    other = LNM(0.9)
    assert [*snn.SpikingNeuron.instances] == [other]
