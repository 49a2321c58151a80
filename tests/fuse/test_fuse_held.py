"""An input that is the same at every step: what does not depend on time runs once, and nothing else changes."""

import io

import pytest
import snntorch as snn
import torch
from fuse_nets import FRAMEWORKS, cases, fresh, fused, gradients, loop, same, state_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import inputs_seen
from snntorch import utils
from test_fuse_layers import compare, leaky, ways
from torch import nn
from torch.nn import functional as F

import snn_lnm

T, B = 7, 3


@pytest.mark.parametrize("framework", FRAMEWORKS)
@settings(max_examples=max(1, settings.default.max_examples // 3))
@given(data=st.data())
def test_networks_whose_arithmetic_is_exact(framework, data):
    swapped = data.draw(st.booleans())
    case = data.draw(cases(framework, swapped, longest=2 if framework == "norse" else 5))
    x, at_once = case.x[:1].expand(case.x.shape), data.draw(st.sampled_from(["auto", "all", 1, 2]))
    native, ours = fresh(case), fresh(case)
    model = snn_lnm.fuse_time(ours, at_once=at_once, exact=data.draw(st.booleans()))
    (expected, expected_state), (got, state) = loop(native, x), fused(model, x)
    assert all(map(torch.equal, expected, got))
    assert all(map(torch.equal, state_tensors(expected_state), state_tensors(state)))
    wanted = (gradients(out, case, [*net.parameters()]) for out, net in ((expected, native), (got, ours)))
    assert all(map(same, *wanted))
    assert len(x) == 1 or ways(model)["0"] == "once"


@pytest.mark.parametrize("at_once", ["auto", "all", 2])
def test_layers_before_the_first_neuron_are_called_once(at_once, monkeypatch):
    seen, linear = [], F.linear

    def spy(x, *parameters):
        seen.append(x.shape[:-1].numel())
        return linear(x, *parameters)

    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), leaky(), nn.Linear(8, 2), leaky(output=True))
    snn_lnm.swap(net)
    monkeypatch.setattr(F, "linear", spy)
    model = snn_lnm.fuse_time(net, at_once=at_once)
    model((3 * torch.rand(B, 5)).expand(T, B, 5))
    assert seen[0] == B and sum(seen[1:]) == B * T
    assert [*ways(model).values()] == ["once", "once", "fused over T", "folded", "fused over T"]
    model(torch.rand(T, B, 5))
    assert ways(model)["0"] == "folded"  # the report is of the last run


def test_the_first_block_of_a_held_input_is_longer(monkeypatch):
    """It has no bytes per step, however large it is."""
    seen, linear = [], F.linear
    monkeypatch.setattr(F, "linear", lambda x, *parameters: seen.append(len(x)) or linear(x, *parameters))
    unknown, nothing = nn.Unflatten(1, (-1,)), nn.Identity()
    for between, width, blocks in ((unknown, 2, [1, 16, 4]), (nothing, 2, [1, 20]), (nothing, 300_000, [1, 13, 7])):
        net = nn.Sequential(nn.Linear(700_000, 8), leaky(), between, nn.Linear(8, width), leaky(output=True))
        snn_lnm.swap(net)
        snn_lnm.fuse_time(net)(torch.rand(1, 700_000).expand(20, 1, 700_000))
        assert seen == blocks
        seen.clear()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_neurons_of_every_adapter_get_their_current_once(framework):
    """In training: what the layer before the neuron gives for one step, not for all."""
    spike, _, _, linear, container = FRAMEWORKS[framework]
    net = container(linear(5, 6), spike())
    snn_lnm.swap(net)
    with inputs_seen() as seen:
        fused(net, torch.rand(B, 5).expand(T, B, 5))
    assert [x.shape for x in seen] == [(B, 6)]


class Mixed(nn.Module):
    """Uses its input before and after a neuron, in functions and in layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.lif, self.fc = nn.Conv2d(1, 2, 3), snn.Leaky(beta=0.5), nn.Linear(2 * 2 * 2, 4)

    def forward(self, x, mem):
        features = F.max_pool2d(F.relu(self.conv(x)), 2)
        spk, mem = self.lif(features, mem)
        out = self.fc((spk + features).view(x.size(0), -1))
        return {"out": (out, mem), "features": features, "batch": x.shape[0], "weight": self.fc.weight}


@pytest.mark.parametrize("at_once", ["all", 3])
def test_what_a_step_returns_comes_over_time(at_once):
    net, x, mem = Mixed(), (3 * torch.rand(B, 1, 6, 6)).expand(T, B, 1, 6, 6), torch.zeros(B, 2, 2, 2)
    snn_lnm.swap(net)
    got = snn_lnm.fuse_time(net, exact=True, at_once=at_once)(x, mem)
    steps, m = [], mem
    for x_t in x:
        steps.append(net(x_t, m))
        m = steps[-1]["out"][1]
    assert torch.equal(got["out"][0], torch.stack([s["out"][0] for s in steps]))
    assert torch.equal(got["out"][1], torch.stack([s["out"][1] for s in steps]))
    assert torch.equal(got["features"], torch.stack([s["features"] for s in steps])) and got["features"].any()
    got["features"].add_(1)  # in memory of its own
    assert got["batch"] == B and got["weight"] is net.fc.weight


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    "first", [nn.Dropout(0.5), nn.BatchNorm1d(5), Noise(), leaky()], ids=lambda m: type(m).__name__
)
def test_what_depends_on_time_runs_at_every_step(first):
    """Chance, the statistics of a step, and memories."""
    net = nn.Sequential(first, nn.Linear(5, 6), leaky())
    compare(net, (3 * torch.rand(B, 5)).expand(T, B, 5))
    compare(net, torch.rand(B, 5).expand(T, B, 5), swap=False)


def test_a_gradient_that_is_asked_for_at_every_step():
    net = nn.Sequential(nn.Linear(5, 6), leaky(output=True))
    snn_lnm.swap(net)
    model, found = snn_lnm.fuse_time(net, exact=True), []
    for x in (torch.rand(B, 5).expand(T, B, 5), torch.rand(B, 5).expand(T, B, 5).clone()):
        x = x.detach().requires_grad_()
        utils.reset(model)
        (grad,) = torch.autograd.grad((model(x)[1] * torch.arange(T).view(T, 1, 1)).sum(), x)
        found.append(grad)
    assert not torch.equal(found[0][0], found[0][1])


def test_an_encoder_before_the_network_learns():
    """`encoder(image).expand(T, ...)`: a gradient flows to what is expanded, and to what is held."""
    torch.manual_seed(0)
    encoder, net = nn.Linear(5, 5), nn.Sequential(nn.Linear(5, 6), leaky(output=True))
    snn_lnm.swap(net)
    image, model, found = 3 * torch.rand(B, 5), snn_lnm.fuse_time(net, exact=True), []

    def loop(x):
        return None, torch.stack([net(x_t)[1] for x_t in x])

    for run, hold in ((loop, False), (model, False), (model, True)):
        utils.reset(net)
        current = encoder(image)
        x = snn_lnm.hold(current, T) if hold else current.expand(T, B, 5)
        membranes = run(x)[1]
        assert run is loop or ways(model)["0"] == ("once" if hold else "step by step")
        found.append((membranes, *torch.autograd.grad(membranes.sum(), [*encoder.parameters()])))
    for found_here in found[1:]:
        assert torch.equal(found_here[0], found[0][0])
        torch.testing.assert_close(found_here, found[0])


CHANGES = {
    "detached": lambda step, x: step.detach_(),
    "turned": lambda step, x: x.transpose_(2, 3),
    "cut": lambda step, x: x.as_strided_((5, 1, 2, 3), (0, 9, 3, 1)),
    "squeezed": lambda step, x: x.squeeze_(1),
    "another step": lambda step, x: step.unsqueeze_(0),
    "other data": lambda step, x: setattr(x, "data", torch.rand(1, 1, 3, 3).expand(5, 1, 3, 3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_held_and_changed_is_read_as_it_is_now(change):
    leaf, found = torch.rand(1, 3, 3, requires_grad=True), []
    for backend in ("cpp", "reference"):
        torch.manual_seed(0)
        step = leaf * 3
        x = snn_lnm.hold(step, 5)
        CHANGES[change](step, x)
        spikes, state = snn_lnm.LNM(2, charge="map", backend=backend)(x)
        (grad,) = torch.autograd.grad(spikes.sum() + state.v.sum(), leaf)
        found.append((spikes, state.v, grad))
    assert all(a.shape == b.shape and torch.allclose(a, b) for a, b in zip(*found, strict=True))


def loaded(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("learns", [False, True])
def test_the_gradient_of_a_held_leaf(learns):
    """Asked for after it was held, or loaded: then of each step."""
    x = snn_lnm.hold(torch.rand(B, 5, requires_grad=learns), T)
    x, neuron = loaded(x) if learns else x.requires_grad_(), snn_lnm.LNM(2, charge="map", backend="cpp")
    (grad,) = torch.autograd.grad(neuron(x)[1].v.sum(), x)
    assert grad.shape == x.shape and not torch.equal(grad[0], grad[-1])


@pytest.mark.parametrize("strict", [True, False])
def test_a_number_of_steps_that_is_exported(strict):
    class Held(nn.Module):
        def forward(self, x, y):
            return snn_lnm.hold(x, y.shape[0]) + y[:, None, None]

    sizes = {"x": None, "y": {0: torch.export.Dim("steps", max=1000)}}
    exported = torch.export.export(
        Held(), (torch.rand(2, 4), torch.rand(5)), dynamic_shapes=sizes, strict=strict
    ).module()
    x, y = torch.rand(2, 4), torch.rand(9)
    assert torch.equal(exported(x, y), Held()(x, y))


def test_a_neuron_reads_what_is_held_once():
    neuron, current = snn_lnm.LNM(2, backend="cpp"), torch.rand(B, 5, requires_grad=True)
    with inputs_seen() as seen:
        (alone,) = torch.autograd.grad(neuron(snn_lnm.hold(current, T))[1].v.sum(), current)
    assert [x.shape for x in seen] == [(B, 5)]
    (written_out,) = torch.autograd.grad(neuron(current.expand(T, B, 5).contiguous())[1].v.sum(), current)
    torch.testing.assert_close(alone, written_out)


@pytest.mark.parametrize(
    ("x", "steps", "error", "says"),
    [
        (1.0, 3, TypeError, "torch.Tensor, got float"),
        (torch.ones(1).to_sparse(), 3, TypeError, "sparse_coo: expected a dense tensor"),
        (torch.ones(1), 2.0, TypeError, "an int, got float"),
        (torch.ones(1), True, TypeError, "an int, got bool"),
        (torch.ones(1), 0, ValueError, "at least 1, got 0"),
    ],
)
def test_what_cannot_be_held(x, steps, error, says):
    with pytest.raises(error, match=says):
        snn_lnm.hold(x, steps)
