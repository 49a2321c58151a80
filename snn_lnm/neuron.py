"""`LNM`: the learnable neuron as a module."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from snn_lnm import engines, functional
from snn_lnm.checks import check_coefficients, check_degree, check_input, number
from snn_lnm.lengths import Lengths, check_lengths
from snn_lnm.memory import FULL, Memory, check_memory
from snn_lnm.parameters import Charge, Dynamics, Extension, Parameters, Reset, State, Synapse, default_domain
from snn_lnm.surrogate import Spike

__all__ = ["LNM", "HasDynamics", "LearnableNeuron", "recordable"]

Domain = tuple[float, float] | None | Literal["auto"]


class LearnableNeuron(nn.Module):
    """Mixin of all our neurons: what their checkpoints carry and mean.

    The domain belongs to the learned f as its coefficients do. It is the module's extra state, a float64 tensor
    `[lo, hi]` (`[-inf, inf]` for no domain), so that ``module.half()`` does not round it. Checkpoints without it
    leave the domain as it is.

    Coefficients of a lower degree are filled up with zeros: the same f. Those of a higher degree load where all that
    is too much is zero. A checkpoint of the native neuron that this one started as has no coefficients: it means the
    same neuron while they are where they started. Once they have moved, it lacks them: ``strict`` loading refuses it.

    ``memory`` says what sequences keep for their backward pass; set it as an attribute.
    ``path``: where :func:`snn_lnm.swap` put it in a model; errors name it.
    """

    memory: Memory = FULL
    path: str = ""

    def get_extra_state(self) -> Tensor:
        return torch.tensor(cast(Any, self).domain or (-math.inf, math.inf), dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        lo, hi = cast("list[float]", state.tolist())
        cast(Any, self).domain = None if math.isinf(hi) else (lo, hi)

    def native_coefficients(self) -> Tensor | None:
        """θ of the native neuron that this one started as, which that neuron's checkpoints stand for; None: of none."""
        return None

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any, **named: Any) -> None:
        key, own, native = prefix + "coefficients", cast(Any, self).coefficients, self.native_coefficients()
        state_dict.setdefault(prefix + "_extra_state", self.get_extra_state())
        if key in state_dict:
            try:
                state_dict[key] = _of_degree(state_dict[key], own, key)
            except ValueError as refusal:
                error_msgs: list[str] = rest[4] if len(rest) > 4 else named["error_msgs"]
                error_msgs.append(str(refusal))
                state_dict |= {key: own.detach(), prefix + "_extra_state": self.get_extra_state()}
        elif native is not None:
            device = native.device if own.is_meta else own.device
            native = native.to(device, own.dtype, copy=True).expand_as(own).contiguous()
            if own.is_meta or torch.equal(native, own):
                state_dict[key] = native
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)


def recordable(state: Tensor) -> Tensor:
    """``state``, or a copy of one that was made under inference mode, of which no backward pass could keep anything."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not state.is_inference():
        return state
    return state.clone()


class HasDynamics(LearnableNeuron):
    """Mixin: the options of the law in one place, the domain among them."""

    dynamics: Dynamics

    @property
    def domain(self) -> tuple[float, float] | None:
        return self.dynamics.domain

    @domain.setter
    def domain(self, value: tuple[float, float] | None) -> None:
        self.dynamics = replace(self.dynamics, domain=value)


class LNM(HasDynamics):
    """A layer of spiking neurons whose dynamics is a learned polynomial.

    ``h[t] = v[t-1] + g·(f(v[t-1]) + x[t])`` (``charge="drift"``), ``h[t] = f(v[t-1]) + g·x[t]``
    (``"map"``) or ``h[t] = v[t-1] + g·f(v[t-1]) + x[t]`` (``"residual"``); ``s[t] = H(h[t] - threshold)``;
    then the reset. ``f(v) = Σ θ_k v^k``.

    Args:
        degree: D, 0..8; default 3.
        channels: number of channels for coefficients `[C, D+1]`; None: one set for the layer, `[D+1]`.
        coefficients: θ to start from, `[D+1]`, `[C, D+1]` or `[*neuron_shape, D+1]`, instead of
            ``degree`` and ``channels``. Default: the leaky neuron, ``f(v) = -v`` for a drift and ``f(v) = 0.9·v`` for a
            map, higher coefficients 0 (our choice: the paper's initialisation is not public).
        threshold, v_reset, gain, alpha: numbers or tensors of the same layouts. ``gain`` is dt/τ of the
            drift (default 0.5: τ of two steps, our choice) and 1 for a map; ``alpha`` adds a synapse.
        charge, reset, detach_reset, fire_at_threshold, synapse, surrogate, extension, gain_divides: see
            :class:`snn_lnm.parameters.Dynamics`.
        domain: ``(lo, hi)``, None for the bare polynomial, or ``"auto"``: ±1.5 times the threshold
            (degree 0 has none).
        learn_coefficients, learn_threshold, learn_gain, learn_alpha: what is an ``nn.Parameter``; the
            rest are buffers.
        backend: ``"auto"``, ``"reference"``, ``"cpp"``, ``"triton"``.
        memory: what is kept for the backward pass, :class:`snn_lnm.Memory`.

    Shapes: input `[T, B, ...]` (``step``: `[B, ...]`), spikes the same, state `[B, ...]`. Dtypes:
    float64, float32, bfloat16, float16; half inputs are computed in float32.

    Raises:
        ValueError: degree, shape, name or a non-finite coefficient, before anything is built.
        TypeError: a wrong type or dtype.

    Source: LNM, arXiv 2510.07341.
    """

    coefficients: Tensor
    threshold: Tensor
    v_reset: Tensor
    gain: Tensor
    alpha: Tensor | None

    def __init__(
        self,
        degree: int | None = None,
        *,
        channels: int | None = None,
        coefficients: Tensor | None = None,
        threshold: Tensor | float = 1.0,
        v_reset: Tensor | float = 0.0,
        gain: Tensor | float | None = None,
        alpha: Tensor | float | None = None,
        charge: Charge = "drift",
        reset: Reset = "hard",
        detach_reset: bool = True,
        fire_at_threshold: bool = False,
        synapse: Synapse = "decay",
        surrogate: str | Spike = "atan",
        domain: Domain = "auto",
        extension: Extension = "line",
        gain_divides: bool = False,
        learn_coefficients: bool = True,
        learn_threshold: bool = False,
        learn_gain: bool = False,
        learn_alpha: bool = False,
        backend: engines.Backend = "auto",
        memory: Memory = FULL,
    ) -> None:
        super().__init__()
        if coefficients is None:
            start = leaky_coefficients(3 if degree is None else degree, charge, channels)
        else:
            start = check_coefficients(number("coefficients", coefficients), degree)
            if channels is not None and start.shape[:-1] != (channels,):
                raise ValueError(f"channels={channels} contradicts coefficients of shape {[*start.shape]}.")
        if isinstance(domain, str):
            if domain != "auto":
                raise ValueError(f"domain must be (lo, hi), None or 'auto', got {domain!r}.")
            domain = default_domain(start.shape[-1] - 1, threshold)
        self.dynamics = Dynamics(
            *(charge, reset, detach_reset, fire_at_threshold, synapse),
            *(cast(Spike, surrogate), domain, extension, gain_divides),
        )
        engines.check_backend(backend)
        self.backend: engines.Backend = backend
        check_memory(memory)
        self.memory = memory
        self._add("coefficients", start, learn_coefficients)
        self._add("threshold", number("threshold", threshold), learn_threshold)
        self._add("v_reset", number("v_reset", v_reset), False)
        if gain is None:
            gain = 1.0 if charge == "map" else 2.0 if gain_divides else 0.5
        self._add("gain", number("gain", gain), learn_gain)
        self._add("alpha", None if alpha is None else number("alpha", alpha), learn_alpha)

    def _add(self, name: str, value: Tensor | None, learn: bool) -> None:
        if value is not None and learn:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    # Presets: special cases by coefficients alone.

    @classmethod
    def if_(cls, **options: Any) -> LNM:
        """Integrate-and-fire: ``h = v + x``; map form, θ = (0, 1)."""
        options = {"charge": "map", **options}
        return cls(coefficients=torch.tensor([0.0, 1.0]), **options)

    @classmethod
    def lif(cls, beta: Tensor | float = 0.9, *, degree: int = 1, learn: bool = True, **options: Any) -> LNM:
        """Leaky integrate-and-fire: ``h = β·v + x``; map form, θ = (0, β, 0, ...).

        ``beta``: a number, `[C]` or `[*neuron_shape]`. ``degree`` > 1 leaves room to learn.
        """
        check_degree(degree)
        if degree < 1:
            raise ValueError("a leaky neuron needs degree >= 1.")
        beta = number("beta", beta)
        theta = torch.zeros(*beta.shape, degree + 1, dtype=beta.dtype, device=beta.device)
        theta[..., 1] = beta
        options = {"charge": "map", "learn_coefficients": learn, **options}
        return cls(coefficients=theta, **options)

    @classmethod
    def plif(cls, beta: Tensor | float = 0.9, **options: Any) -> LNM:
        """Parametric LIF: :meth:`lif` with learned leak and threshold.

        Fang et al., ICCV 2021, learn the leak through a sigmoid; here β itself is learned.
        """
        return cls.lif(beta, **{"learn_threshold": True, **options})

    @classmethod
    def qif(cls, a: float = 0.25, u1: float = 0.0, u2: float = 0.5, *, learn: bool = True, **options: Any) -> LNM:
        """Quadratic integrate-and-fire: ``h = v + a(v - u1)(v - u2) + x``.

        Map form, θ = (a·u1·u2, 1 - a(u1 + u2), a), learned as coefficients; :class:`snn_lnm.QIF` learns
        a, u1 and u2. Source: arXiv 2510.05168 (which plots the default
        values; its initialisation is not public).
        """
        theta = torch.tensor([a * u1 * u2, 1 - a * (u1 + u2), a], dtype=torch.float64)
        theta = theta.to(options.pop("dtype", torch.get_default_dtype()))
        options = {"charge": "map", "learn_coefficients": learn, **options}
        return cls(coefficients=theta, **options)

    # Use.

    @property
    def degree(self) -> int:
        return self.coefficients.shape[-1] - 1

    @property
    def parameters_of_law(self) -> Parameters:
        """The numbers of the law, as the functional interface takes them."""
        return Parameters(self.coefficients, self.threshold, self.v_reset, self.gain, self.alpha)

    def forward(
        self, x: Tensor, state: State | None = None, *, return_membrane: bool = False, lengths: Any = None
    ) -> Any:
        """Run over a sequence `[T, B, ...]`.

        Args:
            lengths: how many steps of each sequence count, `[B]`, a tensor or sequence of integers in 0..T; see
                :func:`snn_lnm.functional.lnm`. None: all.

        Returns:
            ``(spikes, state)``; with ``return_membrane``, ``(spikes, state, membrane)``, where the
            membrane is h before the reset, `[T, B, ...]`, differentiable.
        """
        if isinstance(cast(object, x), Tensor) and x.dim() < 1:
            raise ValueError("the input must be [T, B, ...], got a tensor without dimensions.")
        found = None if lengths is None else check_lengths(lengths, check_input(x))
        return self._run(x, state, return_membrane, single_step=False, lengths=found)

    def step(self, x: Tensor, state: State | None = None, *, return_membrane: bool = False) -> Any:
        """One time step: `[B, ...]` in, and out as :meth:`forward` but without the time dimension."""
        return self._run(x, state, return_membrane, single_step=True)

    def _run(
        self,
        x: Tensor,
        state: State | None,
        return_membrane: bool,
        single_step: bool,
        lengths: Lengths | None = None,
    ) -> Any:
        out = functional.run(
            x,
            state,
            self.parameters_of_law,
            self.dynamics,
            backend=self.backend,
            single_step=single_step,
            membrane=return_membrane,
            memory=self.memory,
            lengths=lengths,
            path=self.path,
        )
        return (out.spikes, out.state, out.membrane) if return_membrane else (out.spikes, out.state)

    def extra_repr(self) -> str:
        d = self.dynamics
        layout = "layer" if self.coefficients.dim() == 1 else [*self.coefficients.shape[:-1]]
        learned = [name for name, _ in self.named_parameters()]
        return (
            f"degree={self.degree}, layout={layout}, charge={d.charge!r}, reset={d.reset!r}, "
            f"detach_reset={d.detach_reset}, surrogate={d.surrogate}, domain={d.domain}, "
            f"learned={learned}, backend={self.backend!r}" + ("" if self.memory == FULL else f", memory={self.memory}")
        )


def _of_degree(given: Any, own: Tensor, name: str) -> Any:
    """The coefficients ``given`` for f of the degree of ``own``, if only zeros tell them apart; else, as they are.

    Raises:
        ValueError: they are of a higher degree, and what is too much is not zero.
    """
    if not isinstance(given, Tensor) or given.dim() != own.dim() or given.shape[:-1] != own.shape[:-1]:
        return given  # PyTorch says what does not fit
    lacking = own.shape[-1] - given.shape[-1]
    if lacking > 0:
        return torch.cat([given.detach(), given.new_zeros(*given.shape[:-1], lacking)], -1)
    kept, dropped = given[..., : own.shape[-1]], given[..., own.shape[-1] :]
    if lacking < 0 and bool((dropped != 0).any()):
        raise ValueError(
            f"{name} is of degree {given.shape[-1] - 1} and the neuron of degree {own.shape[-1] - 1}: build it, or "
            f"swap, with degree={given.shape[-1] - 1} (lower degrees are filled up with zeros)."
        )
    return kept.detach().clone() if lacking < 0 else given


def leaky_coefficients(degree: int, charge: Charge, channels: int | None = None) -> Tensor:
    """θ of the leaky neuron, `[D+1]` or `[C, D+1]`: θ_1 = -1 (drift) or 0.9 (map), the rest 0."""
    check_degree(degree)
    count = cast(object, channels)
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"channels must be a positive int or None, got {channels!r}.")
    theta = torch.zeros(degree + 1)
    if degree >= 1:
        theta[1] = 0.9 if charge == "map" else -1.0
    return theta if channels is None else theta.repeat(channels, 1)
