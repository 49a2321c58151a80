"""Our Norse neurons in hands that do more than train them: states of inference mode, integers, copies, probing."""

import copy
import inspect
import pickle

import norse.torch as norse
import pytest
import torch
from norse.torch.module.iaf import IAF, IAFCell
from test_native_checkpoints import FAST, MAKE
from torch import nn
from torch.optim.swa_utils import AveragedModel

import snn_lnm

FEED_FORWARD = ["LIFCell", "LIF", "LIFBoxCell", "IAFCell", "IAF"]
SEQUENCES = (norse.LIF, norse.LIFRecurrent, IAF)
NAMES = [name for name in MAKE if name != "IzhikevichCell"]


def pair(name):
    net = nn.ModuleList([MAKE[name]()])
    ours = copy.deepcopy(net)
    assert not snn_lnm.swap(ours).skipped
    return net[0], ours[0]


def one(name):
    x = torch.randn(6, 2, 4) * 4
    return x if MAKE[name]().__class__ in SEQUENCES else x[0]


@pytest.mark.parametrize("name", FEED_FORWARD)
def test_states_of_inference_mode_start_training(name):
    """Natively too; and Norse's recurrent neurons cannot, as their weights keep the spikes."""
    gradients, x = [], one(name)
    for neuron in pair(name):
        with torch.inference_mode():
            _, state = neuron(x)
        leaf = x.clone().requires_grad_()
        spikes, after = neuron(leaf, state)
        (spikes.sum() + after.v.sum()).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[1].any()


@pytest.mark.parametrize("name", ["LIFRecurrentCell", "LIFRecurrent"])
def test_recurrent_states_of_inference_mode_start_training(name):
    _, neuron = pair(name)
    x = one(name)
    with torch.inference_mode():
        _, state = neuron(x)
    neuron(x, state)[0].sum().backward()
    assert neuron.recurrent_weights.grad is not None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool])
@pytest.mark.parametrize("name", FEED_FORWARD)
def test_integers(name, dtype):
    x = (one(name).abs() * 2).to(dtype)
    (native, ours), (theirs, mine) = pair(name), (None, None)
    for _ in range(2):
        (a, theirs), (b, mine) = native(x, theirs), ours(x, mine)
        assert a.dtype == b.dtype == torch.float32 and torch.equal(a, b)
        assert all(p.dtype == q.dtype and torch.equal(p.expand_as(q), q) for p, q in zip(theirs, mine, strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_over_time(dtype):
    net = norse.SequentialState(norse.LIFCell(FAST), nn.Linear(4, 3), IAFCell())
    snn_lnm.swap(net)
    net[1].weight.data.fill_(1.0)
    x, state, rows = torch.randint(0, 5, (5, 2, 4)).to(dtype), None, []
    for x_t in x:
        row, state = net(x_t, state)
        rows.append(row)
    assert torch.equal(snn_lnm.fuse_time(net)(x)[0], torch.stack(rows)) and torch.stack(rows).any()


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda neuron: pickle.loads(pickle.dumps(neuron)), lambda neuron: AveragedModel(neuron).module],
)
@pytest.mark.parametrize("name", NAMES)
def test_copies_after_a_step_with_gradients(name, copied):
    _, neuron = pair(name)
    x = one(name)
    _, state = neuron(x)
    other = copied(neuron)
    assert torch.equal(other(x, state)[0], neuron(x, state)[0])
    assert torch.equal(other.native_coefficients(), neuron.native_coefficients()) and other.native is neuron.native


@pytest.mark.parametrize("move", [lambda n: n, lambda n: n.half(), lambda n: n.double(), lambda n: n.to("meta")])
@pytest.mark.parametrize("name", NAMES)
def test_probing_raises_nothing(name, move):
    _, neuron = pair(name)
    neuron = move(neuron)
    assert not hasattr(neuron, "beta") and getattr(neuron, "beta", None) is None
    assert inspect.getmembers(neuron) and [getattr(neuron, name, None) for name in dir(neuron)] and repr(neuron)
