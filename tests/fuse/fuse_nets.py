"""Networks of the three frameworks whose arithmetic is exact, and their loops over time.

Weights, inputs and the loss's weights are small multiples of 1/4, leaks are 1/2 or 1/4, surrogates are constant
or linear pieces: in float64 no sum or product rounds, so the order of a sum changes no bit, and a fused network
has to give the loop's outputs and gradients exactly.
"""

import copy
from dataclasses import dataclass

import norse.torch as norse
import snntorch as snn
import torch
from hypothesis import strategies as st
from optional import HAS_SPIKINGJELLY
from snntorch import utils
from torch import nn

import snn_lnm
from snn_lnm.surrogate import Rectangle

if HAS_SPIKINGJELLY:
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based import surrogate as jelly

CHANNELS, SIZE, CLASSES = 2, 4, 3


def quarters(shape, generator, dtype=torch.float64):
    return torch.randint(-4, 5, shape, generator=generator).to(dtype) / 4


def leaky(output=False, **words):
    return snn.Leaky(beta=0.5, spike_grad=Rectangle(2.0), init_hidden=True, output=output, **words)


def lif_cell():
    p = norse.LIFParameters(torch.tensor(1.0), torch.tensor(2.0), method="triangle", alpha=1.0)
    return norse.LIFCell(p, dt=0.25)


def lif_recurrent(size):
    p = norse.LIFParameters(torch.tensor(1.0), torch.tensor(2.0), method="triangle", alpha=1.0)
    return norse.LIFRecurrentCell(size, size, p, dt=0.25)


def lif_node():
    return neuron.LIFNode(2.0, surrogate_function=jelly.Rect(alpha=1.0))


@dataclass
class Case:
    """A per-step network, its framework, an input `[T, B, C, H, W]` and the weights of a loss."""

    framework: str
    net: nn.Module
    x: torch.Tensor
    weights: torch.Tensor
    swapped: bool


FRAMEWORKS = {
    "snntorch": (leaky, nn.Conv2d, nn.Flatten, nn.Linear, nn.Sequential),
    "norse": (lif_cell, nn.Conv2d, nn.Flatten, nn.Linear, norse.SequentialState),
}
if HAS_SPIKINGJELLY:
    FRAMEWORKS["spikingjelly"] = (lif_node, layer.Conv2d, layer.Flatten, layer.Linear, nn.Sequential)


@st.composite
def cases(draw, framework, swapped, longest=5):
    """Convolutions, poolings, dense layers, dropout in evaluation; some neurons may stay native."""
    spike, conv, flatten, linear, container = FRAMEWORKS[framework]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    layers, width, size = [], CHANNELS, SIZE
    for _ in range(draw(st.integers(0, 2))):
        layers += [conv(width, 2, 3, padding=1), spike()]
        width = 2
        if size > 2 and draw(st.booleans()):
            layers.append(draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))(2))
            size //= 2
    layers += [flatten(), *draw(st.sampled_from([[], [nn.Dropout(0.5)], [nn.Identity(), nn.ReLU()]]))]
    width *= size * size
    for _ in range(draw(st.integers(0, 1))):
        layers += [linear(width, 4), spike()]
        width = 4
    layers += [linear(width, CLASSES)]
    layers += [leaky(output=True)] if framework == "snntorch" else [spike()]
    if framework == "norse" and draw(st.booleans()):
        layers += [lif_recurrent(CLASSES)]
    dtype = torch.float64 if swapped or framework != "snntorch" else torch.float32  # its native spikes are float32
    net = container(*layers).to(dtype).eval()
    if swapped:
        snn_lnm.swap(net, degree=draw(st.integers(1, 2)))
        net.to(dtype)  # Norse's numbers are float32, and so are coefficients made of them
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith(("weight", "bias", "weights")):
                value.copy_(quarters(value.shape, generator))
    steps, batch = draw(st.integers(1, longest)), draw(st.integers(1, 4))
    x = 2 * quarters((steps, batch, CHANNELS, SIZE, SIZE), generator, dtype)
    return Case(framework, net, x, quarters((2, steps, batch, CLASSES), generator, dtype), swapped)


def fresh(case):
    """The network without a past."""
    net = copy.deepcopy(case.net)
    if case.framework == "snntorch":
        utils.reset(net)
        for module in net.modules():
            if isinstance(module, snn.Leaky):
                module.reset_mem()
    if case.framework == "spikingjelly":
        functional.reset_net(net)
    return net


def loop(net, x, state=None):
    """The user's loop: everything the step returns, stacked; and Norse's last state."""
    outputs = []
    for x_t in x:
        if isinstance(net, norse.SequentialState):
            out, state = net(x_t, state)
        else:
            out = net(x_t)
        outputs.append(out if isinstance(out, tuple) else (out,))
    return tuple(map(torch.stack, zip(*outputs, strict=True))), state


def fused(net, x, state=None, **options):
    """The same from the fused network."""
    model = net if isinstance(net, snn_lnm.FusedTime) else snn_lnm.fuse_time(net, **options)
    if isinstance(model.__dict__["_model"], norse.SequentialState):
        out, state = model(x, state)
        return (out,), state
    out = model(x)
    return (out if isinstance(out, tuple) else (out,)), state


def state_tensors(state):
    """The tensors of Norse's states."""
    return [value for part in state or () if part is not None for value in part]


def gradients(outputs, case, leaves):
    loss = sum((out * weight).sum() for out, weight in zip(outputs, case.weights, strict=False))
    return torch.autograd.grad(loss, leaves, allow_unused=True)


def same(a, b):
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)
