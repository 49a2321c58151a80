"""The networks of `benchmarks.network`, as their hosts' tutorials write them, and the ways to run them over time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import snntorch as snn
import torch
from snntorch import utils
from torch import Tensor, nn

import snn_lnm

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # Norse's import, not ours
    import norse.torch as norse

__all__ = ["LOWER_BOUND", "NETWORKS", "Network", "Run", "contestants"]

Run = Callable[[Tensor], Tensor]
BATCH, BETA = 64, 0.9
LOWER_BOUND = "layers alone"
"""The network without its neurons, fused: what every way to run it takes at least."""
NEURONS = (snn.Leaky, norse.LIFCell, norse.LICell)


@dataclass
class Network:
    """A per-step model and the shape of one step of its input.

    Attributes:
        one_image: the input is the same at every step, as in snnTorch's tutorials 5 and 6, not a sequence.
        device: where model and input are.
        build: makes the model; built anew for each contestant, as snnTorch never resets a copy.
        other_model: a contestant that is another framework's model of the same shape, with spikes of its own; it takes
            whether to compile, and the device.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    scale: float
    other_model: tuple[str, Callable[[bool, str], Run]] | None = None
    one_image: bool = False
    device: str = "cpu"

    def model(self) -> nn.Module:
        """The model, with the same weights at every call."""
        torch.manual_seed(0)
        return self.build().to(self.device)

    def inputs(self, steps: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        steps_of_its_own = 1 if self.one_image else steps
        x = self.scale * torch.rand((steps_of_its_own, BATCH, *self.shape), generator=generator).to(self.device)
        return x.expand(steps, *x.shape[1:])


def leaky(output: bool = False) -> snn.Leaky:
    return snn.Leaky(beta=BETA, init_hidden=True, output=output)


def digits() -> Network:
    """The demo's two dense layers, 64-1000-10."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 1000), leaky(), nn.Linear(1000, 10), leaky(output=True))

    return Network("digits", build, (64,), 3.0)


def dense() -> Network:
    """snnTorch's tutorial 5 on MNIST's shape: two dense layers, 784-1000-10."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(784, 1000), leaky(), nn.Linear(1000, 10), leaky(output=True))

    return Network("dense", build, (784,), 3.0)


def conv() -> Network:
    """snnTorch's tutorial 6 and 7 on MNIST's shape: two convolutions and a dense layer."""

    def build() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), leaky()),
            *(nn.Conv2d(12, 64, 5), nn.MaxPool2d(2), leaky()),
            *(nn.Flatten(), nn.Linear(64 * 4 * 4, 10), leaky(output=True)),
        )

    return Network("conv", build, (1, 28, 28), 3.0, ("spikingjelly", jelly_conv))


def norse_conv() -> Network:
    """The shape of Norse's `ConvNet4` on MNIST; a low threshold lets untrained layers spike within 16 steps."""
    p = norse.LIFParameters(v_th=torch.tensor(0.2))

    def build() -> nn.Module:
        return norse.SequentialState(
            *(nn.Conv2d(1, 20, 5, 1), norse.LIFCell(p), nn.MaxPool2d(2, 2)),
            *(nn.Conv2d(20, 50, 5, 1), norse.LIFCell(p), nn.MaxPool2d(2, 2)),
            *(nn.Flatten(), nn.Linear(4 * 4 * 50, 500), norse.LIFCell(p)),
            *(nn.Linear(500, 10, bias=False), norse.LICell()),
        )

    return Network("norse", build, (1, 28, 28), 100.0)


def jelly_conv(compiled: bool, device: str) -> Run:
    """The convolutional network of SpikingJelly's own neurons and layers, multi-step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import, not ours
        from spikingjelly.activation_based import functional, layer, neuron

    def spike() -> nn.Module:
        return neuron.LIFNode(tau=2.0, detach_reset=True)

    net = nn.Sequential(
        *(layer.Conv2d(1, 12, 5), layer.MaxPool2d(2), spike(), layer.Conv2d(12, 64, 5), layer.MaxPool2d(2), spike()),
        *(layer.Flatten(), layer.Linear(64 * 4 * 4, 10), spike()),
    )
    functional.set_step_mode(net.to(device), "m")
    forward = torch.compile(net, dynamic=False) if compiled else net

    def run(x: Tensor) -> Tensor:
        functional.reset_net(net)
        return forward(x)

    return run


def before_time(head: nn.Module, x: Tensor) -> Tensor:
    """``head``, which has no memory, over all steps: in one call, and once if they are the same."""
    if x.stride(0) == 0:
        out = head(x[0])
        return out.expand(len(x), *out.shape)
    return head(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def alone(layers: list[nn.Module], hoisted: int) -> Run:
    """The layers without the neurons; those after the first one get a sequence of their own, as from a neuron."""
    head = nn.Sequential(*layers[:hoisted])
    tail = fused(nn.Sequential(*(layer for layer in layers[hoisted:] if not isinstance(layer, NEURONS))))
    return lambda x: tail(before_time(head, x).contiguous())


def loop(model: nn.Module, hoisted: int = 0) -> Run:
    """The user's loop. ``hoisted`` leading layers, which have no memory, run once for all steps."""
    is_norse = isinstance(model, norse.SequentialState)
    layers = [*model.children()]
    head, tail = nn.Sequential(*layers[:hoisted]), (type(model)(*layers[hoisted:]) if hoisted else model)

    def run(x: Tensor) -> Tensor:
        if hoisted:
            x = before_time(head, x)
        if not is_norse:
            utils.reset(tail)
        state, outputs = None, []
        for x_t in x.unbind(0) if hoisted else (x[t] for t in range(len(x))):
            if is_norse:
                out, state = tail(x_t, state)
            else:
                out = tail(x_t)[1]
            outputs.append(out)
        return torch.stack(outputs)

    return run


def fused(model: nn.Module, at_once: Literal["auto", "all"] = "auto") -> Run:
    """The fused model."""
    over_time: Any = snn_lnm.fuse_time(model, at_once=at_once)
    is_norse = isinstance(model, norse.SequentialState)

    def run(x: Tensor) -> Tensor:
        if not is_norse:
            utils.reset(over_time)
        out = over_time(x)
        return out if isinstance(out, Tensor) else out[0 if is_norse else 1]

    return run


def contestants(network: Network, with_compile: bool) -> dict[str, Run]:
    """Every way to run ``network``; all start with the same weights."""
    layers = [*network.model().children()]
    hoisted = next(place for place, layer in enumerate(layers) if isinstance(layer, NEURONS))
    builds: dict[str, Callable[[], Run]] = {
        "fused": lambda: fused(swapped(network)),
        "fused, all at once": lambda: fused(swapped(network), at_once="all"),
        "swapped loop": lambda: loop(swapped(network)),
        "best loop": lambda: loop(network.model(), hoisted),
        "stock loop": lambda: loop(network.model()),
        LOWER_BOUND: lambda: alone(layers, hoisted),
    }
    if any(isinstance(layer, nn.Conv2d) for layer in layers):
        builds["fused, channels last"] = lambda: fused(channels_last(swapped(network)))
        builds["best loop, channels last"] = lambda: loop(channels_last(network.model()), hoisted)
    if with_compile:
        builds["fused, compiled"] = lambda: torch.compile(fused(swapped(network)), dynamic=False)
        builds["loop, compiled"] = lambda: torch.compile(loop(network.model(), hoisted), dynamic=False)
    if network.other_model is not None:
        name, build = network.other_model
        builds[name] = lambda: build(False, network.device)
        if with_compile:
            builds[f"{name}, compiled"] = lambda: build(True, network.device)
    return {name: with_neurons_of_its_own(build) for name, build in builds.items()}


def with_neurons_of_its_own(build: Callable[[], Run]) -> Run:
    """snnTorch's `utils.reset` resets all neurons of a process: here those of one contestant, as in a user's."""
    snn.SpikingNeuron.instances = []
    run = build()
    own = snn.SpikingNeuron.instances  # swapped neurons stand in a registry in its place

    def alone_in_the_process(x: Tensor) -> Tensor:
        snn.SpikingNeuron.instances = own
        return run(x)

    return alone_in_the_process


def swapped(network: Network) -> nn.Module:
    model = network.model()
    snn_lnm.swap(model)
    return model


def channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub lacks it


def one_image(build: Callable[[], Network]) -> Callable[[], Network]:
    """The network with one image for input, at every step."""
    network = build()
    return lambda: replace(network, name=f"{network.name}-image", one_image=True)


_SEQUENCES = {"digits": digits, "dense": dense, "conv": conv, "norse": norse_conv}
_IMAGES = {f"{name}-image": one_image(build) for name, build in _SEQUENCES.items()}
NETWORKS: dict[str, Callable[[], Network]] = _SEQUENCES | _IMAGES
