"""What a neuron is made of: its options (`Dynamics`), its numbers (`Parameters`), its state (`State`)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Optional

from torch import Tensor
from torch.utils import _pytree as pytree

from snn_lnm import surrogate as surrogates
from snn_lnm.checks import check_choice, check_not_meta

Charge = Literal["drift", "map", "residual"]
Reset = Literal["hard", "soft", "none", "soft_next", "hard_next"]
Synapse = Literal["decay", "euler"]
Extension = Literal["line", "constant"]

WORDS = ("charge", "reset", "extension")
FLAGS = ("detach_reset", "fire_at_threshold", "gain_divides", "smooth")
"""The options of `Dynamics` that are words and yes or no, but for the synapse's."""


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
