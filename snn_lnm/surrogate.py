"""Surrogate gradients: what the backward pass sees where the forward pass sees a step.

A spike is ``s = H(u)`` with ``u = h - threshold``; its derivative is zero almost everywhere, so
training replaces it by the derivative of a smooth *primitive* ``S(u)``. Each surrogate below states
both, once, in operations that PyTorch tensors, Triton tensors and the C++ generator share
(arithmetic, comparisons, ``.abs()``, ``.sigmoid()``, ``.to()``): no engine holds a copy of a formula.
"""

# pyright: reportTypeCommentUsage=false
# The formulas' types are comments: Triton compiles their source, and would look an annotation's names up.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, ClassVar, Union, cast

import torch
from torch import Tensor

from snn_lnm.tracing import is_tracing

__all__ = [
    "ATan",
    "FastSigmoid",
    "Rectangle",
    "Sigmoid",
    "Spike",
    "SuperSpike",
    "Surrogate",
    "Triangle",
    "available",
    "get",
]

Spike = Union["Surrogate", Callable[[Tensor], Tensor]]
"""A spike function of ``u = h - threshold``: a :class:`Surrogate`, or any callable that autograd
can differentiate (it then decides by itself what a spike is, and runs on the reference engine)."""


@dataclass(frozen=True)
class Surrogate:
    """A step function with the derivative of a smooth primitive as its gradient.

    Calling it gives ``H(u)``: 1 where ``u > 0`` (``u >= 0`` with ``at_zero=True``), in ``u``'s dtype.
    Subclasses are frozen dataclasses whose fields are the formula's numbers, in order.
    """

    name: ClassVar[str]
    derivative: ClassVar[Callable[..., Any]]
    """``S'(u)``: a static method of ``u`` and the parameters."""
    primitive: ClassVar[Callable[..., Any]]
    """``S(u)``, the smooth stand-in for the step (up to a constant), likewise."""

    def __post_init__(self) -> None:
        for value in astuple(self):
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise ValueError(
                    f"surrogate {self!r}: every parameter must be a positive finite number, got {value!r}."
                )

    @property
    def parameters(self) -> list[float]:
        """The numbers that follow ``u`` in :meth:`derivative` and :meth:`primitive`."""
        return [float(getattr(self, name)) for name in self.__match_args__]

    def __call__(self, u: Tensor, at_zero: bool = False) -> Tensor:
        if not isinstance(cast(object, u), Tensor):  # a symbol, of a step that is traced
            return cast(Any, u).spike(self, at_zero)
        if is_tracing() and not (torch.is_grad_enabled() and u.requires_grad):
            return _Step.forward(u, at_zero)  # what is traced can be saved only without Python's functions
        return _Step.apply(u, at_zero, self.derivative, *self.parameters)

    def smooth(self, u: Tensor) -> Tensor:
        """``S(u)``: the spike of smooth mode, whose gradient is a true one."""
        if not isinstance(cast(object, u), Tensor):
            return cast(Any, u).smooth(self)
        return self.primitive(u, *self.parameters)


class _Step(torch.autograd.Function):
    generate_vmap_rule = True  # for torch.func

    @staticmethod
    def forward(u: Tensor, at_zero: bool, *_: Any) -> Tensor:
        return ((u >= 0) if at_zero else (u > 0)).to(u.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        u, _, ctx.derivative, *ctx.parameters = inputs
        ctx.save_for_backward(u)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (u,) = ctx.saved_tensors
        derivative = grad_outputs[0] * ctx.derivative(u, *ctx.parameters)
        return derivative, None, None, *(None for _ in ctx.parameters)


@dataclass(frozen=True)
class ATan(Surrogate):
    r"""``S'(u) = (α/2) / (1 + (π/2·α·u)²)``, ``S(u) = atan(π/2·α·u)/π + 1/2``.

    Source: Fang et al., ICCV 2021; the default of snnTorch (α = 2) and of this package.
    """

    alpha: float = 2.0
    name: ClassVar[str] = "atan"

    @staticmethod
    def derivative(u, alpha):  # type: (Tensor, float) -> Tensor
        z = (1.5707963267948966 * alpha) * u
        return (alpha / 2) / (1 + z * z)

    @staticmethod
    def primitive(u, alpha):  # type: (Tensor, float) -> Tensor
        return ((1.5707963267948966 * alpha) * u).atan() / 3.141592653589793 + 0.5


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """``S'(u) = 1 / (1 + k|u|)²``, ``S(u) = u / (1 + k|u|) + 1/2``.

    Source: Zenke & Ganguli, Neural Computation 2018; snnTorch's ``fast_sigmoid(slope=25)``.
    """

    slope: float = 25.0
    name: ClassVar[str] = "fast_sigmoid"

    @staticmethod
    def derivative(u, slope):  # type: (Tensor, float) -> Tensor
        z = slope * u.abs() + 1
        return 1 / (z * z)

    @staticmethod
    def primitive(u, slope):  # type: (Tensor, float) -> Tensor
        return u / (slope * u.abs() + 1) + 0.5


@dataclass(frozen=True)
class SuperSpike(FastSigmoid):
    """:class:`FastSigmoid` with SuperSpike's steepness: ``S'(u) = 1 / (1 + 100|u|)²``.

    Source: Zenke & Ganguli, Neural Computation 2018. (Norse 1.1.0 ignores its ``alpha``: its
    gradient is ``SuperSpike(1.0)``.)
    """

    slope: float = 100.0
    name: ClassVar[str] = "superspike"


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """``S(u) = σ(k·u)``, ``S'(u) = k·σ(k·u)·(1 - σ(k·u))``; snnTorch's ``sigmoid(slope=25)``."""

    slope: float = 25.0
    name: ClassVar[str] = "sigmoid"

    @staticmethod
    def derivative(u, slope):  # type: (Tensor, float) -> Tensor
        p = (slope * u).sigmoid()
        return slope * p * (1 - p)

    @staticmethod
    def primitive(u, slope):  # type: (Tensor, float) -> Tensor
        return (slope * u).sigmoid()


@dataclass(frozen=True)
class Triangle(Surrogate):
    """``S'(u) = A·max(0, 1 - |u|/w) / w``: a triangle of half-width ``w`` and area ``A``; S runs from 0 to A.

    Source: Esser et al., PNAS 2016 (there with a free height, A/w).
    """

    width: float = 1.0
    area: float = 1.0
    name: ClassVar[str] = "triangle"

    @staticmethod
    def derivative(u, width, area):  # type: (Tensor, float, float) -> Tensor
        z = u.abs() / width
        return (1 - z) * (z < 1).to(u.dtype) * (area / width)

    @staticmethod
    def primitive(u, width, area):  # type: (Tensor, float, float) -> Tensor
        # Inside: A·(1/2 + z - z|z|/2); outside z is held at ±1, written without a clamp.
        z = u / width
        inside = (z.abs() < 1).to(u.dtype)
        held = z * inside + (z >= 1).to(u.dtype) - (z <= -1).to(u.dtype)
        return area * (held - held * held.abs() / 2 + 0.5)


@dataclass(frozen=True)
class Rectangle(Surrogate):
    """``S'(u) = 1/w`` where ``|u| < w/2``, else 0: a window of width ``w`` and area 1.

    Source: Wu et al., Frontiers in Neuroscience 2018 (STBP).
    """

    width: float = 1.0
    name: ClassVar[str] = "rectangle"

    @staticmethod
    def derivative(u, width):  # type: (Tensor, float) -> Tensor
        return (u.abs() < width / 2).to(u.dtype) / width

    @staticmethod
    def primitive(u, width):  # type: (Tensor, float) -> Tensor
        z = u / width
        inside = (z.abs() < 0.5).to(u.dtype)
        return z * inside + 0.5 * (z >= 0.5).to(u.dtype) - 0.5 * (z <= -0.5).to(u.dtype) + 0.5


BY_NAME: dict[str, type[Surrogate]] = {
    kind.name: kind for kind in (ATan, FastSigmoid, Sigmoid, Triangle, Rectangle, SuperSpike)
}


def available() -> list[str]:
    """Names that :func:`get` accepts."""
    return list(BY_NAME)


def get(surrogate: str | Spike) -> Spike:
    """The spike function called ``surrogate``; an instance or a callable is returned as it is.

    Raises:
        ValueError: the name is unknown.
        TypeError: neither a name, nor a surrogate, nor a callable.
    """
    if isinstance(surrogate, str):
        if surrogate not in BY_NAME:
            raise ValueError(
                f"unknown surrogate {surrogate!r}: expected one of {', '.join(BY_NAME)}, "
                "a snn_lnm.surrogate instance, or a differentiable callable u -> spikes."
            )
        return BY_NAME[surrogate]()
    if isinstance(surrogate, type) or not callable(surrogate):
        raise TypeError(
            f"surrogate must be a name, an instance (for example snn_lnm.surrogate.ATan(2.0)) or a "
            f"callable u -> spikes, got {surrogate!r}."
        )
    return surrogate
