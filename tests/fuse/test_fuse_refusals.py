"""What cannot be fused is left as it was, and one sentence says why: with file and line where there is one."""

import inspect
import re

import norse.torch as norse
import numpy as np
import pytest
import snntorch as snn
import torch
from test_fuse_stepped import OwnNeuron, Sign
from torch import nn
from torch.nn import functional as F

import snn_lnm

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


def refusal(net):
    """What is said of ``net``, which stays as it was."""
    before = {name: vars(module).copy() for name, module in net.named_modules()}
    with pytest.raises(ValueError) as caught:
        snn_lnm.fuse_time(net)
    assert {name: vars(module) for name, module in net.named_modules()} == before
    return str(caught.value)


def line_of(kind, mark):
    lines, first = inspect.getsourcelines(ByHand if kind is Inner else kind)
    return first + next(i for i, line in enumerate(lines) if mark in line)


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_over_time_is_one_sentence_with_its_line(kind, swap):
    net = kind()
    if swap and kind not in (ByHand, Inner):
        snn_lnm.swap(net)
    text = refusal(net)
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
    text = refusal(kind())
    assert text.startswith(f"fuse_time: {kind.__name__}.forward ") and OBSTACLES[kind] in text
    place = ("stepped", Sign, "w.sign") if kind is Straight else ("refusals", kind, "# here")
    assert f"(test_fuse_{place[0]}.py:{line_of(*place[1:])})" in text
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


class KeepsState(nn.Module):
    def __init__(self):
        super().__init__()
        self.lif, self.mem = snn.Leaky(beta=0.5), None

    def forward(self, x):
        spk, self.mem = self.lif(x, self.mem)
        return spk


class ChangesState(nn.Module):
    def __init__(self):
        super().__init__()
        self.lif = snn.Leaky(beta=0.5)

    def forward(self, x, mem):
        spk, mem = self.lif(x, mem)
        return spk, mem * 0.5


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.lif = snn.Leaky(beta=0.5)

    def forward(self, x, mem):
        spk, mem = self.lif(x, mem)
        mem.clamp_(max=0.5)
        return spk, mem


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.lif = snn.Leaky(beta=0.5, init_hidden=True)

    def forward(self, x):
        return self.lif(self.lif(x))


class Bare(snn.Leaky):
    def __init__(self):
        super().__init__(beta=0.5, init_hidden=True)


STATES = {
    KeepsState: "a step assigns mem",
    ChangesState: "does not return the next state of lif",
    InPlace: "writes into a tensor (clamp_)",
    OwnNeuron: "argument 'v' is used by mul",
    Twice: "lif is called twice in a step",
    Bare: "a bare Bare is a neuron",
}


@pytest.mark.parametrize("kind", STATES)
def test_states_that_do_not_go_in_and_out(kind):
    assert STATES[kind] in refusal(kind())


def rows():
    """Of docs/errors.md."""
    kinds = (Size, *OBSTACLES, *STATES)
    return [(f"snn_lnm.fuse_time({kind.__name__}())", lambda kind=kind: snn_lnm.fuse_time(kind())) for kind in kinds]
