"""Whole networks, one training step (forward + backward): the host's loop over time against the fused network.

`python -m benchmarks.network` prints ratios of medians to "fused". Every round times all contestants in turn, so
a drift of the machine's speed hits all of them. float32, batch 64. Before anything is timed the outputs must agree
with the stock loop's: spikes and membranes equal, or, where a layer's kernel adds up in another order for another
batch, equal but for the share printed beside the network. Peak memory is what one step
adds in a process of its own (Linux); on a GPU (`--device cuda`) to what PyTorch has allocated there, and convolutions
are in float32, not TF32.
"""

from __future__ import annotations

import argparse
import csv
import gc
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch import _dynamo as dynamo

from benchmarks import gpu
from benchmarks.layer import machine
from benchmarks.networks import LOWER_BOUND, NETWORKS, Network, Run, contestants

WORST_SHARE, WORST_REORDERED = 1e-3, 0.05
"""Largest share of outputs that may differ: one spike near the threshold moves all that follow it in its sample. And
where every layer adds up in another order: channels last, and on a GPU, whose outputs differ if by more than CLOSE."""
CLOSE = 1e-4


def step(run: Run, x: Tensor, weights: Tensor) -> tuple[float, float]:
    """Seconds of one forward pass and of its backward pass."""
    start = clock(x.device)
    loss = (run(x) * weights).sum()
    middle = clock(x.device)
    loss.backward()
    return middle - start, clock(x.device) - middle


def clock(device: torch.device) -> float:
    """Seconds, after everything that was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def differing(run: Run, expected: Tensor, x: Tensor) -> float:
    """The share of outputs that are not equal to ``expected``; on a GPU, by more than CLOSE."""
    with torch.no_grad():
        found = run(x)
    return float(((found - expected).abs() > CLOSE if x.is_cuda else found != expected).float().mean())


@dataclass
class Result:
    """What one contestant did: its first call, compilation included, and all rounds' forward and backward passes.

    ``peak``: megabytes that a step adds on a GPU.
    """

    first: float
    differing: float
    peak: float = float("nan")
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    @property
    def step(self) -> list[float]:
        return [there + back for there, back in zip(self.forward, self.backward, strict=True)]


def measure(network: Network, steps: int, rounds: int, with_compile: bool) -> dict[str, Result]:
    """Contestant -> its times, and what it did besides."""
    x = network.inputs(steps)
    gc.collect()  # or Dynamo does, and fails on neurons of the last network that die while it looks at snnTorch's list
    torch.compiler.reset()  # or what others compiled counts towards a limit, past which it runs uncompiled
    runs = contestants(network, with_compile)
    with torch.no_grad():
        expected = runs["stock loop"](x)
    if not bool(expected.any()):
        raise SystemExit(f"{network.name}: nothing but zeros comes out, so nothing can be compared.")
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(x.device)
    found: dict[str, Result] = {}
    for name, run in runs.items():
        start = clock(x.device)
        is_other = name == LOWER_BOUND or (network.other_model is not None and name.startswith(network.other_model[0]))
        share = 0.0 if is_other else differing(run, expected, x)
        if share > (WORST_REORDERED if x.is_cuda or name.endswith("channels last") else WORST_SHARE):
            raise SystemExit(
                f"{name} gives other outputs than the stock loop on {network.name} ({share:.2%}): no timing."
            )
        for _ in range(2):  # a loop compiles again when its neurons' states come from a call
            step(run, x, weights)
        found[name] = Result(clock(x.device) - start, share)
        if x.is_cuda:
            found[name].peak = gpu.peak(partial(step, run, x, weights), x.device) / 2**20
    order = random.Random(0)  # what one leaves in the caches and in the allocator, another finds
    for _ in range(rounds):
        for name in order.sample([*runs], len(runs)):
            there, back = step(runs[name], x, weights)
            found[name].forward.append(there)
            found[name].backward.append(back)
    return found


def peak_megabytes(network: str, steps: int, contestant: str, threads: int) -> float:
    """What one step adds to the memory of a process of its own, beyond the network and its input."""
    words = [sys.executable, "-m", "benchmarks.network", "--peak", network, str(steps), contestant]
    out = subprocess.run([*words, "--threads", str(threads)], check=True, capture_output=True, text=True)
    return float(out.stdout.split()[-1])


def print_peak(network: Network, steps: int, contestant: str) -> None:
    x = network.inputs(steps)
    run = contestants(network, with_compile=False)[contestant]
    step(run, x[:1], torch.ones(()))  # libraries and the engine are loaded
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew; Linux
    before = memory("VmRSS")
    step(run, x, torch.ones(()))
    print(memory("VmHWM") - before)


def memory(field: str) -> float:
    """A line of this process's status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def row(fused: Result, result: Result, peak: float) -> str:
    """Medians in milliseconds with the step's range, peak memory, and ratios of medians."""
    passes = [(statistics.median(a), statistics.median(b)) for a, b in zip(*map(timings, (result, fused)), strict=True)]
    milliseconds = [*(own for own, _ in passes), min(result.step), max(result.step)]
    note = f", {result.differing:.1e} of the outputs differ" if result.differing else ""
    ratios = " ".join(f"{own / base:6.2f}x" for own, base in passes)
    return " ".join(f"{1e3 * t:8.1f}" for t in milliseconds) + f"    {peak:8.0f}  {ratios}{note}"


def timings(result: Result) -> tuple[list[float], list[float], list[float]]:
    return result.forward, result.backward, result.step


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, nargs="*", default=[16, 64])
    parser.add_argument("--networks", nargs="*", default=[*NETWORKS], choices=[*NETWORKS])
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the loop, up to T = 16")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder for network.csv and the plots")
    parser.add_argument("--peak", nargs=3, metavar=("NETWORK", "STEPS", "CONTESTANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dynamo.config.recompile_limit = 64  # Norse's states have a class per layer
    torch.backends.cudnn.allow_tf32 = False
    if options.peak:
        name, steps, contestant = options.peak
        print_peak(NETWORKS[name](), int(steps), contestant)
        return
    on_gpu = options.device == "cuda"
    about = gpu.machine(torch.device("cuda")) if on_gpu else machine()
    print(about)
    rows = []
    print(
        f"{'network':<12} {'T':>4} {'contestant':<22} {'forward':>8} {'backward':>8} {'step':>8} {'min':>8} {'max':>8}"
        f" ms {'peak MB':>8}  relative to fused: forward, backward, step"
    )
    for name in options.networks:
        for steps in options.steps:
            network = replace(NETWORKS[name](), device=options.device)
            found = measure(network, steps, options.rounds, options.compile and steps <= 16)
            for contestant, result in found.items():
                compiled = "compiled" in contestant
                peak = result.peak
                if not (on_gpu or compiled):
                    peak = peak_megabytes(name, steps, contestant, options.threads)
                line = row(found["fused"], result, peak) + f", first call {result.first:.0f} s" * compiled
                print(f"{name:<12} {steps:>4} {contestant:<22} {line}", flush=True)
                for passes in zip(result.forward, result.backward, result.step, strict=True):
                    rows.append((about, name, steps, contestant, *passes, peak, result.first))
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "network.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        passes = ["forward_seconds", "backward_seconds", "seconds"]
        writer.writerow(["machine", "network", "T", "contestant", *passes, "peak_megabytes", "first_call_seconds"])
        writer.writerows(rows)
    from benchmarks.plots import network_figures

    network_figures(options.out / "network.csv", options.out)


if __name__ == "__main__":
    main()
