"""What a call costs on the host, kernels aside: `python -m benchmarks.host`.

One small layer, whose arithmetic takes no time, called over a sequence and step by step beside snnTorch's own neuron.
Triton compiles its kernels for an H100 and hands them to a driver that launches nothing, so this runs without a GPU:
what is left is Python, autograd and the allocator of CPU memory. (A GPU's allocator and real launches come on top.)
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, cast
from unittest import mock

import snntorch as snn
import torch
from snn_lnm_snntorch import LNM as Swapped
from snntorch import surrogate
from torch import Tensor, nn

from benchmarks.floor import interleaved
from benchmarks.layer import machine
from snn_lnm import LNM
from snn_lnm.engines import Backend
from snn_lnm.engines import triton as engine
from snn_lnm.engines.op import ENGINES

STEPS, CALLS = 16, 20
Call = Callable[[], object]


class IdleDriver:
    """What Triton asks of a driver, for an H100 that does nothing."""

    def __init__(self) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", 90, 32)
        self.utils = mock.Mock()
        self.utils.get_device_properties.return_value = {"max_shared_mem": 2**20}
        self.utils.load_binary.return_value = (0, 0, 32, 0, 1024)  # module, function, registers, spills, threads

    def launcher_cls(self, source: Any, metadata: Any) -> Call:
        return lambda *arguments: None

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def idle_gpu() -> Generator[None]:
    """The Triton engine takes CPU tensors, and computes nothing."""
    import triton

    triton.runtime.driver.set_active(cast(Any, IdleDriver()))
    willing = engine.ENGINE._replace(obstacle=lambda device, functions: None)
    with mock.patch.dict(ENGINES, triton=willing):
        yield


def over_time(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: layer(x)[0]


def in_a_loop(neuron: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        mem, spikes = cast(Any, neuron).reset_mem(), []
        for x_t in x.unbind(0):
            s, mem = neuron(x_t, mem)
            spikes.append(s)
        return torch.stack(spikes)

    return run


def contestants() -> Iterator[tuple[str, nn.Module, Callable[[Tensor], Tensor], int]]:
    """Name, module, how it runs, and how many calls that are."""
    weight = nn.Linear(1, 1)
    yield "x * w", weight, lambda x: x * weight.weight, 1
    engines: tuple[Backend, ...] = ("cpp", "triton")
    for backend in engines:
        for name, channels in (("layer", None), ("channel", 64)):
            layer = LNM(3, channels=channels, charge="map", reset="soft_next", backend=backend)
            yield f"{backend}, per {name}", layer, over_time(layer), 1
    words: dict[str, Any] = {"beta": 0.9, "spike_grad": surrogate.atan()}
    stock = snn.Leaky(**words, learn_beta=True)
    yield "snnTorch, a step", stock, in_a_loop(stock), STEPS
    for backend in engines:
        neuron = Swapped(**words, backend=backend)
        yield f"{backend}, a step", neuron, in_a_loop(neuron), STEPS


def seconds(call: Call) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS


def ways(module: nn.Module, run: Callable[[Tensor], Tensor]) -> dict[str, Call]:
    x, ones = torch.randn(STEPS, 2, 64, requires_grad=True), torch.ones(STEPS, 2, 64)
    leaves = [x, *(p for p in module.parameters() if p.requires_grad)]

    def without() -> object:
        with torch.no_grad():
            return run(x)

    def backward() -> object:
        return torch.autograd.grad(run(x), leaves, ones, allow_unused=True)

    return {"no grad": without, "forward": lambda: run(x), "forward + backward": backward}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine())
    with idle_gpu():
        rows = [(name, calls, ways(module, run)) for name, module, run, calls in contestants()]
        timed = {f"{name}|{way}": partial(seconds, call) for name, _, row in rows for way, call in row.items()}
        times = interleaved(timed, options.rounds)
    head = "".join(f"{way:>22}" for way in rows[0][2])
    print(f"{'us a call: median (min-max)':<28}{head}")
    for name, calls, row in rows:
        found = [[1e6 * value / calls for value in times[f"{name}|{way}"]] for way in row]
        cells = [f"{statistics.median(us):.0f} ({min(us):.0f}-{max(us):.0f})" for us in found]
        print(f"{name:<28}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
