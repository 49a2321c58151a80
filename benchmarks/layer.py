"""One layer, forward + backward: the fused neuron against its hosts' neurons, compiled loops and the copy floor.

`python -m benchmarks.layer` prints ratios of medians; every round times all contestants in turn, so a
drift of the machine's speed hits all of them. float32, degree 3 with coefficient gradients, input
needing a gradient, ATan, the same number of threads for all. The fused neuron starts at the Leaky it
is compared with, and the run stops if spikes or membranes differ.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_lnm import functional
from snn_lnm.parameters import Dynamics, Parameters

LEAK, THRESHOLD = 0.9, 1.0
Run = Callable[[Tensor], Tensor]
DYNAMICS = Dynamics(charge="map", reset="soft_next", domain=(-1.5, 1.5))


def parameters() -> Parameters:
    theta = torch.tensor([0.0, LEAK, 0.0, 0.0], requires_grad=True)
    return Parameters(theta, torch.tensor(THRESHOLD), torch.tensor(0.0), torch.tensor(1.0))


def fused(numbers: Parameters) -> Run:
    return lambda x: functional.run(x, None, numbers, DYNAMICS, backend="cpp").spikes


def host(unbind: bool, step: Callable[..., tuple[Tensor, Tensor]]) -> Run:
    def run(x: Tensor) -> Tensor:
        membrane, spikes = torch.zeros_like(x[0]), []
        for x_t in x.unbind(0) if unbind else (x[t] for t in range(len(x))):
            s, membrane = step(x_t, membrane)
            spikes.append(s)
        return torch.stack(spikes)

    return run


def compiled_step() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """snnTorch's Leaky step in plain operations: what `torch.compile` is given (its class breaks graphs)."""
    from snn_lnm.surrogate import ATan

    spike = ATan()

    def step(x: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
        reset = spike(membrane - THRESHOLD).detach()
        membrane = LEAK * membrane + x - reset * THRESHOLD
        return spike(membrane - THRESHOLD), membrane

    return step


def once(run: Run, x: Tensor, d_spikes: Tensor) -> float:
    x.grad = None
    start = time.perf_counter()
    run(x).backward(d_spikes)
    return time.perf_counter() - start


def copy_floor(elements: int) -> float:
    """Seconds to read and write 24 bytes per element by a copy of float32 (12 read, 12 written)."""
    source = torch.ones(3 * elements)
    target = torch.empty_like(source)
    target.copy_(source)
    start = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - start


def measure(shape: tuple[int, ...], rounds: int, with_compile: bool) -> dict[str, list[float]]:
    import snntorch

    torch.manual_seed(0)
    x = torch.randn(shape).requires_grad_()
    d_spikes = torch.randn(shape)
    leaky = snntorch.Leaky(beta=LEAK, threshold=THRESHOLD, learn_beta=True)
    contestants: dict[str, Run] = {
        "fused": fused(parameters()),
        "snntorch unbind": host(True, leaky),
        "snntorch index": host(False, leaky),
    }
    if with_compile:
        contestants["compiled unbind"] = torch.compile(host(True, compiled_step()))
    expected = contestants["snntorch unbind"](x)
    for name, run in contestants.items():
        if not torch.equal(run(x), expected):
            raise SystemExit(f"{name} does not give snnTorch's spikes on {shape}: no timing.")
    seconds: dict[str, list[float]] = {name: [] for name in [*contestants, "copy floor"]}
    for run in contestants.values():
        once(run, x, d_spikes)
    for _ in range(rounds):
        for name, run in contestants.items():
            repeats = 1 if "index" in name else 3
            seconds[name].append(min(once(run, x, d_spikes) for _ in range(repeats)))
        seconds["copy floor"].append(min(copy_floor(x.numel()) for _ in range(3)))
    return seconds


def measure_cubic(shape: tuple[int, ...], rounds: int) -> dict[str, list[float]]:
    """A learned cubic without a domain, hard reset: the fused neuron against `torch.compile` of the loop."""
    from snn_lnm.surrogate import ATan

    spike, start = ATan(), [0.0, LEAK, 0.02, -0.02]
    theta = torch.tensor(start, requires_grad=True)
    numbers = Parameters(torch.tensor(start, requires_grad=True), torch.tensor(THRESHOLD), *torch.tensor([0.0, 1.0]))
    dynamics = Dynamics(charge="map", reset="hard", domain=None)

    def step(x: Tensor, membrane: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c, d = theta.unbind()
        h = ((d * membrane + c) * membrane + b) * membrane + a + x
        s = spike(h - THRESHOLD)
        reset = s.detach()
        return s, (1 - reset) * h

    contestants: dict[str, Run] = {
        "fused": lambda x: functional.run(x, None, numbers, dynamics, backend="cpp").spikes,
        "compiled cubic": torch.compile(host(True, step)),
    }
    torch.manual_seed(0)
    x, d_spikes = torch.randn(shape).requires_grad_(), torch.randn(shape)
    if not torch.equal(*(run(x) for run in contestants.values())):
        raise SystemExit(f"the compiled cubic does not give the same spikes on {shape}: no timing.")
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, run in contestants.items():
            fastest = min(once(run, x, d_spikes) for _ in range(3))
            if round_:
                seconds[name].append(fastest)
    return seconds


def norse_loop(native: Any) -> Run:
    """Norse's step over ``x.unbind(0)``: its LIF layer at its best."""
    from norse.torch.functional.lif import lif_feed_forward_step

    def unbind(x: Tensor) -> Tensor:
        state, spikes = native.initial_state(x), []
        for x_t in x.unbind(0):
            s, state = lif_feed_forward_step(x_t, state, native.p, native.dt)
            spikes.append(s)
        return torch.stack(spikes)

    return unbind


def measure_norse(shape: tuple[int, ...], rounds: int) -> dict[str, list[float]]:
    """Norse's LIF layer as it is, its step in a loop over ``x.unbind(0)``, and the layer that `swap` puts there."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Norse's import, not ours
        import norse.torch as norse

    import snn_lnm

    native, holder = norse.LIF(), torch.nn.Sequential(norse.LIF())
    snn_lnm.swap(holder, backend="cpp")

    contestants: dict[str, Run] = {
        "fused": lambda x: holder(x)[0],
        "norse unbind": norse_loop(native),
        "norse LIF": lambda x: native(x)[0],
    }
    torch.manual_seed(0)
    x = (4 * torch.randn(shape)).requires_grad_()
    d_spikes = torch.randn(shape)
    expected = native(x)[0]
    for name, run in contestants.items():
        if not torch.equal(run(x), expected):
            raise SystemExit(f"{name} does not give Norse's spikes on {shape}: no timing.")
        once(run, x, d_spikes)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            seconds[name].append(min(once(run, x, d_spikes) for _ in range(1 if name == "norse LIF" else 3)))
    return seconds


def measure_step(rounds: int) -> dict[str, list[float]]:
    """One step `[64, 4096]` inside a user's loop, through the adapter, forward + backward."""
    import snn_lnm_snntorch
    import snntorch

    x = torch.randn(64, 4096).requires_grad_()
    membrane, d = torch.rand(64, 4096), torch.randn(64, 4096)
    steps = {
        "fused": snn_lnm_snntorch.LNM(beta=LEAK, degree=3),
        "snntorch step": snntorch.Leaky(beta=LEAK, learn_beta=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, neuron in steps.items():
            times = [once(lambda value, n=neuron: n(value, membrane)[0], x, d) for _ in range(20)]
            if round_:
                seconds[name].append(statistics.median(times))
    return seconds


def machine() -> str:
    model = platform.processor()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return (
        f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"MALLOC_MMAP_THRESHOLD_={os.environ.get('MALLOC_MMAP_THRESHOLD_', 'default')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also time torch.compile of the unbind loop")
    parser.add_argument("--shapes", nargs="*", default=["32,64,4096", "128,64,512"])
    parser.add_argument("--csv", type=Path, help="write all times there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    rows = []
    for text in options.shapes:
        shape = tuple(int(size) for size in text.split(","))
        rows.append((text, measure(shape, options.rounds, options.compile and shape[0] <= 32)))
    rows.append(("norse 32,64,4096", measure_norse((32, 64, 4096), options.rounds)))
    rows.append(("one step 64,4096", measure_step(options.rounds)))
    if options.compile:
        rows.append(("cubic 4,32,64,32,32", measure_cubic((4, 32, 64, 32, 32), options.rounds)))
    print(f"{'shape':<20} {'contestant':<18} {'ms':>9} {'min':>9} {'max':>9}  time relative to fused")
    for text, seconds in rows:
        base = statistics.median(seconds["fused"])
        for name, times in seconds.items():
            median = statistics.median(times)
            print(
                f"{text:<20} {name:<18} {median * 1e3:9.2f} {min(times) * 1e3:9.2f} {max(times) * 1e3:9.2f}"
                f"  {median / base:6.2f}x"
            )
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["machine", "shape", "contestant", "seconds"])
            for text, seconds in rows:
                writer.writerows([machine(), text, name, t] for name, times in seconds.items() for t in times)


if __name__ == "__main__":
    main()
