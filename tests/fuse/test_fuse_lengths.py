"""Sequences of different lengths through fused networks: each gets what it gets alone."""

import norse.torch as norse
import pytest
import snntorch as snn
import torch
from fuse_nets import FRAMEWORKS, cases, fresh, fused, gradients, state_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from optional import HAS_SPIKINGJELLY
from snntorch import utils
from test_fuse_layers import leaky
from torch import nn
from torch.nn import functional as F

import snn_lnm

if HAS_SPIKINGJELLY:
    from spikingjelly.activation_based import layer, neuron

T, B = 5, 3


def padded(x, lengths, rest=float("nan")):
    x = x.clone()
    for b, length in enumerate(lengths):
        x[length:, b] = rest
    return x.requires_grad_()


def with_lengths(net, x, lengths, **options):
    model = snn_lnm.fuse_time(net, **options)
    out = model(x, lengths=lengths)
    is_norse = isinstance(net, norse.SequentialState)
    out, state = out if is_norse else (out, None)
    return (out if isinstance(out, tuple) else (out,)), state


def hidden(net):
    """Membranes that stay in the neurons."""
    kept = [getattr(m, "mem", None) if isinstance(m, snn.Leaky) else getattr(m, "v", None) for m in net.modules()]
    return [value for value in kept if isinstance(value, torch.Tensor) and value.numel()]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@settings(max_examples=max(1, settings.default.max_examples // 4))  # whole networks
@given(data=st.data())
def test_networks_whose_arithmetic_is_exact(framework, data):
    # Through Norse's attached reset each step doubles the bits of a gradient: two steps are exact in float64.
    longest = data.draw(st.sampled_from([2, 5])) if framework == "norse" else 5
    case = data.draw(cases(framework, swapped=True, longest=longest))
    steps, batch = case.x.shape[:2]
    # A Norse state that nobody gave has no value for a sequence without a step.
    lengths = data.draw(st.lists(st.integers(framework == "norse", steps), min_size=batch, max_size=batch))
    options = {"exact": data.draw(st.booleans()), "at_once": data.draw(st.sampled_from(["auto", "all", 1, 2]))}
    if framework == "norse":
        options["at_once"] = "all"
    ours, x = fresh(case), padded(case.x, lengths)
    got, state = with_lengths(ours, x, torch.tensor(lengths), **options)
    kept = hidden(ours)  # before snnTorch's reset of a copy resets every neuron
    leaves = [x, *ours.parameters()]
    found = gradients(got, case, leaves)
    found = [torch.zeros_like(v) if g is None else g for g, v in zip(found, leaves, strict=True)]
    total = [torch.zeros_like(value) for value in leaves]
    for b, length in enumerate(lengths):
        for out in got:
            assert not out[length:, b].any()
        if not length:
            continue
        alone, part = fresh(case), case.x[:length, b : b + 1].clone().requires_grad_()
        expected, last = fused(alone, part, exact=True)
        for a, e in zip(got, expected, strict=True):
            assert torch.equal(a[:length, b : b + 1], e)
        for a, e in zip(state_tensors(state), state_tensors(last), strict=True):
            assert torch.equal(a[b : b + 1], e)
        for a, e in zip(kept, hidden(alone), strict=True):
            assert torch.equal(a[b : b + 1], e)
        weights = case.weights[:, :length, b : b + 1]
        loss = sum((out * w).sum() for out, w in zip(expected, weights, strict=False))
        grads = torch.autograd.grad(loss, [part, *alone.parameters()], allow_unused=True)
        total[0][:length, b : b + 1] += grads[0]
        for place, grad in enumerate(grads[1:], 1):
            if grad is not None:
                total[place] += grad
    if framework != "norse" or longest == 2:
        assert all(map(torch.equal, found, total))


class Recurrent(nn.Module):
    """A neuron by hand, which runs step by step."""

    def __init__(self):
        super().__init__()
        self.back = nn.Linear(8, 8)

    def forward(self, x, spk, mem):
        mem = 0.5 * mem + x + self.back(spk)
        return torch.sigmoid(mem - 1), mem


class Net(nn.Module):
    """Explicit states of fused neurons and of one that is stepped, and functions that are not finite at zero."""

    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(5, 8), snn.Leaky(beta=0.9)
        self.rec = Recurrent()
        self.fc2, self.lif2 = nn.Linear(8, 4), snn.Synaptic(alpha=0.7, beta=0.9)

    def forward(self, x, mem1, spk, mem, syn2, mem2):
        x = self.fc1(x / x.norm(dim=1).unsqueeze(1)).abs().sqrt() - x.mean(-1).unsqueeze(1)
        spk1, mem1 = self.lif1(x, mem1)
        spk, mem = self.rec(spk1, spk, mem)
        spk2, syn2, mem2 = self.lif2(self.fc2(torch.cat([spk, spk1], 1)[:, :8]), syn2, mem2)
        return spk2, mem1, spk, mem, syn2, mem2


@pytest.mark.parametrize("lengths", [[5, 0, 3], [1, 4, 2], [0, 0, 0], [5, 5, 5]])
@pytest.mark.parametrize("at_once", ["all", 2])
@pytest.mark.parametrize("rest", [float("nan"), float("inf"), 0.0])
def test_explicit_states_stop_at_the_end_of_their_sequence(lengths, at_once, rest):
    torch.manual_seed(0)
    net = Net().double()
    snn_lnm.swap(net)
    full, start = torch.randn(T, B, 5).double(), [torch.rand(B, n).double() for n in (8, 8, 8, 4, 4)]
    x = padded(3 * full, lengths, rest)
    got = snn_lnm.fuse_time(net, at_once=at_once)(x, *start, lengths=lengths)
    if any(lengths):
        sum((out * out).sum() for out in got).backward()
        found = [value.grad.clone() for value in net.parameters()]
        assert torch.isfinite(x.grad).all() and not any(x.grad[n:, b].any() for b, n in enumerate(lengths))
        net.zero_grad()
    for b, length in enumerate(lengths):
        if length:
            alone = snn_lnm.fuse_time(net)(3 * full[:length, b : b + 1], *(v[b : b + 1] for v in start))
            sum((out * out).sum() for out in alone).backward()
            for a, e in zip(got, alone, strict=True):
                torch.testing.assert_close(a[:length, b : b + 1], e, rtol=1e-12, atol=1e-12)
        assert not any(out[length:, b].any() for out in got)
    if any(lengths):
        for a, e in zip(found, net.parameters(), strict=True):
            torch.testing.assert_close(a, e.grad, rtol=1e-9, atol=1e-9)


def test_a_state_carried_from_block_to_block_waits_for_sequences_that_ended():
    """The last states of SequentialState, whose neurons also run step by step, over blocks of one step."""
    net = norse.SequentialState(nn.Linear(5, 4), norse.LIFCell(), norse.LICell())
    snn_lnm.swap(net)
    x, lengths = 30 * torch.rand(T, B, 5), [2, 5, 1]
    for at_once in (1, 2, "all"):
        _, state = snn_lnm.fuse_time(net, at_once=at_once, exact=True)(x, lengths=lengths)
        for b, length in enumerate(lengths):
            _, alone = snn_lnm.fuse_time(net, exact=True)(x[:length, b : b + 1])
            for a, e in zip(state_tensors(state), state_tensors(alone), strict=True):
                torch.testing.assert_close(a[b : b + 1], e)


def test_a_held_input_and_hidden_states_that_go_on():
    net = nn.Sequential(nn.Linear(5, 8), leaky(), nn.Linear(8, 4), leaky(output=True)).double()
    snn_lnm.swap(net)
    net.double()
    image, lengths = 3 * torch.rand(B, 5).double(), [5, 0, 2]
    model = snn_lnm.fuse_time(net, exact=True)
    first = model(image.expand(T, B, 5), lengths=lengths)
    second = model(image.expand(T, B, 5), lengths=[1, 5, 3])
    utils.reset(net)
    alone = torch.cat([first[1][:2, 2:], second[1][:3, 2:]]), model(image[2:].expand(5, 1, 5))[1]
    torch.testing.assert_close(*alone)


class Moves(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.lif, self.function = leaky(), function

    def forward(self, x):
        return self.function(self.lif(x))


class Adds(nn.Module):
    """An unknown layer."""

    def forward(self, x):
        return x + 1


REFUSED = {
    "statistics of each step": lambda: nn.Sequential(leaky(), nn.BatchNorm1d(B)),
    "1 .Leaky. runs step by step and may remember": lambda: nn.Sequential(leaky(), snn.Leaky(0.9, init_hidden=True)),
    "1 .Adds. runs step by step and may remember": lambda: nn.Sequential(leaky(), Adds()),
    "0 .GRUCell. runs step by step": lambda: nn.Sequential(nn.GRUCell(B, B), leaky()),
    "function mean may mix": lambda: Moves(lambda x: x - x.mean(0)),
    "function softmax may mix": lambda: Moves(lambda x: F.softmax(x, dim=0)),
    "function transpose may mix": lambda: Moves(lambda x: x.transpose(0, 1)),
    "function stack may mix": lambda: Moves(lambda x: torch.stack([x, x, x], 0)),
    "function getitem may mix": lambda: Moves(lambda x: x - x[0]),
    "function getattr may mix": lambda: Moves(lambda x: x.T),
    "function getitem may mix the": lambda: Moves(lambda x: x + x[..., 0, :]),
    "function flip may mix": lambda: Moves(lambda x: x.flip(0)),
    "function flatten may mix": lambda: Moves(lambda x: x.flatten()),
}
if HAS_SPIKINGJELLY:
    REFUSED["1 .IFNode. runs step by step"] = lambda: nn.Sequential(layer.Linear(B, B), neuron.IFNode())


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_stop_at_an_end_is_refused_and_left_as_it_was(message):
    net = REFUSED[message]()
    if isinstance(net, nn.Sequential) and isinstance(net[-1], snn.Leaky | nn.BatchNorm1d | Adds):
        lif = net[0] if isinstance(net[0], snn.Leaky) else net[1]
        kept = nn.Sequential(lif)
        snn_lnm.swap(kept)
        net[0 if isinstance(net[0], snn.Leaky) else 1] = kept[0]
    elif isinstance(net, Moves):
        snn_lnm.swap(net)
    model = snn_lnm.fuse_time(net, per_step=[Adds])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    mems = [m.mem for m in net.modules() if isinstance(m, snn.Leaky)]
    with pytest.raises(ValueError, match=f"with lengths, .*{message}"):
        model(torch.rand(T, B, B), lengths=[1, 2, 3])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(a is m.mem for a, m in zip(mems, [m for m in net.modules() if isinstance(m, snn.Leaky)], strict=True))


def test_functions_that_keep_the_rows_are_not_refused():
    functions = [
        lambda x: F.softmax(x, dim=1) + x.mean(-1, keepdim=True),
        lambda x: x[..., [2, 0, 1]] + x[:, [2, 0, 1]] + torch.stack([x, x], 1)[:, 0],
        lambda x: x.unsqueeze(-1).transpose(1, 2).flatten(1),
        lambda x: x.view(x.size(0), 3, 1).permute(0, 2, 1).reshape(x.shape[0], -1) * 2,
    ]
    for function in functions:
        net = Moves(function)
        snn_lnm.swap(net)
        x, lengths, model = 3 * torch.rand(T, B, B), [1, 5, 3], snn_lnm.fuse_time(net)
        got = model(x, lengths=lengths)
        for b, length in enumerate(lengths):
            utils.reset(net)
            torch.testing.assert_close(got[:length, b : b + 1], model(x[:length, b : b + 1]))


def test_wrong_lengths_come_before_anything():
    net = nn.Sequential(leaky())
    snn_lnm.swap(net)
    model, mem = snn_lnm.fuse_time(net), net[0].mem
    with pytest.raises(ValueError, match="between 0 and T = 5, got 9 for sequence 2"):
        model(torch.rand(T, B, 4), lengths=[1, 2, 9])
    assert net[0].mem is mem
