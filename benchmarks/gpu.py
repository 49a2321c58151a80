"""One layer on a GPU, ours against snnTorch, Norse, SpikingJelly and torch.compile: `python -m benchmarks.gpu`.

First correctness, then time. Ours must give the spikes and membranes of the reference engine on the same GPU, and each
host's neuron the spikes of the neuron that replaces it, all `torch.equal`, and the reference's gradients but for
rounding; what fails is not timed and the exit status is 1. Times are `triton.testing.do_bench` (L2 cache cleared
before each call): median, 20th and 80th percentile.
"share" is a copy's time for the least bytes that any neuron must move (12 per neuron and step forward, 24 with
backward, float32), divided by the time measured: 1 is the speed of a copy, which is measured in the same run.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.layer import DYNAMICS, LEAK, THRESHOLD, compiled_step, host, norse_loop
from snn_lnm import functional, swap
from snn_lnm.parameters import Parameters

Shape = tuple[int, ...]
Bench = Callable[[Callable[[], Any], list[Tensor]], tuple[float, float, float]]
"""Times a call: median, 20th and 80th percentile in seconds. The tensors' gradients are dropped before each call."""
SHAPES = ["32,64,4096", "4,32,64,32,32", "8,64,128,32,32", "128,64,512"]
FLOOR = {"forward": 12, "forward + backward": 24}
"""Bytes per neuron and step: x, s, h; and the gradients of s and x, and h again."""


class Contestant(NamedTuple):
    """``run`` gives the spikes of an input."""

    name: str
    run: Callable[[Tensor], Tensor]
    exact: bool = True  # its spikes must be those of "ours"
    most_steps: int | None = None  # longer sequences are left out


class Row(NamedTuple):
    shape: str
    host: str
    contestant: str
    direction: str
    seconds: float
    low: float
    high: float
    share: float  # of the copy's speed
    peak: int  # bytes allocated beyond the input
    differing: int  # spikes that are not those of ours


# ---- contestants ---------------------------------------------------------------------------------


def theta(device: torch.device) -> Parameters:
    """A learned cubic that starts at snnTorch's ``Leaky``."""
    coefficients = torch.tensor([0.0, LEAK, 0.0, 0.0], device=device, requires_grad=True)
    return Parameters(coefficients, *(torch.tensor(value, device=device) for value in (THRESHOLD, 0.0, 1.0)))


def snntorch(device: torch.device, backend: Any) -> list[Contestant]:
    from snntorch import Leaky

    numbers = theta(device)
    leaky = Leaky(beta=LEAK, threshold=THRESHOLD, learn_beta=True).to(device)
    return [
        Contestant("ours", lambda x: functional.run(x, None, numbers, DYNAMICS, backend=backend).spikes),
        Contestant("Leaky, unbind loop", host(True, leaky)),
        # Inductor fuses multiplications and additions, so its spikes may differ; it unrolls the loop, for minutes.
        Contestant("unbind loop, compiled", torch.compile(host(True, compiled_step()), dynamic=False), False, 32),
    ]


def norse(device: torch.device, backend: Any) -> list[Contestant]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Norse's import, not ours
        import norse.torch as norse

    native, swapped = norse.LIF().to(device), nn.Sequential(norse.LIF())
    swap(swapped, backend=backend)
    swapped.to(device)

    return [Contestant("ours", lambda x: swapped(x)[0]), Contestant("LIF, unbind loop", norse_loop(native))]


def spikingjelly(device: torch.device, backend: Any) -> list[Contestant]:
    from spikingjelly.activation_based import functional as jelly
    from spikingjelly.activation_based.neuron import LIFNode
    from spikingjelly.activation_based.surrogate import ATan

    def node() -> Any:
        return LIFNode(surrogate_function=ATan(), step_mode="m")

    native, swapped = node().to(device), nn.Sequential(node())
    swap(swapped, backend=backend)
    swapped.to(device)

    def fresh(net: nn.Module) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            jelly.reset_net(net)
            return net(x)

        return run

    return [Contestant("ours", fresh(swapped)), Contestant("LIFNode, its Triton kernels", fresh(native))]


HOSTS = {"snntorch": snntorch, "norse": norse, "spikingjelly": spikingjelly}
SCALE = {"snntorch": 1.0, "norse": 4.0, "spikingjelly": 2.0}
"""Standard deviation of the input, for some spikes and not too many."""


# ---- correctness ---------------------------------------------------------------------------------


def check_law(x: Tensor, backend: Any) -> str | None:
    """Why the engine is not the reference on this input; None if it is: to the bit, gradients but for rounding."""
    numbers = theta(x.device)
    with torch.no_grad():
        ours, law = (functional.run(x, None, numbers, DYNAMICS, backend=name) for name in (backend, "reference"))
    for name in ("spikes", "membrane"):
        wrong = int((getattr(ours, name) != getattr(law, name)).sum())
        if wrong:
            return f"{wrong} of {x.numel()} {name} differ from the reference engine's"
    (d_x, d_theta), (law_x, law_theta) = (gradients(x, name) for name in (backend, "reference"))
    # Some 20 roundings in each step, of terms that powers of the state multiply, held to the domain but for the first.
    rounding = 20 * len(x) * torch.finfo(torch.float32).eps
    assert DYNAMICS.domain is not None
    edge = DYNAMICS.domain[1]
    largest = torch.tensor([edge**k for k in range(len(d_theta))], device=x.device)
    largest[1] = max(edge, float(law.membrane.abs().max()))
    if not bool((d_x - law_x).norm() <= rounding * law_x.norm()):
        return "the gradient of the input is not the reference engine's"
    if not bool(((d_theta - law_theta).abs() <= rounding * largest * law_x.abs().sum()).all()):
        return "the gradients of the coefficients are not the reference engine's"
    return None


def gradients(x: Tensor, backend: Any) -> tuple[Tensor, ...]:
    """Of the input and of the coefficients, from a loss on the spikes."""
    numbers, x = theta(x.device), x.detach().requires_grad_()
    spikes = functional.run(x, None, numbers, DYNAMICS, backend=backend).spikes
    weights = torch.linspace(-1, 1, spikes.numel(), device=x.device).view_as(spikes)
    return torch.autograd.grad((spikes * weights).sum(), [x, numbers.coefficients])


def differing(contestants: list[Contestant], x: Tensor) -> list[int]:
    with torch.no_grad():
        expected = contestants[0].run(x)
        if not bool(expected.any()):
            raise RuntimeError(f"no neuron spikes on {tuple(x.shape)}: the comparison would show nothing.")
        return [int((contestant.run(x) != expected).sum()) for contestant in contestants]


# ---- time ----------------------------------------------------------------------------------------


def do_bench(call: Callable[[], Any], leaves: list[Tensor]) -> tuple[float, float, float]:
    from triton.testing import do_bench

    times: Any = do_bench(call, warmup=100, rep=500, grad_to_none=leaves, quantiles=[0.5, 0.2, 0.8])
    median, low, high = times
    return median / 1e3, low / 1e3, high / 1e3


def copy_speed(device: torch.device, bench: Bench, elements: int = 2**28) -> float:
    """Bytes per second, read and written, of a large float32 copy."""
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * elements / bench(lambda: target.copy_(source), [])[0]


def peak(call: Callable[[], Any], device: torch.device) -> int:
    """Bytes allocated at most during a call, beyond what was before."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(
    shape: Shape, name: str, device: torch.device, backend: Any, bench: Bench, copy: float
) -> tuple[list[Row], list[str]]:
    """The rows of one host on one shape, and what is wrong; a contestant that is wrong has no row."""
    torch.compiler.reset()  # past a limit of recompilations it would run uncompiled, and say nothing
    torch.manual_seed(0)
    x, d_spikes = (SCALE[name] * torch.randn(shape, device=device)).requires_grad_(), torch.randn(shape, device=device)
    where, rows, wrong = ",".join(map(str, shape)), [], []
    contestants = [c for c in HOSTS[name](device, backend) if c.most_steps is None or len(x) <= c.most_steps]
    for contestant, count in zip(contestants, differing(contestants, x), strict=True):
        if contestant.exact and count:
            wrong.append(f"{where}: {count} of {x.numel()} spikes of {name} {contestant.name} differ from ours")
            continue
        run = contestant.run

        def both(run: Any = run) -> None:
            run(x).backward(d_spikes)

        for direction, call in (("forward", lambda run=run: run(x)), ("forward + backward", both)):
            times = bench(call, [x])
            x.grad = None
            share = FLOOR[direction] * x.numel() / copy / times[0]
            rows.append(Row(where, name, contestant.name, direction, *times, share, peak(call, device), count))
            x.grad = None
    return rows, wrong


# ---- report --------------------------------------------------------------------------------------


def machine(device: torch.device) -> str:
    packages = ("torch", "triton", "snntorch", "norse", "spikingjelly")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    if device.type != "cuda":
        return f"{device}, {versions}"
    driver = "driver unknown"
    if tool := shutil.which("nvidia-smi"):
        query = [tool, "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True).stdout.strip().splitlines()
        driver = f"driver, SM and memory clock {answer[0]}" if answer else driver
    about = torch.cuda.get_device_properties(device)
    memory = f"{about.multi_processor_count} SMs, {about.total_memory / 2**30:.0f} GiB"
    return f"{about.name}, {memory}, {driver}, CUDA {torch.version.cuda}, {versions}"


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def table(rows: Sequence[Row]) -> str:
    """Times relative to ours in the same host, shape and direction."""
    ours = {(*row[:2], row.direction): row.seconds for row in rows if row.contestant == "ours"}
    lines: list[tuple[str, ...]] = [
        ("shape", "host", "contestant", "direction", "ms", "p20", "p80", "x ours", "share", "MiB", "other spikes")
    ]
    for row in rows:
        base = ours.get((*row[:2], row.direction))
        times = (f"{value * 1e3:.3f}" for value in (row.seconds, row.low, row.high))
        ratio = f"{row.seconds / base:.2f}" if base else "-"
        rest = (ratio, f"{row.share:.2f}", f"{row.peak / 2**20:.0f}", str(row.differing))
        lines.append((row.shape, row.host, row.contestant, row.direction, *times, *rest))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def shape(text: str) -> Shape:
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) < 2 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected sizes T,B,... as 32,64,4096, got {text!r}")
    return sizes


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", type=shape, default=[shape(text) for text in SHAPES], metavar="T,B,...")
    parser.add_argument("--hosts", nargs="+", choices=HOSTS, default=[*HOSTS])
    parser.add_argument("--csv", type=Path, help="also write all rows there")
    return parser.parse_args(words)


def run(options: argparse.Namespace, device: torch.device, backend: Any, bench: Bench) -> int:
    about = machine(device)
    print(about, flush=True)
    copy = copy_speed(device, bench, 2**28 if device.type == "cuda" else 2**10)
    print(f"copy: {copy / 1e9:.0f} GB/s read and written", flush=True)
    rows: list[Row] = []
    wrong: list[str] = []
    for each in options.shapes:
        x = torch.randn(each, device=device)
        if (reason := check_law(x, backend)) is not None:
            wrong.append(f"{','.join(map(str, each))}: {reason}")
            continue
        for name in options.hosts:
            try:
                found, faults = measure(each, name, device, backend, bench, copy)
            except Exception as error:  # a host that is missing or does not run here: the rest may
                found, faults = [], [f"{','.join(map(str, each))} {name}: {type(error).__name__}: {error}"]
            rows += found
            wrong += faults
            print(table(found), flush=True)
    print("\n" + table(rows))
    print(
        "\n".join(["", *wrong]) if wrong else "\nevery spike and membrane compared is equal, gradients but for rounding"
    )
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["machine", *Row._fields])
            writer.writerows([about, *row] for row in rows)
    return int(bool(wrong) or not rows)


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    if not torch.cuda.is_available():
        print(
            f"This benchmark needs a GPU, and PyTorch {torch.__version__} sees none here (torch.cuda.is_available() "
            "is False). On CPUs: python -m benchmarks.layer.",
            file=sys.stderr,
        )
        return 2
    os.environ.setdefault("SJ_LIF_CUDA_IMPLEMENTATION", "triton")  # SpikingJelly reads it when it is imported
    device = torch.device("cuda", torch.cuda.current_device())
    return run(options, device, "triton", do_bench)


if __name__ == "__main__":
    sys.exit(main())
