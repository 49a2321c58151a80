"""The Triton kernels alone, without the host: `python -m benchmarks.gpu_kernels`.

Each kernel is replayed within a CUDA graph (`triton.testing.do_bench_cudagraph`), five times: least, median and largest
time. "of a copy" is a copy's time for the 12 bytes per neuron and step that a pass must move, divided by the
median: 1 is the speed of a large copy, which is measured in the same run. A learned cubic, float32, hard reset, ATan.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu import FLOOR, copy_speed, do_bench, machine
from snn_lnm.engines import triton as engine
from snn_lnm.engines.triton.launches import Launch
from snn_lnm.tools.audit import Variant

CASES = [
    ((32, 64, 4096), "layer"),
    ((128, 64, 512), "layer"),
    ((16, 64, 1000), "layer"),
    ((8, 64, 128, 32, 32), "channel"),
    ((128, 64, 512), "channel"),
]
ROUNDS = 5


def numbers(shape: tuple[int, ...], layout: str, device: torch.device) -> list[Tensor]:
    """Of the audit's cubic."""
    theta, *others = Variant("cubic", shape=shape, layout=layout).numbers()
    spread = torch.tensor([0.0, 0.9, 0.02, -0.03], device=device).expand(theta.shape).contiguous()
    return [spread, *(torch.tensor(value, device=device) for value, _ in zip((1.0, 0.0, 1.0), others, strict=True))]


def launches(shape: tuple[int, ...], layout: str, device: torch.device) -> Iterator[tuple[str, Launch]]:
    """The two kernels of a training step, on random input."""
    call = Variant("cubic", shape=shape, layout=layout).call()
    x = torch.randn(shape, device=device)
    tensors = x, [torch.zeros(shape[1:], device=device)], numbers(shape, layout, device)
    (_, h, *_), forward = engine.prepare_forward(*tensors, *call, torch.float32)
    forward(device)  # its membrane is the input of the backward pass
    yield "forward", forward
    d_outputs = [torch.randn(shape, device=device), None, None]
    yield "backward", engine.prepare_backward(d_outputs, *tensors, h, *call, False, [True, False, False, False])[1]


def measure(launch: Launch, device: torch.device) -> list[float]:
    """Microseconds of every round."""
    from triton.testing import do_bench_cudagraph

    launch(device)
    torch.cuda.synchronize()
    return [1e3 * float(do_bench_cudagraph(lambda: launch(device))) for _ in range(ROUNDS)]  # pyright: ignore[reportArgumentType]


def main() -> int:
    if not torch.cuda.is_available():
        print(f"This benchmark needs a GPU, and PyTorch {torch.__version__} sees none here.", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    copy = copy_speed(device, do_bench)
    print(f"{machine(device)}\ncopy: {copy / 1e9:.0f} GB/s read and written")
    for shape, layout in CASES:
        for kernel, launch in launches(shape, layout, device):
            times = measure(launch, device)
            share = FLOOR["forward"] * math.prod(shape) / copy / statistics.median(times) * 1e6
            spread = " ".join(f"{time:7.1f}" for time in (min(times), statistics.median(times), max(times)))
            print(f"{shape!s:22} {layout:8} {kernel:9} {spread} us, of a copy {share:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
