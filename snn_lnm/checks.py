"""Checks of what a caller gives, and the form in which the rest has it.

All of them run before any arithmetic, so that a wrong argument never leaves a trace.
"""

from __future__ import annotations

import math
from typing import cast, get_args

import torch
from torch import Tensor

from snn_lnm.tracing import sizes

__all__ = [
    "MAX_DEGREE",
    "STATE_DTYPE",
    "align",
    "as_parameter",
    "check_choice",
    "check_coefficients",
    "check_degree",
    "check_dense",
    "check_finite",
    "check_input",
    "check_not_meta",
    "check_state",
    "check_still_finite",
    "from_the_right",
    "number",
]

MAX_DEGREE = 8
STATE_DTYPE = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
"""Input dtype -> dtype of the membrane and of all arithmetic."""


def check_choice(name: str, value: object, kind: object) -> None:
    """Raise ValueError unless ``value`` is one of the words of ``kind``, a `Literal`."""
    if value not in get_args(kind):
        raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(map(repr, get_args(kind)))}.")


def check_degree(degree: object) -> int:
    """``degree`` itself, if it is an integer in 0..8."""
    if isinstance(degree, bool) or not isinstance(degree, int):
        raise TypeError(f"degree must be an int, got {degree!r}.")
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree must be between 0 and {MAX_DEGREE}, got {degree}.")
    return degree


def check_coefficients(coefficients: Tensor, degree: int | None = None) -> Tensor:
    """``coefficients`` itself, if it is `[..., D+1]` with D in 0..8, finite, and D is ``degree`` if given."""
    if coefficients.dim() < 1:
        raise ValueError("coefficients must be [D+1], [C, D+1] or [*neuron_shape, D+1], got a scalar.")
    found = check_degree(coefficients.shape[-1] - 1)
    if degree is not None and found != degree:
        raise ValueError(
            f"degree={degree} contradicts coefficients of shape {[*coefficients.shape]}, whose degree is {found}: "
            "leave degree out, or give degree + 1 coefficients."
        )
    return check_finite("coefficients", coefficients)


def check_not_meta(name: str, value: Tensor) -> Tensor:
    """``value`` itself, if it holds numbers."""
    if value.is_meta:
        raise ValueError(f"{name} is on the meta device and holds no numbers: materialise the module first.")
    return value


def check_finite(name: str, value: Tensor) -> Tensor:
    """``value`` itself, if it holds neither NaN nor Inf."""
    if not bool(torch.isfinite(check_not_meta(name, value)).all()):
        raise ValueError(f"{name} must be finite, got {value.detach().flatten()[:8].tolist()}.")
    return value


def check_still_finite(coefficients: Tensor, path: str) -> None:
    """Raise ValueError, with what to try, if training has made the coefficients of the layer at ``path`` NaN or Inf."""
    if coefficients.is_meta or bool(torch.isfinite(coefficients).all()):
        return
    where = f" in layer {path!r}" if path else ""
    raise ValueError(
        f"coefficients must be finite, got {coefficients.detach().flatten()[:8].tolist()}{where}. If they were, "
        "training has diverged: try a smaller learning rate for the coefficients, say a tenth of the weights', or clip "
        "gradients (torch.nn.utils.clip_grad_norm_), and go on from the last good checkpoint."
    ) from None


def align(name: str, value: Tensor, step: torch.Size, trailing: int = 0) -> Tensor:
    """View ``value`` so that it broadcasts from the right to one step of the input.

    Layouts: `[]` for the layer; `[C]` per channel, which is dim 1 of the step `[B, C, ...]`;
    otherwise per neuron, any shape that broadcasts to `[C, ...]` or `[B, C, ...]`.

    Args:
        step: shape of one time step, `[B, C, ...]`.
        trailing: dimensions of ``value`` at the end that are not a layout (1 for coefficients).

    Raises:
        ValueError: the layout fits none of the three.
    """
    if value.dim() == trailing:
        return value
    shape = sizes(value)
    layout, suffix = shape[: value.dim() - trailing], shape[value.dim() - trailing :]
    if math.prod(layout) == 1:
        return value.reshape(suffix)
    if len(layout) == 1 and len(step) > 2:
        layout = torch.Size([*layout, *[1] * (len(step) - 2)])
    fits = len(layout) <= len(step) and all(
        size in (1, full) for size, full in zip(layout, step[len(step) - len(layout) :], strict=True)
    )
    if not fits:
        channels = step[1] if len(step) > 1 else step[0] if step else 1
        per_channel, per_neuron = [channels, *suffix], [*step[1:], *suffix]
        shapes = f"{per_channel} (per channel) or {per_neuron} (per neuron)"
        if per_channel == per_neuron:
            shapes = f"or {per_channel} (per channel)"
        raise ValueError(
            f"{name} has shape {[*shape]}, which does not fit an input step of shape {[*step]}: expected "
            f"{[*suffix]} (one for the layer), {shapes}."
        )
    return value.reshape(*layout, *suffix)


def from_the_right(value: Tensor, dims: int, trailing: int = 0) -> Tensor:
    """``value``, of a framework that broadcasts from the right, so that :func:`align` reads it so.

    Only a `[N]` for steps `[B, ..., N]` of more than two dimensions is ambiguous: :func:`align` would
    take it for one value per channel.
    """
    if value.dim() - trailing == 1 and dims > 2:
        return value.reshape(*[1] * (dims - 2), *value.shape)
    return value


def as_parameter(name: str, value: object, like: Tensor) -> Tensor:
    """``value`` as a tensor of the arithmetic dtype on the input's device.

    Numbers are converted. Tensors must already have the arithmetic dtype of the input ``like``
    (float32 for half inputs, where half parameters are widened) and its device.
    """
    dtype = STATE_DTYPE[like.dtype]
    if not isinstance(value, Tensor):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}.")
        if math.isnan(value):
            raise ValueError(f"{name} must not be NaN.")
        return torch.full((), value, dtype=dtype, device=like.device)  # no copy from the host
    if value.device != like.device:
        raise ValueError(
            f"{name} is on {value.device} and the input on {like.device}: "
            "move one of them (module.to(x.device), or x.to(...))."
        )
    if value.dtype == dtype:
        return value
    if value.dtype in (torch.bfloat16, torch.float16) and dtype == torch.float32:
        return value.to(dtype)
    raise TypeError(
        f"{name} is {value.dtype} and the input {like.dtype}, whose arithmetic is {dtype}: "
        f"convert one of them (module.to({dtype}), or x.to(...))."
    )


def number(name: str, value: Tensor | float) -> Tensor:
    """``value`` as a tensor of a module's own: a copy, or a number in the default dtype; finite."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}.")
        return check_finite(name, value.detach().clone())
    if name == "coefficients":
        raise TypeError(f"coefficients must be a tensor, [D+1] for example, got {value!r}.")
    if isinstance(value, bool) or not isinstance(cast(object, value), (int, float)):
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}.")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}.")
    return torch.tensor(float(value), dtype=torch.get_default_dtype())


def check_input(x: object) -> Tensor:
    """``x`` itself, if it is a floating-point tensor of a supported dtype."""
    if not isinstance(x, Tensor):
        raise TypeError(f"the input must be a torch.Tensor, got {type(x).__name__}.")
    if x.dtype not in STATE_DTYPE:
        supported = ", ".join(str(dtype) for dtype in STATE_DTYPE)
        raise TypeError(f"the input is {x.dtype}: expected one of {supported} (x.float() converts).")
    return check_dense(x)


def check_dense(x: Tensor) -> Tensor:
    """``x`` itself, if it is neither sparse nor nested."""
    if x.is_nested:
        raise TypeError("the input is a nested tensor: expected a dense one (x.to_padded_tensor(0.0) converts).")
    if x.layout != torch.strided:
        raise TypeError(f"the input is {x.layout}: expected a dense tensor (x.to_dense() converts).")
    return x


def check_state(name: str, value: Tensor | None, step: torch.Size, like: Tensor) -> Tensor | None:
    """``value`` in the arithmetic dtype, if it has the shape of one step of the input ``like``."""
    if value is None:
        return None
    if not isinstance(cast(object, value), Tensor):
        raise TypeError(f"state.{name} must be a tensor or None, got {type(value).__name__}.")
    if (shape := sizes(value)) != step:
        raise ValueError(
            f"state.{name} has shape {[*shape]} and one step of the input {[*step]}: "
            "start a new sequence with state=None."
        )
    return as_parameter(f"state.{name}", value, like)
