"""One sentence for each obstacle, with file and line; and layers that cannot be followed run step by step."""

import inspect
import re

import norse.torch as norse
import numpy as np
import pytest
import snntorch as snn
import torch
from optional import HAS_SPIKINGJELLY
from snntorch import utils
from torch import nn
from torch.nn import functional as F

import snn_lnm

if HAS_SPIKINGJELLY:
    from spikingjelly.activation_based import functional as jelly
    from spikingjelly.activation_based import layer, neuron

T, B = 4, 3
JARGON = re.compile("symbolic|[Pp]roxy|torch.fx|iterat|traced")


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.lif, self.steps = nn.Linear(5, 5), snn.Leaky(0.9), 4


class Fixed(Base):
    def forward(self, x):
        mem, out = self.lif.init_leaky(), []
        for _ in range(5):  # here
            spk, mem = self.lif(self.fc(x), mem)
            out.append(spk)
        return torch.stack(out)


class Size(Base):
    def forward(self, x):
        mem, out = self.lif.init_leaky(), []
        for t in range(x.size(0)):  # here
            spk, mem = self.lif(self.fc(x[t]), mem)
            out.append(spk)
        return torch.stack(out)


class Zeros(Base):
    def forward(self, x):
        steps, batch, _ = x.shape
        out, mem = torch.zeros(steps, batch, 5), self.lif.init_leaky()
        for t in range(steps):  # here
            out[t], mem = self.lif(self.fc(x[t]), mem)
        return out


class OwnSteps(Base):
    def forward(self, x):
        out, mem = torch.zeros(self.steps, x.size(0), 5), self.lif.init_leaky()
        for t in range(self.steps):  # here
            out[t], mem = self.lif(self.fc(x), mem)
        return out


class Iterate(Base):
    def forward(self, x):
        mem, out = self.lif.init_leaky(), []
        for x_t in x:  # here
            spk, mem = self.lif(self.fc(x_t), mem)
            out.append(spk)
        return torch.stack(out)


class Unbind(Base):
    def forward(self, x):
        mem, out = self.lif.init_leaky(), []
        for _, x_t in enumerate(x.unbind(0)):  # here
            spk, mem = self.lif(self.fc(x_t), mem)
            out.append(spk)
        return torch.stack(out)


class Check(Base):
    def forward(self, x):
        _, steps, _ = x.shape
        assert steps == 6
        mem, out = torch.zeros(3, 5), []
        for t in range(steps):  # here
            spk, mem = self.lif(self.fc(x[:, t]), mem)
            out.append(spk)
        return torch.stack(out)


class Comprehension(Base):
    def forward(self, x):
        return torch.stack([self.lif(x_t)[0] for x_t in x])  # here


class While(Base):
    def forward(self, x):
        t, mem, out = 0, self.lif.init_leaky(), []
        while t < 5:  # here
            spk, mem = self.lif(self.fc(x), mem)
            out.append(spk)
            t += 1
        return torch.stack(out)


class Helper(Base):
    def unroll(self, x):
        mem = self.lif.init_leaky()
        for t in range(len(x)):  # here
            _, mem = self.lif(x[t], mem)
        return mem

    def forward(self, x):
        return self.unroll(self.fc(x))


class Cells(nn.Module):
    """Norse's way: the state starts as None."""

    def __init__(self):
        super().__init__()
        self.lif = norse.LIFCell()

    def forward(self, x):
        state = None
        for _ in range(5):  # here
            spk, state = self.lif(x, state)
        return spk


class ByHand(nn.Module):
    """A neuron without a module, of which a graph would unroll five rows of the batch."""

    def forward(self, x):
        v, out = 0, []
        for t in range(3):  # here
            v = 0.5 * v + x[t]
            out.append(v)
        return torch.stack(out)


class Inner(nn.Sequential):
    """The loop is one level down, in a layer without a neuron that anybody knows."""

    def __init__(self):
        super().__init__(nn.Linear(5, 5), ByHand())


LOOPS = (Fixed, Size, Zeros, OwnSteps, Iterate, Unbind, Check, Comprehension, While, Helper, Cells, ByHand, Inner)


def line_of(kind, mark):
    lines, first = inspect.getsourcelines(ByHand if kind is Inner else kind)
    return first + next(i for i, line in enumerate(lines) if mark in line)


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_over_time_is_one_sentence_with_its_line(kind, swap):
    net = kind()
    if swap and kind not in (ByHand, Inner):
        snn_lnm.swap(net)
    with pytest.raises(ValueError) as caught:
        snn_lnm.fuse_time(net)
    text = str(caught.value)
    assert f"its forward loops over time (test_fuse_refusals.py:{line_of(kind, '# here')}): fuse_time takes one" in text
    assert not JARGON.search(text)


class Branch(Base):
    def forward(self, x):
        return self.lif(x)[0] if x.sum() > 0 else x  # here


class Asserts(Base):
    def forward(self, x):
        assert x.shape[1] == 5, "five features"  # here
        return self.lif(x)


class Writes(Base):
    def forward(self, x):
        x[:, 0] = 0  # here
        return self.lif(x)


class WritesOne(Base):
    def forward(self, x):
        out = torch.zeros(3, 5)
        out[:, 0] = x[:, 0]  # here
        return self.lif(out)


class Numpy(Base):
    def forward(self, x):
        return self.lif(torch.from_numpy(np.abs(x.numpy())))  # here


class Noise(Base):
    def forward(self, x):
        return self.lif(x + torch.rand(x.size(0), 5))  # here


class Count(Base):
    def forward(self, x):
        return self.lif(x.new_zeros(int(x.shape[0]), 5))  # here


class Grad(Base):
    def forward(self, x):
        with torch.no_grad():
            x = self.fc(x)  # here
        return self.lif(x)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w):
        return w.sign()

    @staticmethod
    def backward(ctx, g):
        return g


class Straight(Base):
    def forward(self, x):
        return self.lif(F.linear(x, Sign.apply(self.fc.weight)))


class Bug(Base):
    def forward(self, x):
        return self.lif(x.shpae_of_x, missing)  # noqa: F821  # here


OBSTACLES = {
    Branch: "branches on a tensor or its size",
    Asserts: "asserts something of a tensor",
    Writes: "writes into a tensor",
    WritesOne: "writes into a tensor",
    Numpy: "numpy",
    Noise: "makes a tensor by torch.rand",
    Count: "takes a tensor, or its size, for a plain number",
    Grad: "switches gradients or autocast",
    Straight: "has a gradient of its own (a torch.autograd.Function)",
    Bug: "NameError: name 'missing' is not defined",
}


@pytest.mark.parametrize("kind", OBSTACLES)
def test_other_obstacles_have_a_sentence_and_a_line(kind):
    with pytest.raises(ValueError) as caught:
        snn_lnm.fuse_time(kind())
    text = str(caught.value)
    assert text.startswith(f"fuse_time: {kind.__name__}.forward ") and OBSTACLES[kind] in text
    assert f"(test_fuse_refusals.py:{line_of(Sign, 'w.sign') if kind is Straight else line_of(kind, '# here')})" in text
    assert not JARGON.search(text) and "loops over" not in text


def test_a_loop_over_layers_is_none_over_time():
    class Deep(Base):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(5, 5), snn.Leaky(0.9, init_hidden=True)])

        def forward(self, x):
            for i in range(len(self.layers)):
                x = self.lif(self.layers[i](x))[0]
            for inner in self.layers[:1]:
                x = inner(x)
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"Deep\.forward branches on a tensor"):
        snn_lnm.fuse_time(Deep())


# ---- layers that cannot be followed


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


# ---- nets that take time themselves


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
