"""`torch.compile(fuse_time(model))`: one graph, and the numbers of the fused model."""

import pytest
import torch
from fuse_nets import FRAMEWORKS, cases, fresh, gradients, same, state_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from snntorch import utils
from test_fuse_layers import leaky
from torch import nn

import snn_lnm

T, B = 5, 3
NEW = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)
compiles = pytest.mark.skipif(not NEW, reason="compiling fused networks is promised from PyTorch 2.14 on")


def run(case, x, compiled):
    """Outputs, states and gradients, of a network without a past."""
    net = fresh(case)
    model = snn_lnm.fuse_time(net)
    if compiled:
        torch.compiler.reset()
        model = torch.compile(model, fullgraph=True, backend="aot_eager")
    outputs, state = model(x, None) if case.framework == "norse" else (model(x), None)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    hidden = [module.mem for module in net.modules() if case.framework == "snntorch" and hasattr(module, "mem")]
    return *outputs, *state_tensors(state), *hidden, *gradients(outputs, case, [*net.parameters()])


@compiles
@pytest.mark.parametrize("framework", FRAMEWORKS)
@settings(max_examples=max(1, settings.default.max_examples // 15))
@given(data=st.data())
def test_networks_whose_arithmetic_is_exact(framework, data):
    case = data.draw(cases(framework, swapped=True, longest=4))
    x = case.x[:1].expand(case.x.shape) if data.draw(st.booleans()) else case.x
    assert all(map(same, run(case, x, compiled=True), run(case, x, compiled=False)))


def steps_held(function, *arguments):
    """Of the neurons' calls in the one graph of ``function``: for how many steps their inputs are held."""
    found = []

    def backend(graph, examples):
        calls = [node for node in graph.graph.nodes if node.target is torch.ops.snn_lnm.scan.cpp]
        found.extend(node.args[6] for node in calls)
        return graph.forward

    torch.compiler.reset()
    utils.reset(nn.Sequential(leaky()))  # all neurons there are
    torch.compile(function, fullgraph=True, backend=backend)(*arguments)
    return found


@compiles
def test_inputs_that_do_not_change_are_held():
    """An image, what an encoder makes of it, and a neuron's own; not where a single step's gradient is asked for."""
    encoder = nn.Linear(4, 5)
    net = nn.Sequential(nn.Linear(5, 6), leaky(), nn.Linear(6, 2), leaky(output=True))
    snn_lnm.swap(net)
    model, x = snn_lnm.fuse_time(net), torch.rand(B, 5)
    assert steps_held(model, x.expand(T, B, 5)) == [T, 0]
    assert steps_held(lambda image: model(snn_lnm.hold(encoder(image), T)), torch.rand(B, 4)) == [T, 0]
    assert steps_held(model, torch.rand(T, B, 5)) == [0, 0]
    assert steps_held(lambda image: model(encoder(image).expand(T, B, 5)), torch.rand(B, 4)) == [0, 0]
    neuron = snn_lnm.LNM.lif(0.9)
    assert steps_held(neuron, x.expand(T, B, 5)) == [T]


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_holds_nothing(strict):
    """It would take every later input for one that does not change."""
    neuron, image = snn_lnm.LNM.lif(0.9), 3 * torch.rand(B, 5)
    program = torch.export.export(neuron, (image.expand(T, B, 5),), strict=strict).module()
    x = 3 * torch.rand(T, B, 5)
    spikes, _ = program(x)
    assert spikes.any() and torch.equal(spikes, neuron(x)[0])


@compiles
def test_training_and_evaluation_have_graphs_of_their_own():
    net = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), leaky())
    snn_lnm.swap(net)
    model, x = snn_lnm.fuse_time(net), torch.rand(T, B, 5)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        for mode in (True, False):
            compiled.train(mode)
            net[2].reset_mem()
            torch.manual_seed(0)
            found = compiled(x)
            net[2].reset_mem()
            torch.manual_seed(0)
            assert torch.equal(found, model(x))


@compiles
def test_a_model_that_changed_since_says_what_to_do():
    net = nn.Sequential(nn.Linear(5, 6), leaky())
    snn_lnm.swap(net)
    model, x = snn_lnm.fuse_time(net), torch.rand(T, B, 5)
    net.eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="call it once before it is compiled"):
        compiled(x)
    found = []
    for run in (model, compiled):
        net[1].reset_mem()
        found.append(run(x))
    assert torch.equal(*found)
