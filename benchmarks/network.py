"""Whole networks, one training step (forward + backward): the host's loop over time against the fused network.

`python -m benchmarks.network` prints ratios of medians to "fused". Every round times all contestants in turn, so
a drift of the machine's speed hits all of them. float32, batch 64. Before anything is timed the outputs must agree
with the stock loop's: spikes and membranes equal, or, where a layer's kernel adds up in another order for another
batch, equal but for the share printed beside the network. Peak memory is what one step
adds in a process of its own (Linux).
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.layer import machine
from benchmarks.networks import NETWORKS, Network, Run, contestants

WORST_SHARE = 1e-3
"""Largest share of outputs that may differ: one spike near the threshold moves all that follow it."""


def step(run: Run, x: Tensor, weights: Tensor) -> float:
    """Seconds of one forward and backward."""
    start = time.perf_counter()
    (run(x) * weights).sum().backward()
    return time.perf_counter() - start


def differing(run: Run, expected: Tensor, x: Tensor) -> float:
    """The share of outputs that are not equal to ``expected``."""
    with torch.no_grad():
        return float((run(x) != expected).float().mean())


def measure(network: Network, steps: int, rounds: int, with_compile: bool) -> dict[str, dict[str, Any]]:
    """Contestant -> its times, and what it did besides."""
    x = network.inputs(steps)
    runs = contestants(network, with_compile)
    with torch.no_grad():
        expected = runs["stock loop"](x)
    if not bool(expected.any()):
        raise SystemExit(f"{network.name}: nothing but zeros comes out, so nothing can be compared.")
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    found: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        start = time.perf_counter()
        share = differing(run, expected, x) if name not in network.other_models else 0.0
        if share > WORST_SHARE:
            raise SystemExit(
                f"{name} gives other outputs than the stock loop on {network.name} ({share:.2%}): no timing."
            )
        step(run, x, weights)
        found[name] = {"first": time.perf_counter() - start, "differing": share, "seconds": []}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name]["seconds"].append(step(run, x, weights))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs="*", default=[16, 64])
    parser.add_argument("--networks", nargs="*", default=[*NETWORKS], choices=[*NETWORKS])
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the loop, up to T = 16")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder for network.csv and the plots")
    parser.add_argument("--peak", nargs=3, metavar=("NETWORK", "STEPS", "CONTESTANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        name, steps, contestant = options.peak
        print_peak(NETWORKS[name](), int(steps), contestant)
        return
    print(machine())
    rows = []
    print(
        f"{'network':<10} {'T':>4} {'contestant':<20} {'ms':>9} {'min':>9} {'max':>9} {'peak MB':>8}  relative to fused"
    )
    for name in options.networks:
        for steps in options.steps:
            found = measure(NETWORKS[name](), steps, options.rounds, options.compile and steps <= 16)
            base = statistics.median(found["fused"]["seconds"])
            for contestant, result in found.items():
                times, compiled = result["seconds"], contestant == "compiled loop"
                peak = float("nan") if compiled else peak_megabytes(name, steps, contestant, options.threads)
                median = statistics.median(times)
                note = f", first call {result['first']:.0f} s" if compiled else ""
                note += f", {result['differing']:.1e} of the outputs differ" if result["differing"] else ""
                print(
                    f"{name:<10} {steps:>4} {contestant:<20} {median * 1e3:9.1f} {min(times) * 1e3:9.1f} "
                    f"{max(times) * 1e3:9.1f} {peak:8.0f}  {median / base:6.2f}x{note}",
                    flush=True,
                )
                rows += [(machine(), name, steps, contestant, t, peak, result["first"]) for t in times]
    options.out.mkdir(exist_ok=True)
    with (options.out / "network.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["machine", "network", "T", "contestant", "seconds", "peak_megabytes", "first_call_seconds"])
        writer.writerows(rows)
    from benchmarks.plots import network_figures

    network_figures(options.out / "network.csv", options.out)


if __name__ == "__main__":
    main()
