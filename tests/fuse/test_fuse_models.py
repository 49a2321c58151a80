"""The fused model beside the model it was made from: names, parameters, states, copies, rounding."""

import copy
import pickle
import re
from pathlib import Path

import norse.torch as norse
import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import snn_lnm

T, B = 6, 3


class Net(nn.Module):
    """A step as snnTorch's tutorial 5 writes it, states in and out; a tuple of neurons with explicit states."""

    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(5, 8), snn.Leaky(beta=0.9)
        self.rec = snn.RLeaky(beta=0.8, linear_features=8)
        self.fc2, self.lif2 = nn.Linear(8, 4), snn.Synaptic(alpha=0.7, beta=0.9)

    def forward(self, x, mem1, spk, mem, syn2, mem2):
        spk1, mem1 = self.lif1(self.fc1(x), mem1)
        spk, mem = self.rec(spk1, spk, mem)
        spk2, syn2, mem2 = self.lif2(self.fc2(spk + spk1), syn2, mem2)
        return spk2, mem1, spk, mem, syn2, mem2


def states():
    return [torch.rand(B, n) for n in (8, 8, 8, 4, 4)]


AT_ONCE = pytest.mark.parametrize("at_once", ["all", 1, 4])


@AT_ONCE
def test_explicit_states_go_in_and_come_back_over_time(at_once):
    net = Net()
    snn_lnm.swap(net)
    fused = snn_lnm.fuse_time(net, exact=True, at_once=at_once)
    assert {row.path: row.runs for row in fused.report.rows}["rec"] == "step by step"
    x, start = 2 * torch.randn(T, B, 5), states()
    state, record = start, []
    for x_t in x:
        out = net(x_t, *state)
        record.append(out)
        state = out[1:]
    expected = [torch.stack(values) for values in zip(*record, strict=True)]
    assert all(map(torch.equal, fused(x, *start), expected)) and expected[0].any()
    names = ("mem1", "spk", "mem", "syn2", "mem2")
    assert all(map(torch.equal, fused(x, **dict(zip(names, start, strict=True))), expected))
    first = fused(x[:2], *start)
    second = fused(x[2:], *(value[-1] for value in first[1:]))
    assert all(torch.equal(torch.cat(parts), whole) for *parts, whole in zip(first, second, expected, strict=True))


@AT_ONCE
@pytest.mark.parametrize("swap", [True, False])
def test_states_by_name_in_any_order(at_once, swap):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif = snn.Synaptic(alpha=0.7, beta=0.9)

        def forward(self, x, syn, mem):
            spk, syn, mem = self.lif(x, mem=mem, syn=syn)
            return spk, syn, mem

    net = Named()
    if swap:
        snn_lnm.swap(net)
    x, start = torch.rand(T, B, 4), (torch.rand(B, 4), torch.rand(B, 4))
    state, record = start, []
    for x_t in x:
        record.append(net(x_t, *state))
        state = record[-1][1:]
    expected = map(torch.stack, zip(*record, strict=True))
    assert all(map(torch.equal, snn_lnm.fuse_time(net, at_once=at_once)(x, *start), expected))


class Pair(nn.Module):
    def forward(self, currents, mem):
        mem = 0.5 * mem + currents[0] * currents[1]
        return mem > 1, mem


@AT_ONCE
def test_a_layer_with_a_state_may_take_more_than_a_tensor(at_once):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.pair = nn.Linear(5, 5), Pair()

        def forward(self, x, mem):
            return self.pair((x, self.fc(x)), mem)

    net, x, mem, record = Net(), torch.rand(T, B, 5), torch.ones(B, 5), []
    model = snn_lnm.fuse_time(net, per_step=(Pair,), exact=True, at_once=at_once)
    found = model(x, mem)
    for x_t in x:
        out, mem = net(x_t, mem)
        record.append((out, mem))
    assert all(map(torch.equal, found, map(torch.stack, zip(*record, strict=True))))


@AT_ONCE
def test_a_neuron_that_is_given_the_same_current_at_every_step(at_once):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.bias, self.lif = nn.Linear(5, 4), nn.Parameter(torch.full((B, 4), 0.3)), snn.Leaky(beta=0.9)

        def forward(self, x, mem):
            spk, mem = self.lif(self.bias, mem)
            return self.fc(x) * spk, mem

    net = Constant()
    snn_lnm.swap(net)
    x, mem, record = torch.rand(T, B, 5), torch.zeros(B, 4), []
    for x_t in x:
        out, mem = net(x_t, mem)
        record.append((out, mem))
    expected = [torch.stack(values) for values in zip(*record, strict=True)]
    got = snn_lnm.fuse_time(net, exact=True, at_once=at_once)(x, torch.zeros(B, 4))
    assert all(map(torch.equal, got, expected)) and expected[0].any()


@pytest.mark.parametrize(
    "at_once, shape, width, blocks, found_out",
    [
        ("all", (7, 2, 5), 4, [7], [7]),
        (3, (7, 2, 5), 4, [3, 3, 1], [3, 3, 1]),
        ("auto", (7, 2, 5), 4, [7], [7]),
        ("auto", (100, 64, 64), 4096, [16, 16, 16, 16, 16, 16, 4], [64, 16, 16, 4]),  # 16 KiB, of which 1 MiB is made
        ("auto", (20, 64, 1024), 4, [20], [8, 12]),  # 256 KiB in a step
        ("auto", (20, 16, 65536), 4, [8, 8, 4], [8, 8, 4]),  # 4 MiB in a step
    ],
)
def test_steps_that_go_through_the_network_together(at_once, shape, width, blocks, found_out, monkeypatch):
    """Dense layers say how large what they make will be; with others a first block finds out."""
    seen, linear = [], F.linear

    def spy(x, *parameters):
        seen.append(x.shape[:-1].numel() // shape[1])
        return linear(x, *parameters)

    monkeypatch.setattr(F, "linear", spy)
    for first, expected in ((nn.Identity(), blocks), (nn.Unflatten(1, (-1,)), found_out)):
        net = nn.Sequential(first, nn.Linear(shape[-1], width), snn.Leaky(beta=0.9, init_hidden=True))
        snn_lnm.swap(net)
        with torch.no_grad():
            assert len(snn_lnm.fuse_time(net, at_once=at_once)(torch.zeros(shape))) == shape[0]
        assert seen == expected
        seen.clear()


def test_blocks_are_for_cpus(monkeypatch):
    """A GPU waits for calls; tensors on meta stand for its own."""
    seen, linear = [], F.linear
    monkeypatch.setattr(F, "linear", lambda x, *parameters: seen.append(len(x)) or linear(x, *parameters))
    for device in ("cpu", "meta"):
        net = nn.Sequential(nn.Unflatten(1, (-1,)), nn.Linear(40_000, 2, device=device))
        snn_lnm.fuse_time(net)(torch.zeros(20, 1, 40_000, device=device))
    assert seen == [8, 12, 20]


def test_blocks_are_parts_of_one_split():
    """Slice by slice, each would write a gradient of the whole sequence."""
    x = torch.rand(T, B, 5, requires_grad=True)
    out, nodes = snn_lnm.fuse_time(nn.Sequential(nn.Identity()), at_once=1)(x), set()
    todo = [out.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            todo += [before for before, _ in node.next_functions]
    assert not any("Slice" in node.name() for node in nodes)
    assert sum("Split" in node.name() for node in nodes) == 1


def test_a_state_that_may_be_none_is_not_guessed():
    class Starts(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif = snn.Leaky(beta=0.9)

        def forward(self, x, mem=None):
            mem = torch.ones_like(x) if mem is None else mem
            return self.lif(x, mem)

    fused = snn_lnm.fuse_time(Starts())
    with pytest.raises(ValueError, match="mem is None, and then the step of Starts does something else"):
        fused(torch.rand(T, B, 5))
    assert fused(torch.rand(T, B, 5), torch.zeros(B, 5))[0].shape == (T, B, 5)


@AT_ONCE
def test_norse_models_that_hold_a_sequential_state(at_once):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = norse.SequentialState(nn.Linear(5, 4), norse.LIFCell(), norse.LICell())

        def forward(self, x, state=None):
            return self.layers(20 * x, state)

    model = Model()
    snn_lnm.swap(model)
    fused, x, state, expected = snn_lnm.fuse_time(model, exact=True, at_once=at_once), torch.rand(T, B, 5), None, []
    for x_t in x:
        out, state = model(x_t, state)
        expected.append(out)
    got, last = fused(x)
    assert torch.equal(got, torch.stack(expected))
    assert all(map(torch.equal, last[1], state[1])) and all(map(torch.equal, last[2], state[2]))
    assert [row.path for row in fused.report.rows] == ["layers.0", "layers.1", "layers.2"]


def test_a_cell_without_a_state_starts_anew_at_every_step():
    class Forgets(nn.Module):
        def __init__(self):
            super().__init__()
            self.lif = norse.LIFCell()

        def forward(self, x):
            return self.lif(x)[0]

    model = Forgets()
    snn_lnm.swap(model)
    fused, x = snn_lnm.fuse_time(model), 30 * torch.rand(T, B, 5)
    assert torch.equal(fused(x), torch.stack([model(x_t) for x_t in x]))
    assert "starts anew at every step" in str(fused.report)


def chain():
    return nn.Sequential(
        nn.Linear(5, 8), snn.Leaky(beta=0.9, init_hidden=True), nn.Linear(8, 4), snn.Leaky(0.8, init_hidden=True)
    )


def test_the_fused_model_is_the_model_under_the_same_names():
    net = chain()
    snn_lnm.swap(net)
    fused = snn_lnm.fuse_time(net)
    assert list(fused.state_dict()) == list(net.state_dict())
    assert all(a is b for a, b in zip(fused.parameters(), net.parameters(), strict=True))
    assert all(a is b for a, b in zip(fused.children(), net.children(), strict=True))
    fused.load_state_dict({name: 0 * value if "weight" in name else value for name, value in net.state_dict().items()})
    assert not net[0].weight.any()
    assert not fused.eval().training and not net.training and not net[0].training
    fused.double()
    assert net[0].weight.dtype == torch.float64
    assert fused(torch.rand(T, B, 5, dtype=torch.float64)).dtype == torch.float64


def test_a_model_swapped_after_it_was_fused():
    net = chain()
    fused = snn_lnm.fuse_time(net)
    assert "native: snn_lnm.swap first" in repr(fused)
    x = 3 * torch.rand(T, B, 5)
    before = fused(x)
    utils.reset(fused)
    snn_lnm.swap(net)
    assert "native" not in repr(fused) and repr(fused).count("fused over T") == 2
    assert torch.equal(fused(x), before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_whole_and_their_own(duplicate):
    net = chain()
    snn_lnm.swap(net)
    fused = snn_lnm.fuse_time(net)
    x = 3 * torch.rand(T, B, 5)
    expected = fused(x)
    copied = duplicate(fused)
    utils.reset(copied)
    utils.reset(fused)
    assert torch.equal(copied(x), expected)
    with torch.no_grad():
        next(copied.parameters()).zero_()
    assert next(iter(copied.__dict__["_model"].parameters())) is next(copied.parameters())
    assert net[0].weight.any()


def test_a_smaller_last_batch_restarts_as_in_the_loop():
    net = chain()
    snn_lnm.swap(net)
    fused = snn_lnm.fuse_time(net, exact=True)
    fused(torch.rand(T, B, 5))
    x = 3 * torch.rand(T, B - 1, 5)
    got = fused(x)
    utils.reset(net)
    assert torch.equal(got, torch.stack([net(x_t) for x_t in x]))


def test_rounding_of_folded_sums_stays_within_its_bound():
    """Two orders of a sum of n products differ by at most 2·γ_n·Σ|a||b|; spikes differ only near the threshold."""
    n, beta, width = 784, 0.9, 50
    net = nn.Sequential(nn.Linear(n, width), snn.Leaky(beta=beta, init_hidden=True, output=True))
    snn_lnm.swap(net, degree=1)
    x = torch.rand(16, 3, n)
    utils.reset(net)
    expected = [torch.stack(values) for values in zip(*[net(x_t) for x_t in x], strict=True)]
    utils.reset(net)
    spikes, membranes = snn_lnm.fuse_time(net)(x)
    eps = torch.finfo(x.dtype).eps / 2
    terms = (n + 1) * eps
    gamma = terms / (1 - terms)
    weight, bias = net[0].weight.detach().double().abs(), net[0].bias.detach().double().abs()
    error = torch.zeros(3, width, dtype=torch.float64)
    agreed = torch.ones(3, width, dtype=torch.bool)
    for t, x_t in enumerate(x.double()):
        current = 2 * gamma * (x_t.abs() @ weight.T + bias)
        largest = torch.maximum(expected[1][t].abs(), membranes[t].abs()).double() + 2
        # β times the old error, the current's, and three rounded operations on either side
        error = beta * error + current + 2 * 3 * eps * largest
        h = expected[1][t].double()
        assert bool(((membranes[t].double() - h).abs() <= error)[agreed].all())
        sure = agreed & ((h - 1).abs() > error)
        assert torch.equal(spikes[t][sure], expected[0][t][sure])
        agreed &= spikes[t] == expected[0][t]
    assert agreed.float().mean() > 0.9 and spikes.any()


class RowsMatter(TorchDispatchMode):
    """A BLAS whose sums depend on the size of the batch, and not only in the last bit."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sums = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)
        return out + 0.1 * len(out) if func.overloadpacket in sums else out


def test_exact_is_the_loop_whatever_a_blas_does_with_more_rows():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(8, 4)
            self.lif = snn.Leaky(beta=0.9, init_hidden=True)

        def forward(self, x):
            return self.lif(F.linear(self.fc(self.conv(x).flatten(1)), self.fc.weight[:, :4]))

    net, x = Sums(), torch.rand(T, B, 1, 4, 4)
    snn_lnm.swap(net)
    # Made before the mode is on, whose first call may import Dynamo: not while torch.fx has its wrappers in `math`.
    runs = lambda x: torch.stack([*map(net, x)]), snn_lnm.fuse_time(net, exact=True), snn_lnm.fuse_time(net)
    results = []
    with RowsMatter():
        for run in runs:
            utils.reset(net)
            results.append((run(x), net.lif.mem))
    loop, exact, folded = results
    assert all(map(torch.equal, loop, exact))
    assert not torch.equal(loop[1], folded[1])  # or these sums would not tell


def test_the_page_says_what_happens(capsys):
    page = (Path(__file__).parents[2] / "docs" / "fuse.md").read_text(encoding="utf-8")
    snippets = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    exec(compile(snippets, "docs/fuse.md", "exec"), {})
    assert capsys.readouterr().out in page
