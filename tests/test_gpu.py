"""On a GPU, where there is one: what Triton's interpreter cannot show. The engine's other tests run there, too."""

import pytest
import torch
from hypothesis import given, settings
from operators import moved
from optional import HAS_SPIKINGJELLY
from torch import nn

import snn_lnm
from snn_lnm import functional
from snn_lnm.held import hold
from snn_lnm.testing import identical, problems

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here (torch.cuda.is_available())")
FEW = settings(max_examples=max(1, settings.default.max_examples // 3))
SHAPE = (6, 8, 40)


def cubic():
    """A learned cubic that spikes, on the GPU."""
    torch.manual_seed(0)
    return snn_lnm.LNM.lif(0.9, degree=3).cuda()


@FEW
@given(problems(dtype=torch.float32, max_steps=4))
def test_a_gpu_gives_the_bits_of_a_cpu(problem):
    ours = functional.run(*moved(problem, "cuda"), backend="triton")
    law = functional.run(*problem, backend="reference")
    assert identical(ours.spikes.cpu(), law.spikes) and identical(ours.membrane.cpu(), law.membrane)


def snntorch_steps(net, x):
    membrane, spikes = net[0].reset_mem(), []
    for x_t in x:
        out, membrane = net[0](x_t, membrane)
        spikes.append(out)
    return torch.stack(spikes)


def snntorch_pair():
    import snntorch

    return [nn.Sequential(snntorch.Leaky(beta=0.9)) for _ in range(2)], snntorch_steps


def norse_pair():
    import norse.torch as norse

    return [nn.Sequential(norse.LIF()) for _ in range(2)], lambda net, x: net(4 * x)[0]


def jelly_pair():
    from spikingjelly.activation_based.neuron import LIFNode

    return [nn.Sequential(LIFNode(tau=2.0, step_mode="m")) for _ in range(2)], lambda net, x: net(2 * x)


JELLY = pytest.param(jelly_pair, marks=pytest.mark.skipif(not HAS_SPIKINGJELLY, reason="no SpikingJelly"))


@pytest.mark.parametrize("pair", [snntorch_pair, norse_pair, JELLY])
def test_hosts_keep_their_spikes_there(pair):
    (native, swapped), run = pair()
    native.cuda()
    snn_lnm.swap(swapped.cuda())
    swapped.cuda()  # nothing in a model of one neuron says where it is
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).cuda()
    expected, found = run(native, x), run(swapped, x)
    assert expected.any() and torch.equal(found, expected)
    assert "auto -> triton" in snn_lnm.explain_backend(x)
    found.sum().backward()
    coefficients = [p for name, p in swapped.named_parameters() if "coefficients" in name]
    assert coefficients and all(p.grad.isfinite().all() and p.grad.any() for p in coefficients)


@pytest.mark.parametrize("exact", [False, True])
def test_fused_over_time(exact):
    import snntorch
    from snntorch import utils

    def leaky(output=False):
        return snntorch.Leaky(beta=0.9, init_hidden=True, output=output)

    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), leaky(), nn.Flatten(), nn.Linear(4 * 12 * 12, 10), leaky(True))
    net = nn.Sequential(*layers).cuda()
    snn_lnm.swap(net)
    x = 3 * torch.rand(16, 8, 1, 28, 28, device="cuda")
    utils.reset(net)
    expected = torch.stack([net(x_t)[0] for x_t in x])
    utils.reset(net)
    found = snn_lnm.fuse_time(net, exact=exact)(x)[0]
    differing = (found != expected).float().mean()  # sums may be taken in another order but for exact=True
    assert expected.any() and differing <= (0 if exact else 1e-2)


def gradients(layer, x, weight, leaf=None):
    spikes, _ = layer(x)
    return spikes, *torch.autograd.grad((spikes * weight).sum(), [x if leaf is None else leaf, layer.coefficients])


def test_an_input_held_over_time():
    layer, image = cubic(), torch.randn(SHAPE[1:], device="cuda").requires_grad_()
    every = torch.stack([image.detach()] * 6).requires_grad_()
    weight = torch.rand(6, *SHAPE[1:], device="cuda")
    spikes, d_image, d_theta = gradients(layer, hold(image, 6), weight, image)
    expected, d_every, d_expected = gradients(layer, every, weight, every)
    assert spikes.any() and torch.equal(spikes, expected)
    torch.testing.assert_close(d_image, d_every.sum(0))  # two kernels may contract and add up each in its way
    torch.testing.assert_close(d_theta, d_expected)


def test_kernels_compiled_for_aligned_tensors_are_not_taken_for_others():
    layer, numbers = cubic(), torch.randn(3 * 8 * 64 + 1, device="cuda")
    for start in (0, 1, 0, 1):
        x = numbers[start : start + 3 * 8 * 64].view(3, 8, 64)
        spikes, _ = layer(x)
        expected, _ = layer(x.clone())
        assert spikes.any() and torch.equal(spikes, expected)


def test_a_cuda_graph_replays_it():
    layer, weight = cubic(), torch.randn(SHAPE, device="cuda")
    x = torch.randn(SHAPE, device="cuda", requires_grad=True)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # compiled before the capture
        gradients(layer, x, weight)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients(layer, x, weight)
    with torch.no_grad():
        x.copy_(torch.randn(SHAPE, device="cuda"))
    graph.replay()
    expected = gradients(layer, x, weight)
    assert expected[0].any() and all(map(torch.equal, captured, expected))


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.filterwarnings("ignore")  # Inductor's own
def test_inductor_compiles_it_in_one_graph(mode):
    layer, weight = cubic(), torch.randn(SHAPE, device="cuda")
    compiled = torch.compile(layer, fullgraph=True, mode=mode)
    for _ in range(3):  # a graph is recorded in the second call and replayed in the third
        x = torch.randn(SHAPE, device="cuda", requires_grad=True)
        torch.compiler.cudagraph_mark_step_begin()
        found = [value.clone() for value in gradients(compiled, x, weight)]
        assert all(map(torch.equal, found, gradients(layer, x, weight)))


def test_it_runs_on_the_stream_of_the_caller():
    layer, x = cubic(), torch.randn(64, *SHAPE[1:], device="cuda")
    expected, side = layer(x)[0], torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)
        late = x * 1  # ready only after the sleep, on this stream
        found = layer(late)[0]
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(found, expected)


def test_only_the_membrane_is_kept():
    layer, x = cubic(), torch.randn(32, 64, 1024, device="cuda", requires_grad=True)
    layer(x)[0].sum().backward()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    spikes, state = layer(x)
    held = torch.cuda.memory_allocated() - before
    assert 8 * x.numel() <= held <= 8 * x.numel() + 2 * 4 * x[0].numel() + 2**16  # spikes, h, the state
    assert spikes.any() and state.v.shape == x.shape[1:]
