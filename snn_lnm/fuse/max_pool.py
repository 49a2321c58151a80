"""`max_pool2d` with PyTorch's bits, sooner for windows of 2 x 2 on CPUs.

PyTorch pools a contiguous tensor one value at a time: in a convolutional network fused over time this took longer than
the neurons.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from snn_lnm.engines import cpp, transformed
from snn_lnm.engines.op import is_forward_mode
from snn_lnm.tracing import is_tracing

__all__ = ["max_pool2d"]

_library = torch.library.Library("snn_lnm", "FRAGMENT")
_library.define("max_pool(Tensor x) -> (Tensor, Tensor)")
_library.define("max_pool_backward(Tensor d, Tensor places, int[] sizes, bool channels_last) -> Tensor")


def _max_pool_fake(x: Tensor) -> tuple[Tensor, Tensor]:
    out = F.max_pool2d(x, 2)
    return out, torch.empty_like(out, dtype=torch.uint8)


def _max_pool_backward_fake(d: Tensor, places: Tensor, sizes: list[int], channels_last: bool) -> Tensor:
    return d.new_empty(sizes).contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


torch.library.register_fake("snn_lnm::max_pool", _max_pool_fake, lib=_library)
torch.library.register_fake("snn_lnm::max_pool_backward", _max_pool_backward_fake, lib=_library)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out, places = torch.ops.snn_lnm.max_pool.default(x)
        ctx.save_for_backward(places)
        ctx.layout = x.shape, not x.is_contiguous()
        return out

    @staticmethod
    def backward(ctx: Any, *d_outputs: Any) -> Any:
        return _Unpool.apply(*d_outputs, *ctx.saved_tensors, *ctx.layout)


class _Unpool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, d: Tensor, places: Tensor, sizes: torch.Size, channels_last: bool) -> Tensor:
        ctx.save_for_backward(places)
        return torch.ops.snn_lnm.max_pool_backward.default(d, places, sizes, channels_last)

    @staticmethod
    def backward(ctx: Any, *d_outputs: Any) -> Any:
        (d_x,), (places,) = d_outputs, ctx.saved_tensors
        height, width = places.shape[-2:]
        windows = d_x[..., : 2 * height, : 2 * width].unflatten(-2, (height, 2)).unflatten(-1, (width, 2))
        of_a_window = windows.transpose(-3, -2).flatten(-2)
        return of_a_window.gather(-1, places.long().unsqueeze(-1)).squeeze(-1), None, None, None


def _is_usual(x: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, switches: bool) -> bool:
    """Windows of 2 x 2 side by side, a plain dense tensor, and the C++ engine is loaded."""
    sizes = (kernel_size, kernel_size if stride is None else stride, padding, dilation)
    return (
        not is_tracing()  # which knows PyTorch's own only, and no sizes
        and all(size in (usual, (usual, usual)) for size, usual in zip(sizes, (2, 2, 0, 1), strict=True))
        and not switches
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.dim() == 4
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
        and min(x.shape[-2:]) >= 2
        and not (torch.compiler.is_compiling() or transformed() or is_forward_mode())  # which know PyTorch's own only
        and cpp.has_kernel("snn_lnm::max_pool")
    )


def max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """`torch.nn.functional.max_pool2d`, to the bit and with all its arguments.

    Windows of 2 x 2 side by side over `[N, C, H, W]`, contiguous or channels last, float32 or float64, run in the C++
    engine once that is loaded, and keep one byte per window for the backward pass. Everything else is PyTorch's.
    """
    if _is_usual(x, kernel_size, stride, padding, dilation, ceil_mode or return_indices):
        return _MaxPool.apply(x)
    return F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=return_indices)
