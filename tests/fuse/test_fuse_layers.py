"""Which layers run how, and that it changes nothing: normalisation, dropout, hooks, functions, refusals."""

import copy
import types

import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import nn
from torch.nn import functional as F

import snn_lnm
from snn_lnm.fuse import blocks, max_pool
from snn_lnm.plugins import CannotFuse

T, B = 4, 3


def ways(fused):
    return {row.path: row.runs for row in fused.report.rows}


def leaky(**words):
    return snn.Leaky(beta=0.5, init_hidden=True, **words)


def compare(net, x, exact=True, swap=True):
    """Loop and fused network of equal copies; both leave their traces in buffers and the random stream."""
    ours, theirs = copy.deepcopy(net), copy.deepcopy(net)
    if swap:
        snn_lnm.swap(ours)
        snn_lnm.swap(theirs)
    fused = snn_lnm.fuse_time(ours, exact=exact)
    torch.manual_seed(1)
    expected = torch.stack([theirs(x_t) for x_t in x])
    torch.manual_seed(1)
    got = fused(x)
    assert torch.equal(got, expected)
    assert expected.any()
    for name, value in theirs.named_buffers():
        assert torch.equal(value, ours.get_buffer(name)), name
    return fused


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_uses_the_statistics_of_each_step_and_is_folded_in_evaluation(training):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), leaky()).train(training)
    fused = compare(net, 3 * torch.randn(T, B, 1, 6, 6))
    assert ways(fused)["1"] == ("step by step" if training else "folded")
    fused.eval()
    assert ways(fused)["1"] == "folded"  # the report tells how things are now


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_has_the_bits_of_one_large_batch(bias):
    layer, batch = nn.Linear(100, 50, bias=bias), 16
    for x in (
        torch.rand(T, batch, 100),
        torch.rand(batch, T, 100).transpose(0, 1),
        torch.rand(T, batch, 200)[..., ::2],
    ):
        got = snn_lnm.fuse_time(nn.Sequential(layer))(x)
        assert torch.equal(got, layer(x.flatten(0, 1)).view(T, batch, 50))


def test_a_patched_linear_layer_sees_a_batch(monkeypatch):
    layer = nn.Linear(5, 4)
    monkeypatch.setattr(layer, "forward", lambda x: x if x.dim() == 2 else pytest.fail("no batch"))
    x = torch.rand(T, B, 5)
    assert torch.equal(snn_lnm.fuse_time(nn.Sequential(layer))(x), x)


def test_dropout_draws_the_masks_of_the_loop():
    net = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), leaky())
    fused = compare(net, 3 * torch.randn(T, B, 5))
    assert ways(fused)["1"] == "step by step"
    assert ways(fused.eval())["1"] == "folded"


def test_a_hooked_layer_sees_every_step():
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), leaky())
    snn_lnm.swap(net)
    seen = []
    handle = net[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    neuron = net[2].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    fused = snn_lnm.fuse_time(net)
    fused(torch.randn(T, B, 5))
    assert seen == [(B, 8)] * 2 * T
    handle.remove()
    neuron.remove()
    assert set(ways(fused).values()) == {"folded", "fused over T"}


class Counting(nn.Module):
    """A layer with a memory that no graph shows."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_unknown_layers_run_step_by_step_where_that_is_asked_for():
    net = nn.Sequential(Counting(), leaky())
    snn_lnm.fuse_time(net)
    assert net[0].calls == 0  # looking into it leaves no trace
    snn_lnm.swap(net)
    fused = snn_lnm.fuse_time(net, per_step=[Counting])
    x = torch.rand(T, B, 5)
    got = fused(x)
    utils.reset(net)
    net[0].calls = 0
    assert torch.equal(got, torch.stack([net(x_t) for x_t in x]))
    assert ways(fused) == {"0": "step by step", "1": "fused over T"}
    assert fused.report.rows[0].reason == "named in per_step"


class Functions(nn.Module):
    """What people write between layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.lif = nn.Conv2d(1, 2, 3), leaky()
        self.gain = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.scale = 1.0

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        x = x * self.gain[:, None, None] + 1
        x = torch.cat([x, -x], dim=1).view(x.size(0), -1)
        x = torch.stack([x[:, 0::2], x[:, 1::2]], -1).flatten(1).reshape(x.shape[0], -1)
        return self.lif(self.scale * (x - x.mean(0, keepdim=True) + F.softmax(x, dim=0)))


def test_functions_mean_what_they_mean_in_one_step():
    fused = compare(Functions(), 3 * torch.randn(T, B, 1, 6, 6))
    stepped = {row.layer for row in fused.report.rows if row.path == ""}
    assert stepped == {"mean", "softmax"}  # they mix the batch, or may


def test_an_attribute_that_changes_is_noticed():
    net = Functions()
    snn_lnm.swap(net)
    fused, x = snn_lnm.fuse_time(net, exact=True), torch.randn(T, B, 1, 6, 6)
    fused(x)
    net.scale = -3.0
    utils.reset(net)
    got = fused(x)
    utils.reset(net)
    assert torch.equal(got, torch.stack([net(x_t) for x_t in x])) and got.any()


class Nested(nn.Module):
    """A layer under two names, one beneath a module that is looked into, and a place for none."""

    def __init__(self):
        super().__init__()
        self.register_module("nobody", None)
        self.inner = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5))
        self.again = self.inner[0]
        self.neuron = snn.Leaky(beta=0.9, init_hidden=True)

    def forward(self, x):
        return self.neuron(self.again(self.inner(x)))


def test_nested_layers_that_are_replaced_or_switched_are_noticed():
    net = Nested().eval()
    fused, x = snn_lnm.fuse_time(net, exact=True), torch.randn(T, B, 5)
    changes = [
        lambda: None,
        lambda: setattr(net, "again", nn.Linear(5, 5).eval()),
        lambda: net.inner[1].train(),
        lambda: setattr(net, "inner", nn.Sequential(nn.ReLU(), nn.Linear(5, 5))),
    ]
    for change in changes:
        change()
        got = []
        for run in (fused, lambda x: torch.stack([net(x_t) for x_t in x])):
            utils.reset(net)
            torch.manual_seed(1)
            got.append(run(3 * x))
        assert torch.equal(*got) and got[0].any()


def test_a_layer_that_is_renamed_is_noticed():
    net = nn.Sequential()
    net.before = nn.Linear(5, 5)
    fused = snn_lnm.fuse_time(net)
    net.after = net.before
    del net.before
    assert [*ways(fused)] == ["after"]


class AsItsPartIs(nn.Module):
    """Does something else while a layer in it, that is not looked into, is in training."""

    def __init__(self):
        super().__init__()
        self.linear, self.drop = nn.Linear(5, 5), nn.Dropout(0.0)

    def forward(self, x):
        y = self.linear(x)
        return 10 * self.drop(y) if self.drop.training else y


def test_a_step_that_asks_whether_a_part_of_it_is_in_training():
    net, x = AsItsPartIs(), torch.randn(T, B, 5)
    fused = snn_lnm.fuse_time(net, exact=True)
    for mode in (True, False, True):
        net.drop.train(mode)
        assert torch.equal(fused(x), torch.stack([net(x_t) for x_t in x]))


class OneSumTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, x):
        return self.linear(F.relu(self.linear(x)))


def test_a_sum_that_remembers_by_a_hook_is_not_called_twice():
    net = OneSumTwice()
    fused = snn_lnm.fuse_time(net, exact=True)
    net.linear.register_forward_pre_hook(lambda module, given: None)
    for run in (lambda: snn_lnm.fuse_time(net), lambda: fused(torch.randn(T, B, 5))):
        with pytest.raises(ValueError, match="called twice in a step and may remember"):
            run()


def test_an_unbatched_step_is_not_taken_for_a_batch():
    compare(nn.Sequential(nn.Linear(5, 4), leaky()), 3 * torch.randn(T, 5), exact=False)
    compare(nn.Sequential(nn.Conv2d(1, 2, 3), leaky()), 3 * torch.randn(T, 1, 5, 5), exact=False)
    compare(nn.Sequential(nn.Flatten(0), leaky()), 3 * torch.randn(T, B, 5))


def test_hooks_on_a_container_are_refused():
    net = nn.Sequential(nn.Sequential(nn.Linear(5, 5), leaky()))
    net[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="0 has hooks"):
        snn_lnm.fuse_time(net)


FUSED = snn_lnm.fuse_time(nn.Sequential(nn.Linear(5, 5), leaky()))
CALLS = [
    (ValueError, r"\[T, B, \.\.\.\] with T >= 1, got \[0, 3, 5\]", lambda: FUSED(torch.zeros(0, 3, 5))),
    (TypeError, r"must be a torch\.Tensor, got list", lambda: FUSED([1.0])),
    (TypeError, r"a torch\.nn\.Module is needed", lambda: snn_lnm.fuse_time(3)),
    (ValueError, "fused already", lambda: snn_lnm.fuse_time(FUSED)),
    (TypeError, "per_step takes classes", lambda: snn_lnm.fuse_time(nn.Sequential(), per_step=["Linear"])),
    (TypeError, "at_once takes a number of steps.*got float", lambda: snn_lnm.fuse_time(nn.Sequential(), at_once=8.0)),
    (TypeError, "at_once takes .* got bool", lambda: snn_lnm.fuse_time(nn.Sequential(), at_once=True)),
    (ValueError, "number of steps >= 1, 'auto' or 'all', got 0", lambda: snn_lnm.fuse_time(nn.Sequential(), at_once=0)),
    (ValueError, "'auto' or 'all', got 'some'", lambda: snn_lnm.fuse_time(nn.Sequential(), at_once="some")),
]


@pytest.mark.parametrize("kind, message, call", CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_wrong_arguments(kind, message, call):
    with pytest.raises(kind, match=message):
        call()


class Pools(nn.Module):
    """Pools as a layer and as a function."""

    def __init__(self):
        super().__init__()
        self.pool, self.conv = nn.MaxPool2d(2), nn.Conv2d(1, 4, 3)
        self.lif = leaky()

    def forward(self, x):
        return self.lif(F.max_pool2d(self.conv(self.pool(x)), 2))


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_max_pooling_is_the_engine_s(format, monkeypatch):
    called = []
    apply = max_pool._MaxPool.apply
    monkeypatch.setattr(max_pool._MaxPool, "apply", lambda x: called.append(x.shape) or apply(x))
    net = Pools().to(memory_format=format)
    fused = compare(net, 3 * torch.randn(T, B, 1, 12, 12))
    assert called == [(T * B, 1, 12, 12), (T * B, 4, 4, 4)]
    assert ways(fused)["pool"] == "folded"


def test_a_pooling_layer_that_is_watched_or_patched_is_called(monkeypatch):
    fused = snn_lnm.fuse_time(nn.Sequential(nn.MaxPool2d(2), nn.Flatten()))
    x, seen = torch.rand(T, B, 1, 4, 4), []
    with nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module))):
        fused(x)
    assert nn.MaxPool2d in seen
    pool = fused.get_submodule("0")
    monkeypatch.setattr(pool, "forward", lambda x: F.max_pool2d(x, 2) + 1)
    assert torch.equal(fused(x), F.max_pool2d(x[:, :, 0], 2).flatten(2) + 1)


def test_a_layer_that_may_not_run_over_time_has_no_size():
    """Its framework says so by an exception; the search for blocks goes on."""

    def refuses(layer):
        raise CannotFuse("it looks at time")

    assert blocks._size_after(nn.RNN(4, 4), 4, [types.SimpleNamespace(layer=refuses)]) is None
