"""LNMNode in hands that do more than train it: checkpoints of all kinds, copies, integers, inference mode, probing."""

import copy
import inspect
import pickle

import checkpoints
import jelly_cases as jelly
import pytest
import torch
from hypothesis import given
from snn_lnm_spikingjelly import LNMNode
from spikingjelly.activation_based import base, functional, layer, memopt, neuron
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import snn_lnm


def run(node, x):
    functional.reset_net(node)
    return [node(x), node.v, node.v_seq]


@given(case=checkpoints.cases())
def test_another_degree(case):
    def build(theta, domain):
        return LNMNode(coefficients=theta, domain=domain, step_mode="m", store_v_seq=True)

    checkpoints.check(build, run, case)


def trained_nets():
    """Per step: a swapped model, whose memories hold a graph."""
    net = nn.Sequential(layer.Linear(3, 4), neuron.LIFNode(store_v_seq=True), neuron.ParametricLIFNode())
    snn_lnm.swap(net)
    return net


COPIES = [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), lambda net: AveragedModel(net).module]


@pytest.mark.parametrize("mode", ["s", "m", "fused"])
@pytest.mark.parametrize("copied", COPIES)
def test_copies_of_live_models_keep_values_and_no_graph(copied, mode):
    net, x = trained_nets(), torch.randn(4, 2, 3) * 3
    functional.set_step_mode(net, "s" if mode == "fused" else mode)
    model = net
    if mode == "fused":
        net[1].store_v_seq = False
        model = snn_lnm.fuse_time(net)
    model(x)
    other = copied(model)
    nodes = [[m for m in each.modules() if isinstance(m, LNMNode)] for each in (model, other)]
    for ours, theirs in zip(*nodes, strict=True):
        assert torch.equal(ours.v, theirs.v) and ours.v.requires_grad and not theirs.v.requires_grad
        assert ours.v_seq is None or (torch.equal(ours.v_seq, theirs.v_seq) and not theirs.v_seq.requires_grad)
    before = [node.v for node in nodes[0]]
    assert torch.equal(other(x), copied(model)(x))
    assert all(node.v is v for node, v in zip(nodes[0], before, strict=True))
    other(x).sum().backward()


def test_leaves_of_the_user_stay_leaves():
    node = LNMNode()
    node.v = torch.zeros(2, 3, requires_grad=True)
    assert copy.deepcopy(node).v.requires_grad


# ---- states of inference mode


@pytest.mark.parametrize("kind", [neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_states_of_inference_mode_start_training(kind, mode):
    native = kind(step_mode=mode, store_v_seq=True)
    ours, x, gradients = jelly.swapped(native), torch.randn(4, 2, 3) * 3, []
    for node in (native, ours):
        with torch.inference_mode():
            jelly.run(node, x)
        leaf = x.clone().requires_grad_()
        sum(out.sum() for out in jelly.run(node, leaf)).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)
    assert torch.equal(ours.v, native.v) and gradients[1].any()


# ---- integers


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
@pytest.mark.parametrize("v_reset", [0.0, 0.3, None])
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", [neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode])
def test_integers_as_the_host_takes_them(kind, mode, v_reset, dtype):
    native = kind(v_reset=v_reset, step_mode=mode, store_v_seq=True)
    ours = jelly.swapped(native)
    for _ in range(2):  # the second goes on from a membrane with a fraction
        x = torch.randint(0, 4, (4, 2, 3)).to(dtype)
        for a, b in zip(jelly.run(native, x), jelly.run(ours, x), strict=True):
            assert a.dtype == b.dtype == torch.float32 and torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_over_time(dtype):
    net = nn.Sequential(neuron.LIFNode(3.0), nn.Linear(3, 2))
    snn_lnm.swap(net)
    x = torch.randint(0, 4, (5, 2, 3)).to(dtype)
    loop, v = torch.stack([net(x_t) for x_t in x]), net[0].v
    functional.reset_net(net)
    assert torch.equal(snn_lnm.fuse_time(net)(x), loop) and torch.equal(net[0].v, v) and v.any()


def test_bools_count_as_numbers():
    node, x = LNMNode(tau=None), torch.randint(0, 2, (4, 2, 3)).bool()
    assert torch.equal(torch.stack([node(x_t) for x_t in x]), x.float())


def test_integers_become_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        assert LNMNode()(torch.ones(2, 3, dtype=torch.uint8)).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# ---- activation checkpoints: backward computes a part again, from what the memories hold by then


def gradients(net, call, x):
    functional.reset_net(net)
    net.zero_grad()
    call(x).sum().backward()
    return [parameter.grad.clone() for parameter in net.parameters()]


@pytest.fixture
def net():
    found = nn.Sequential(layer.Linear(3, 4), neuron.LIFNode(), layer.Linear(4, 3), neuron.ParametricLIFNode())
    snn_lnm.swap(found)
    found[1].path = "1"
    functional.set_step_mode(found, "m")
    return found


X = torch.linspace(-6, 9, 4 * 2 * 3).reshape(4, 2, 3)


@pytest.mark.parametrize("reentrant", [False, True])
def test_going_on_from_a_later_membrane_is_an_error(net, reentrant):
    with pytest.raises(RuntimeError, match=r"'1\.v' is that of a later step"):
        gradients(net, lambda x: checkpoint(net, x, use_reentrant=reentrant), X.clone().requires_grad_())


def test_going_on_from_a_later_membrane_is_an_error_per_step(net):
    functional.set_step_mode(net, "s")
    with pytest.raises(RuntimeError, match="is that of a later step"):
        gradients(net, lambda x: torch.stack([memopt.checkpoint(net, x_t) for x_t in x]), X)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_part_that_resets_is_right(net, reentrant):
    def part(x):
        functional.reset_net(net)
        return net(x)

    expected = gradients(net, net, X)
    found = gradients(net, lambda x: checkpoint(part, x, use_reentrant=reentrant), X.clone().requires_grad_())
    torch.testing.assert_close(found, expected)
    assert expected[0].any()


def test_a_part_that_sets_its_membranes_is_right(net):
    def part(x, *states):
        base.load_memories(net, [*states])
        return net(x), *base.extract_memories(net)

    def halves(x):
        first, *states = checkpoint(part, x[:2], 0.0, 0.0, use_reentrant=False)
        return torch.cat([first, checkpoint(part, x[2:], *states, use_reentrant=False)[0]])

    torch.testing.assert_close(gradients(net, halves, X), gradients(net, net, X))


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize("normalised", [True, False])
def test_the_host_s_own_checkpoints_are_right(chunks, learn, normalised):
    """They pass the states in and out; where there are buffers, as fixed coefficients are, they set the memories."""
    norm = layer.BatchNorm1d(4) if normalised else nn.Identity()
    found = nn.Sequential(layer.Linear(3, 4), norm, neuron.LIFNode(), layer.Linear(4, 3), neuron.ParametricLIFNode())
    snn_lnm.swap(found, learn_coefficients=learn)
    functional.set_step_mode(found.eval(), "m")
    expected = gradients(found, found, X)
    wrapped = memopt.checkpoint_module(found, chunks=chunks)
    torch.testing.assert_close(gradients(found, wrapped, X), expected)
    parts = nn.Sequential(memopt.checkpoint_module(found[:3], chunks=chunks), memopt.checkpoint_module(found[3:]))
    torch.testing.assert_close(gradients(found, parts, X), expected)


# ---- probing, and attributes set later


@pytest.mark.parametrize("move", [lambda n: n, lambda n: n.half(), lambda n: n.double(), lambda n: n.to("meta")])
@pytest.mark.parametrize("kind", [neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode, neuron.QIFNode])
def test_probing_raises_nothing(kind, move):
    node = move(jelly.swapped(kind()))
    assert not hasattr(node, "beta") and getattr(node, "beta", None) is None
    assert inspect.getmembers(node) and [getattr(node, name, None) for name in dir(node)] and repr(node)


@pytest.mark.parametrize("name, value", [("decay_input", False), ("v_reset", None), ("v_threshold", 0.5), ("tau", 1.5)])
def test_attributes_set_later_count_as_in_the_host(name, value):
    native = neuron.LIFNode(3.0)
    ours, x = jelly.swapped(native), torch.randn(4, 2, 3) * 3
    for node in (native, ours):
        setattr(node, name, value)
    for a, b in zip(jelly.run(native, x), jelly.run(ours, x), strict=True):
        assert torch.equal(a, b)


def test_a_leak_without_tau_is_an_error():
    node = LNMNode()
    node.tau = None
    with pytest.raises(TypeError, match="tau must be a number, got None"):
        node(torch.ones(2, 3))
    assert node.v == 0.0


def test_coefficients_of_another_degree_put_in_their_place():
    node, x = LNMNode(v_reset=0.1).double(), torch.randn(2, 3, dtype=torch.float64)
    node.coefficients = nn.Parameter(torch.tensor([0.25, -0.5], dtype=torch.float64))
    assert torch.equal(node(x), LNMNode(v_reset=0.1, coefficients=node.coefficients, domain=node.domain)(x))
