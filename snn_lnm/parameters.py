"""What a neuron is made of: its options (`Dynamics`), its numbers (`Parameters`), and their checks.

Everything here runs before any arithmetic, so that a wrong argument never leaves a trace.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Optional, cast, get_args

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from snn_lnm import surrogate as surrogates
from snn_lnm.tracing import sizes

Charge = Literal["drift", "map", "residual"]
Reset = Literal["hard", "soft", "none", "soft_next", "hard_next"]
Synapse = Literal["decay", "euler"]
Extension = Literal["line", "constant"]

WORDS = ("charge", "reset", "extension")
FLAGS = ("detach_reset", "fire_at_threshold", "gain_divides", "smooth")
"""The options of `Dynamics` that are words and yes or no, but for the synapse's."""
MAX_DEGREE = 8
STATE_DTYPE = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
"""Input dtype -> dtype of the membrane and of all arithmetic."""


class State(NamedTuple):
    """What a neuron carries from one step to the next.

    Attributes:
        v: membrane, `[B, ...]`; after the reset, or before it for the resets ``"soft_next"`` and
            ``"hard_next"``, which happen at the start of the next step.
        current: synaptic state, `[B, ...]`; None without a synapse.
    """

    v: Tensor
    current: Optional[Tensor] = None  # noqa: UP045 - evaluated at run time on Python 3.10


# An exported model that returns states can be saved only with a name for them.
pytree._register_namedtuple(State, serialized_type_name="snn_lnm.State")  # pyright: ignore[reportPrivateUsage] - torch has no public one


class Parameters(NamedTuple):
    """The numbers of the law, each broadcastable (from the right) to one step `[B, ...]` of the input.

    ``coefficients`` has one more dimension at the end, of size degree + 1. ``alpha`` is the synapse's
    α (``"decay"``) or b (``"euler"``), None without a synapse.
    """

    coefficients: Tensor
    threshold: Tensor
    v_reset: Tensor
    gain: Tensor
    alpha: Tensor | None = None

    @property
    def degree(self) -> int:
        """Not for code that is compiled: PyTorch 2.6's Dynamo knows no properties of named tuples."""
        return self.coefficients.shape[-1] - 1


def check_choice(name: str, value: object, kind: object) -> None:
    """Raise ValueError unless ``value`` is one of the words of ``kind``, a `Literal`."""
    if value not in get_args(kind):
        raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(map(repr, get_args(kind)))}.")


@dataclass(frozen=True)
class Dynamics:
    """The options of the law that are not numbers; `docs/law.md` gives the equations.

    Args:
        charge: ``"drift"``: ``h = v + g·(f(v) + c)``; ``"map"``: ``h = f(v) + g·c``; ``"residual"``:
            ``h = (v + g·f(v)) + c``.
        reset: ``"hard"`` (to ``v_reset``), ``"soft"`` (minus the threshold), ``"none"``; or, at the
            start of the next step, ``"hard_next"`` (before the polynomial) and ``"soft_next"``
            (after it: snnTorch's delayed "subtract").
        detach_reset: the reset is a constant for the gradient.
        fire_at_threshold: a spike needs ``h >= threshold`` instead of ``h > threshold``.
        synapse: ``"decay"``: ``c = α·c + x`` (snnTorch, the state is c); ``"euler"``: ``c = i + x``,
            then ``i = c - b·c`` (Norse, the state is i). Used only when ``alpha`` is given.
        surrogate: see :mod:`snn_lnm.surrogate`.
        domain: ``(lo, hi)`` on which f is the polynomial; None means everywhere.
        extension: f outside the domain: ``"line"`` or ``"constant"``.
        gain_divides: the gain is the divisor τ: ``u/τ`` stands wherever ``g·u`` does otherwise. Not the
            same bits as g = 1/τ (SpikingJelly divides, snnTorch and Norse multiply).
        smooth: the spike is the surrogate's primitive: not a spiking neuron, but one whose
            gradient is true, for checking gradients.
    """

    charge: Charge = "drift"
    reset: Reset = "hard"
    detach_reset: bool = True
    fire_at_threshold: bool = False
    synapse: Synapse = "decay"
    surrogate: surrogates.Spike = surrogates.ATan()  # noqa: RUF009 - frozen, so one for all is safe
    domain: tuple[float, float] | None = None
    extension: Extension = "line"
    gain_divides: bool = False
    smooth: bool = False
    text: str = field(init=False, repr=False, compare=False, default="")
    """What :mod:`snn_lnm.engines.form` says of them. Made with them: compilers cannot print numbers."""

    def __post_init__(self) -> None:
        check_choice("charge", self.charge, Charge)
        check_choice("reset", self.reset, Reset)
        check_choice("synapse", self.synapse, Synapse)
        check_choice("extension", self.extension, Extension)
        object.__setattr__(self, "surrogate", surrogates.get(self.surrogate))
        if self.domain is not None:
            try:
                lo, hi = (float(edge) + 0.0 for edge in self.domain)  # -0 is 0: engines find kernels by equality
            except (TypeError, ValueError):
                raise TypeError(f"domain must be (lo, hi) or None, got {self.domain!r}.") from None
            if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
                raise ValueError(f"domain must be finite with lo < hi, got ({lo}, {hi}).")
            object.__setattr__(self, "domain", (lo, hi))
        if not isinstance(self.surrogate, surrogates.Surrogate):
            if self.smooth:
                raise ValueError(
                    "smooth=True needs a surrogate with a known primitive "
                    f"({', '.join(surrogates.available())}), got the callable {self.surrogate!r}."
                )
            if self.fire_at_threshold:
                raise ValueError(
                    "fire_at_threshold=True cannot be combined with a callable surrogate: the callable "
                    "itself decides what u = 0 gives. Write `>=` into it, or use a built-in surrogate."
                )
        else:
            object.__setattr__(self, "text", _text(self, self.surrogate))

    @property
    def state_is_membrane(self) -> bool:
        """The carried state is the membrane before reset."""
        return self.reset in ("none", "soft_next", "hard_next")

    @functools.cached_property
    def prepared(self) -> dict[Any, Any]:
        """What :func:`snn_lnm.functional.run` found out about calls with these options, by shapes and dtypes."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "prepared"}


def _text(dynamics: Dynamics, surrogate: surrogates.Surrogate) -> str:
    said = [f"{name}={getattr(dynamics, name)}" for name in WORDS]
    said += [name for name in FLAGS if getattr(dynamics, name)]
    said.append(f"surrogate={','.join([surrogate.name, *[str(number) for number in surrogate.parameters]])}")
    if dynamics.domain is not None:
        said.append(f"domain={dynamics.domain[0]},{dynamics.domain[1]}")
    return " ".join(said)


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


class NoDefaultDomain(ValueError):
    """The threshold gives no scale for a domain: it is zero or infinite."""


def default_domain(degree: int, threshold: Tensor | float) -> tuple[float, float] | None:
    """±1.5 times the largest threshold (our choice, not the papers'); None for degree 0, a constant.

    A line is the same inside and outside, so for degree 1 the edges do not matter, only that there are some: they hold
    θ_1 to the slopes that do not expand. There ±1.5 stands where the threshold gives no scale.

    Raises:
        NoDefaultDomain: the threshold is zero or infinite, and the degree 2 or more.
    """
    if degree == 0:
        return None
    if isinstance(threshold, Tensor):
        threshold = float(check_not_meta("threshold", threshold).detach().abs().max())
    edge = 1.5 * abs(threshold)
    if not (math.isfinite(edge) and edge > 0):
        if degree == 1:
            return (-1.5, 1.5)
        raise NoDefaultDomain(
            f"the threshold {edge / 1.5} gives no default domain: pass domain=(lo, hi), or None to switch it off."
        )
    return (-edge, edge)


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
