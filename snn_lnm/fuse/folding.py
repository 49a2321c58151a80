"""What may run once on `[T·B, ...]` instead of T times on `[B, ...]`: layers and functions without a memory that
treat every row alike. Whatever is not named here runs step by step."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.utils import _pytree as pytree

from snn_lnm.fuse.max_pool import max_pool2d
from snn_lnm.plugins import Adapter

__all__ = [
    "FOLDED_FUNCTIONS",
    "KNOWN",
    "OF_ONE_STEP",
    "POINTWISE",
    "RANDOM",
    "ROW_BY_ROW",
    "SHAPES",
    "SUMS",
    "call_of",
    "fold",
    "in_one_call",
    "kind_of",
    "reason_to_step",
    "size_after",
]

BATCHED_DIMS: dict[type[nn.Module], int] = {
    **dict.fromkeys((nn.Conv1d, nn.ConvTranspose1d, nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d, nn.ZeroPad1d), 3),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.ReflectionPad1d, nn.ReplicationPad1d), 3),
    **dict.fromkeys((nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.ZeroPad2d), 4),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ReflectionPad2d, nn.ReplicationPad2d), 4),
    **dict.fromkeys((nn.BatchNorm2d, nn.PixelShuffle, nn.PixelUnshuffle, nn.Unfold), 4),
    **dict.fromkeys((nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d, nn.AvgPool3d, nn.BatchNorm3d), 5),
    **dict.fromkeys((nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d), 5),
}
"""Layer -> dimensions of its input with a batch. With fewer the first is no batch, and it runs per step."""
AT_LEAST_TWO = (nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.Flatten, nn.Unflatten, nn.BatchNorm1d)
ANY = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.LogSigmoid, nn.Softplus, nn.Softsign),
)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
KNOWN: frozenset[type[nn.Module]] = frozenset((*BATCHED_DIMS, *AT_LEAST_TWO, *ANY, *NORMS, *RANDOM))
"""PyTorch's own, which no framework makes neurons of."""
SUMS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)
"""Their kernels may add up in another order for another batch size."""

FOLDED_FUNCTIONS: dict[Any, int] = {
    F.linear: 2,
    **dict.fromkeys((F.conv1d, F.conv_transpose1d, F.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d), 3),
    **dict.fromkeys((F.conv2d, F.conv_transpose2d, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d), 4),
    **dict.fromkeys((F.conv3d, F.conv_transpose3d, F.max_pool3d, F.avg_pool3d, F.adaptive_avg_pool3d), 5),
}
"""Function -> dimensions of its first argument with a batch."""

OF_ONE_STEP = frozenset(
    {"shape", "dtype", "device", "ndim", "layout", "size", "dim", "ndimension", "numel", "nelement"}
)
"""Attributes and methods of a tensor that are the same at every step, and no tensors."""

_SHAPES = "view reshape flatten unflatten permute transpose unsqueeze squeeze movedim swapaxes expand expand_as view_as"
_VALUES = (
    "add sub mul div neg abs clamp relu sigmoid tanh exp log sqrt square pow where maximum minimum "
    "gt ge lt le eq ne sign floor ceil round detach clone contiguous float double half bfloat16 to type_as"
)
_WORDS = (_SHAPES + " " + _VALUES).split()
SHAPES = frozenset(_SHAPES.split())
POINTWISE: frozenset[Any] = frozenset(
    [
        *_WORDS,
        *(getattr(torch, name) for name in (*_WORDS, "cat", "stack", "concat") if hasattr(torch, name)),
        *(F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.gelu, F.silu, F.hardtanh, F.softplus, F.softsign, F.mish),
        *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow, operator.abs),
        *(operator.gt, operator.ge, operator.lt, operator.le, operator.eq, operator.ne, operator.getitem),
    ]
)
"""Functions and methods that compute, or move, each element by itself: one call over time gives the step's bits."""
ROW_BY_ROW = frozenset(
    name if isinstance(name, str) else getattr(name, "__name__", "") for name in (*POINTWISE, *FOLDED_FUNCTIONS)
) | {"rand_like", "randn_like", "zeros_like", "ones_like", "dropout"}
"""Names of functions that treat every row alike, but for those that move rows by their arguments."""


def reason_to_step(kind: type[nn.Module], layer: Any, dims: int | None) -> str:
    """Why ``layer``, which acts as a ``kind``, must run step by step; empty if it need not.

    Args:
        dims: of the input of one step; None: not known yet, taken to have a batch.
    """
    if kind in RANDOM:
        return "draws a mask at every step" if layer.training else ""
    if kind in NORMS and (layer.training or layer.running_mean is None):
        return "normalises by the statistics of each step"
    if kind in ANY:
        return ""
    if kind not in BATCHED_DIMS and kind not in AT_LEAST_TWO:
        return "not known to be free of memory and to treat every row alike"
    least = BATCHED_DIMS.get(kind, 2)
    if kind is nn.LayerNorm:
        least = 1 + len(layer.normalized_shape)
    if kind in (nn.Flatten, nn.Unflatten):
        first = layer.start_dim if kind is nn.Flatten else layer.dim
        if not isinstance(first, int) or first == 0 or (first < 0 and dims is not None and first + dims < 1):
            return "touches the batch dimension"
    exact = kind in BATCHED_DIMS
    if dims is not None and (dims != least if exact else dims < least):
        return f"its input has {dims} dimensions, where {least} are a batch"
    return ""


def kind_of(layer: nn.Module, adapters: Sequence[Adapter]) -> type[nn.Module]:
    """What ``layer`` acts as: a layer of ``torch.nn`` that its framework wraps, or what it is.

    Raises:
        CannotFuse: its framework says why it may not run over time.
    """
    kind = type(layer)
    return kind if kind in KNOWN else next(filter(None, (adapter.layer(layer) for adapter in adapters)), kind)


def size_after(kind: type[nn.Module], layer: Any, size: int) -> int | None:
    """Elements that ``layer``, which acts as a ``kind``, makes of ``size``; None: that takes a run."""
    if kind is nn.Linear:
        return size // max(layer.in_features, 1) * layer.out_features
    return size if kind in (*ANY, *NORMS, *RANDOM, nn.LayerNorm, nn.GroupNorm, nn.Flatten) else None


def call_of(kind: type[nn.Module], layer: Any) -> Callable[..., Any]:
    """What calls ``layer``, which acts as a ``kind``: the same numbers, sooner where the engine has it."""
    if kind is not nn.MaxPool2d or "forward" in vars(layer) or _are_all_modules_watched():
        return layer
    options = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    return partial(max_pool2d, **{option: getattr(layer, option) for option in options})


def _are_all_modules_watched() -> bool:
    kinds = ("forward", "forward_pre", "backward", "backward_pre")
    return any(getattr(torch_module, f"_global_{kind}_hooks") for kind in kinds)


def fold(function: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """``function`` on `[T·B, ...]`; its results as `[T, B, ...]`."""
    function = max_pool2d if function is F.max_pool2d else function
    if type(function) is nn.Linear and x.dim() == 3 and "forward" not in vars(function):
        return function(x, *args, **kwargs)  # PyTorch folds it by itself
    time_and_batch = x.shape[:2]
    out = function(x.flatten(0, 1), *args, **kwargs)

    def unfold(value: Tensor) -> Tensor:
        return value.view(*time_and_batch, *value.shape[1:])

    return unfold(out) if isinstance(out, Tensor) else pytree.tree_map_only(Tensor, unfold, out)


def in_one_call(function: Callable[..., Any], is_over_time: Callable[[Any], bool], args: Any, kwargs: Any) -> Any:
    """A pointwise ``function`` over time: its arguments keep the meaning they have in one step.

    Arguments for which ``is_over_time`` have a field ``tensor``, `[T, ...]`; the rest are the same at every step.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs), is_leaf=is_over_time)
    places = [place for place, leaf in enumerate(leaves) if is_over_time(leaf)]

    def step(*values: Tensor) -> Any:
        for place, value in zip(places, values, strict=True):
            leaves[place] = value
        inner_args, inner_kwargs = pytree.tree_unflatten(leaves, spec)
        return function(*inner_args, **inner_kwargs)

    return torch.vmap(step)(*(leaves[place].tensor for place in places))
