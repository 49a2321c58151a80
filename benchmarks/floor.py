"""One layer, forward + backward, against the memory floor: shapes, layouts, resets, surrogates, half inputs.

`python -m benchmarks.floor` prints ratios of medians. The floor is the time in which the same run copies
24 bytes per element (12 read, 12 written): the least that a forward pass (input in, spikes and membrane
out) and a backward pass (membrane and gradient in, gradient out) can move in float32. Every round times
all contestants and the floor in turn, and keeps the fastest of three calls of each, so that what else the
machine does hits all of them alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.layer import DYNAMICS, LEAK, THRESHOLD, copy_floor, machine, once
from snn_lnm import functional
from snn_lnm.parameters import Dynamics, Parameters
from snn_lnm.surrogate import FastSigmoid

SHAPES = ["32,64,4096", "128,64,512", "1000,32,128", "8,64,128,32,32"]
FLAT_IN_TIME = [(steps, 64, 2**18 // steps) for steps in (4, 32, 256, 2048)]  # 16.8 million elements each
FLAT_IN_SIZE = [(16, 8, 2**k) for k in (6, 10, 14, 18)]  # 8 thousand to 34 million elements
Times = dict[str, list[float]]
Layer = tuple[Parameters, Dynamics, torch.dtype]


def parameters(shape: tuple[int, ...] = (), degree: int = 3) -> Parameters:
    """One neuron for the layer or ``shape`` of them, whose coefficients want gradients."""
    theta = torch.tensor([0.0, LEAK, 0.02, -0.02][: degree + 1]).expand(*shape, degree + 1).clone()
    return Parameters(theta.requires_grad_(), torch.tensor(THRESHOLD), torch.tensor(0.0), torch.tensor(1.0))


def contestants(step: tuple[int, ...]) -> Iterator[tuple[str, Layer]]:
    layer, channel = parameters(), parameters((step[1], *[1] * (len(step) - 2)))
    for name, numbers in (("layer", layer), ("channel", channel)):
        yield f"per {name}", (numbers, DYNAMICS, torch.float32)
    for reset in ("hard", "soft", "none", "hard_next"):
        yield reset, (layer, replace(DYNAMICS, reset=reset), torch.float32)
    yield "hard, attached", (layer, replace(DYNAMICS, reset="hard", detach_reset=False), torch.float32)
    yield "drift, hard", (layer, replace(DYNAMICS, charge="drift", reset="hard"), torch.float32)
    yield "degree 1", (parameters(degree=1), replace(DYNAMICS, domain=None), torch.float32)
    yield "degree 2", (parameters(degree=2), DYNAMICS, torch.float32)
    yield "fast sigmoid", (layer, replace(DYNAMICS, surrogate=FastSigmoid()), torch.float32)
    yield "bfloat16", (layer, DYNAMICS, torch.bfloat16)


def interleaved(calls: dict[str, Callable[[], float]], rounds: int) -> Times:
    """The fastest of three calls of each, in turn, ``rounds`` times after one that does not count."""
    seconds: Times = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            fastest = min(call() for _ in range(3))
            if round_:
                seconds[name].append(fastest)
    return seconds


def layer_call(shape: tuple[int, ...], layer: Layer) -> Callable[[], float]:
    numbers, dynamics, dtype = layer
    x, d_spikes = torch.randn(shape, dtype=dtype).requires_grad_(), torch.randn(shape, dtype=dtype)
    return lambda: once(lambda x: functional.run(x, None, numbers, dynamics, backend="cpp").spikes, x, d_spikes)


def against_floor(shape: tuple[int, ...], rounds: int) -> None:
    calls = {name: layer_call(shape, layer) for name, layer in contestants(shape[1:])}
    elements = torch.Size(shape).numel()
    seconds = interleaved({"copy floor": lambda: copy_floor(elements), **calls}, rounds)
    floor = seconds["copy floor"]
    print(f"\n{list(shape)}: ms (median, min, max), and times the copy floor (of medians, of minima)")
    for name, times in seconds.items():
        median, least = statistics.median(times), min(times)
        print(
            f"  {name:<16} {median * 1e3:9.2f} {least * 1e3:9.2f} {max(times) * 1e3:9.2f}"
            f"  {median / statistics.median(floor):6.2f}x {least / min(floor):6.2f}x"
        )
    single, half = seconds["per layer"], seconds["bfloat16"]
    print(
        f"  bfloat16 is {statistics.median(single) / statistics.median(half):.2f}x float32's speed "
        f"(of minima: {min(single) / min(half):.2f}x)"
    )


def flatness(name: str, shapes: list[tuple[int, ...]], rounds: int) -> list[list[float]]:
    """Nanoseconds per element, of each shape all rounds."""
    calls = {str(shape): layer_call(shape, (parameters(), DYNAMICS, torch.float32)) for shape in shapes}
    seconds = interleaved(calls, rounds)
    print(f"\nns per element over {name} (median, min)")
    costs = [[t * 1e9 / torch.Size(shape).numel() for t in seconds[str(shape)]] for shape in shapes]
    for shape, cost in zip(shapes, costs, strict=True):
        print(f"  {list(shape)!s:<20} {statistics.median(cost):7.3f} {min(cost):7.3f}")
    return costs


def overhead(rounds: int) -> None:
    """One step of eight neurons, forward only, against an operator that does nothing but allocate."""
    library = torch.library.Library("snn_lnm_benchmark", "DEF")
    library.define("empty(Tensor x) -> Tensor")
    library.impl("empty", torch.empty_like, "CPU")
    x, numbers = torch.randn(1, 1, 8), parameters()

    def call(run: Callable[[Tensor], object]) -> float:
        start = time.perf_counter()
        for _ in range(200):
            run(x)
        return (time.perf_counter() - start) / 200

    with torch.no_grad():
        seconds = interleaved(
            {
                "step": lambda: call(lambda x: functional.run(x, None, numbers, DYNAMICS, backend="cpp")),
                "empty": lambda: call(torch.ops.snn_lnm_benchmark.empty),
            },
            rounds,
        )
    step, empty = (statistics.median(times) * 1e6 for times in seconds.values())
    print(f"\none step: {step:.1f} us a call, {step - empty:.1f} us above an empty operator ({empty:.1f} us)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder for the plot")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(machine())
    for text in options.shapes:
        against_floor(tuple(int(size) for size in text.split(",")), options.rounds)
    time_costs = flatness("time", FLAT_IN_TIME, options.rounds)
    size_costs = flatness("size", FLAT_IN_SIZE, options.rounds)
    overhead(options.rounds)
    from benchmarks.plots import cost_figure

    options.out.mkdir(exist_ok=True)
    elements = [torch.Size(shape).numel() for shape in FLAT_IN_SIZE]
    panels = {"T": ([shape[0] for shape in FLAT_IN_TIME], time_costs), "elements": (elements, size_costs)}
    cost_figure(panels, options.out / "cost.png")


if __name__ == "__main__":
    main()
