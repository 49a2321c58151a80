"""Layers that cannot be followed, and neurons by hand, run step by step: it changes nothing."""

import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import nn
from torch.nn import functional as F

import snn_lnm

T, B = 4, 3


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w):
        return w.sign()

    @staticmethod
    def backward(ctx, g):
        return g


class Binary(nn.Linear):
    def forward(self, x):
        return F.linear(x, Sign.apply(self.weight), self.bias)


class Rectifies(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Frozen(nn.Linear):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand(x.size(0), 5)


def scripted():
    return torch.jit.script(nn.Linear(5, 5))


LAYERS = {
    lambda: Binary(5, 5): "has a gradient of its own",
    Rectifies: "branches on a tensor",
    lambda: Frozen(5, 5): "switches gradients",
    Counts: "assigns 0.calls",
    Noisy: "makes a tensor by torch.rand",
    scripted: "scripted",
}


def looped(net, x, seed=3):
    torch.manual_seed(seed)
    utils.reset(net)
    return torch.stack([net(x_t) for x_t in x])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("build", LAYERS, ids=lambda build: getattr(build, "__name__", ""))
def test_a_layer_that_cannot_be_followed_runs_step_by_step(build):
    net, x = nn.Sequential(build(), snn.Leaky(0.9, init_hidden=True)), torch.randn(T, B, 5)
    snn_lnm.swap(net)
    expected = looped(net, x)
    if hasattr(net[0], "calls"):
        net[0].calls = 0
    fused = snn_lnm.fuse_time(net, exact=True)
    utils.reset(net)
    torch.manual_seed(3)
    assert torch.equal(fused(x), expected)
    first, second = fused.report.rows
    assert (first.runs, second.runs) == ("step by step", "fused over T") and LAYERS[build] in first.reason


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_scripted_layers_may_be_named_too():
    net = nn.Sequential(scripted(), snn.Leaky(0.9, init_hidden=True))
    fused = snn_lnm.fuse_time(net, per_step=[torch.jit.ScriptModule])
    assert fused.report.rows[0].runs == "step by step"
    assert fused(torch.rand(T, B, 5)).shape == (T, B, 5)


def test_the_gradient_of_a_straight_through_layer_is_the_loop_s():
    net, x = nn.Sequential(Binary(5, 5), snn.Leaky(0.9, init_hidden=True)), torch.randn(T, B, 5)
    snn_lnm.swap(net)
    looped(net, x).sum().backward()
    expected = net[0].weight.grad.clone()
    net.zero_grad()
    utils.reset(net)
    snn_lnm.fuse_time(net)(x).sum().backward()
    assert torch.allclose(net[0].weight.grad, expected, rtol=1e-5) and expected.any()


class OwnNeuron(nn.Module):
    """A neuron that somebody wrote by hand, its state an argument."""

    def forward(self, x, v):
        v = 0.5 * v + x
        return (v > 1).float(), v


class WithOwnNeuron(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.own = nn.Linear(5, 5), OwnNeuron()

    def forward(self, x, v):
        return self.own(self.fc(x), v)


def test_a_neuron_by_hand_runs_step_by_step():
    net, x, v, out = WithOwnNeuron(), 3 * torch.randn(T, B, 5), torch.zeros(B, 5), []
    fused = snn_lnm.fuse_time(net, exact=True)
    got = fused(x, v)
    for x_t in x:
        s, v = net(x_t, v)
        out.append((s, v))
    assert all(map(torch.equal, got, map(torch.stack, zip(*out, strict=True)))) and got[0].any()
    assert [row.reason for row in fused.report.rows] == [
        "exact=True: its sums may round otherwise on a larger batch",
        "computes with a state by itself",
    ]


class Clamps(nn.Module):
    def forward(self, x):
        with torch.no_grad():  # cannot be followed, and so what comes next is not seen
            scale = x.max() + 1
        return x.clamp_(min=0) / scale


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_layer_that_writes_into_what_it_is_given_is_found_out(mode):
    fused = snn_lnm.fuse_time(nn.Sequential(nn.Linear(5, 5), Clamps()))
    with mode(), pytest.raises(RuntimeError, match="Clamps writes into what it is given"):
        fused(torch.randn(T, B, 5))


def test_hooks_of_a_layer_without_neurons_see_every_step():
    net, seen = nn.Sequential(nn.Sequential(nn.Linear(5, 5)), snn.Leaky(0.9, init_hidden=True)), []
    net[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    fused = snn_lnm.fuse_time(net)
    fused(torch.rand(T, B, 5))
    assert seen == [(B, 5)] * T and fused.report.rows[0].reason == "its hooks see every step"
