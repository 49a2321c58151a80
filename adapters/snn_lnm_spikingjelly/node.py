"""`LNMNode`: SpikingJelly's constructor, memories and step modes, the polynomial inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, fx, nn

from snn_lnm.adapting import (
    STATE_DTYPE,
    Backend,
    Charge,
    Domain,
    Dynamics,
    LearnableNeuron,
    Lengths,
    Parameters,
    Spike,
    State,
    Surrogate,
    check_backend,
    check_coefficients,
    check_degree,
    check_input,
    check_kept,
    default_domain,
    from_the_right,
    functional,
    recomputation,
    recordable,
    reference,
)
from snn_lnm_spikingjelly.surrogates import recover

__all__ = ["LNMNode"]

Values = tuple[object, ...]
LARGEST_EXPONENT = 125
"""Of a τ whose inverse no dtype rounds to zero or to infinity."""


class LNMNode(LearnableNeuron, neuron.BaseNode):
    """A SpikingJelly neuron whose leak is a learned polynomial ``f(v) = Σ θ_k v^k``.

    ``h[t] = v[t-1] + (f(v[t-1]) + x[t]) / τ`` (``decay_input``), ``h[t] = v[t-1] + f(v[t-1]) / τ + x[t]``
    (not), or ``h[t] = f(v[t-1]) + x[t]`` (``tau=None``); ``s[t] = H(h[t] - v_threshold)``, 1 at the threshold;
    ``v[t] = v_reset`` after a spike, or, with ``v_reset=None``, ``v[t] = h[t] - s[t]·v_threshold``. It starts as
    `LIFNode`, as `ParametricLIFNode` (``learn_tau``) or as `IFNode` (``tau=None``), to the bit.

    Args:
        tau, ..., store_v_seq: as for `LIFNode`, in its order. ``surrogate_function`` also takes
            `snn_lnm.surrogate`s and their names.
        learn_tau: 1/τ is ``sigmoid(w)`` with a learned ``w``, as in `ParametricLIFNode`.
        degree: of f, 1..8; default 3.
        coefficients: θ to start from, `[D+1]`, `[C, D+1]` (dim 1 of `[N, C, ...]`) or `[*neuron_shape, D+1]`,
            instead of the native neuron's, ``(v_reset, -1, 0, ...)`` or ``(0, 1, 0, ...)``.
        learn_coefficients: register them as a Parameter (default) or a buffer.
        domain: see `snn_lnm.LNM`.
        backend: "auto", "reference", "cpp" or "triton".

    Shapes: `[N, ...]` (``step_mode="s"``), `[T, N, ...]` (``"m"``: one fused call). Spikes come in the input's
    dtype. Memories ``v`` and, with ``store_v_seq``, ``v_seq`` hold membranes after the reset, in the arithmetic
    dtype: float64 for float64, else float32. Integers and bools become PyTorch's default dtype; at a call with
    integers, the membrane that it goes on from loses its fraction, as in the host.

    Copies (`copy.deepcopy`, pickles) keep the values of the memories, detached from the graph.

    Raises:
        ValueError: a number out of range, a shape, a name; TypeError: a wrong type; before anything is built.
    """

    coefficients: Tensor
    w: nn.Parameter | None
    tau: float | None
    v_threshold: Any
    v_reset: Any
    v_seq: Tensor | None
    _memories: dict[str, Any]
    surrogate_function: Any
    native_start: list[float] | None
    """θ of the native neuron that this one started as, unrounded; None if it started as none."""
    native_words: dict[str, float]
    """Constructor words of that neuron which this one has no place for."""
    _set_in: tuple[int, int] | None = None
    """The :func:`snn_lnm.recomputation.recomputation` in which v was set."""

    def __init__(
        self,
        tau: float | None = 2.0,
        decay_input: bool = True,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: str | Spike | surrogate.SurrogateFunctionBase = surrogate.Sigmoid(),  # noqa: B008 - the host's default
        detach_reset: bool = False,
        step_mode: str = "s",
        store_v_seq: bool = False,
        *,
        learn_tau: bool = False,
        degree: int | None = None,
        coefficients: Tensor | Sequence[float] | None = None,
        learn_coefficients: bool = True,
        domain: Domain = "auto",
        backend: Backend = "auto",
    ) -> None:
        tau = None if tau is None else _number("tau", tau)
        if learn_tau and tau is None:
            raise ValueError("learn_tau=True needs a tau to start from, got tau=None.")
        if tau is not None and not tau > 1:
            raise ValueError(f"tau must be above 1 (or None for no leak), got {tau}.")
        v_threshold = _number("v_threshold", v_threshold)
        v_reset = None if v_reset is None else _number("v_reset", v_reset)
        for name, value in (("decay_input", decay_input), ("detach_reset", detach_reset)):
            if not isinstance(cast(object, value), bool):
                raise TypeError(f"{name} must be a bool, got {value!r}.")
        if step_mode not in ("s", "m"):
            raise ValueError(f"step_mode must be 's' (single step) or 'm' (multi-step), got {step_mode!r}.")
        check_backend(backend)
        spike: Any = recover(surrogate_function) if isinstance(surrogate_function, str) else surrogate_function
        recover(spike)
        native = leak(degree, "map" if tau is None else "drift", v_reset) if coefficients is None else None
        theta, remainder = _start(coefficients if native is None else native, degree)
        if domain == "auto":
            domain = default_domain(theta.shape[-1] - 1, v_threshold)
        Dynamics(domain=cast(Any, domain))

        super().__init__(v_threshold, v_reset, spike, detach_reset, step_mode, store_v_seq)
        self._leaks = tau is not None
        self._set_in = None
        self.tau = None if learn_tau else tau
        self.decay_input = decay_input
        self.domain = domain
        self.backend: Backend = backend
        self.register_parameter("w", neuron.ParametricLIFNode(cast(float, tau)).w if learn_tau else None)
        if learn_coefficients:
            self.coefficients = nn.Parameter(theta)
        else:
            self.register_buffer("coefficients", theta)
        self._remainder = remainder
        self.native_start = native
        self.native_words = {}

    # ---- the neuron

    @property
    def degree(self) -> int:
        return self.coefficients.shape[-1] - 1

    @property
    def charge(self) -> Charge:
        """How input and leak charge the membrane, by what the attributes say now."""
        return "map" if not self._leaks else "drift" if self.decay_input else "residual"

    @property
    def is_native(self) -> bool:
        """The coefficients are those of the native neuron that this one started as."""
        if self.native_start is None or self.coefficients.is_meta:
            return False
        return self._theta(torch.float64).tolist() == self.native_start

    def _theta(self, dtype: torch.dtype) -> Tensor:
        """θ in ``dtype``. The host's numbers are Python floats: a float64 input meets ours unrounded too."""
        theta = self.coefficients.to(dtype)
        if dtype != torch.float64 or self._remainder is None:
            return theta
        remainder = theta.new_tensor(self._remainder)
        return theta + remainder if remainder.shape == theta.shape else theta  # others were put in their place

    def _dynamics(self) -> Dynamics:
        spike = recover(self.surrogate_function)
        words: dict[str, Any] = {
            "charge": self.charge,
            "reset": "soft" if self.v_reset is None else "hard",
            "detach_reset": self.detach_reset,
            "fire_at_threshold": isinstance(spike, Surrogate),  # a callable decides that itself
            "surrogate": spike,
            "domain": self.domain and tuple(self.domain),  # a list may change
            "gain_divides": self.tau is not None and self._inverse is None,
        }
        if not isinstance(spike, Surrogate):  # whose == may mean anything
            return Dynamics(**words)
        cached = self.__dict__.get("_cached_dynamics")
        if cached is None or cached[0] != words:
            self.__dict__["_cached_dynamics"] = cached = (words, Dynamics(**words))
        return cached[1]

    def __getstate__(self) -> dict[str, Any]:
        state = {name: _without_graph(value) for name, value in self.__dict__.items() if name != "_cached_dynamics"}
        state["_set_in"] = None
        state["_memories"] = {name: _without_graph(value) for name, value in self._memories.items()}
        return state

    @property
    def _inverse(self) -> float | None:
        """1/τ, where it may multiply, which is cheaper than a division: none of the host's bits hang on that.

        τ is a power of two, or the node was a `QIFNode`, which multiplies out in another order anyway.
        """
        tau: object = self.tau
        if not isinstance(tau, (int, float)):
            return None
        mantissa, exponent = math.frexp(tau)
        free = mantissa == 0.5 or (self.native_words and mantissa != 0)
        return 1 / tau if free and abs(exponent) <= LARGEST_EXPONENT else None

    def _numbers(self, x: Tensor, dims: int) -> Parameters:
        """The law's numbers for steps of ``dims`` dimensions, with the host's broadcasting from the right."""
        dtype = STATE_DTYPE[x.dtype]

        def number(value: Tensor | float) -> Tensor:
            if not isinstance(value, Tensor):
                return torch.full((), value, dtype=dtype, device=x.device)
            return from_the_right(value.to(dtype), dims)

        if self._leaks and self.tau is None and self.w is None:
            raise TypeError("tau must be a number, got None: this neuron has a leak (LNMNode(None) has none).")
        divisor = 1.0 if self.tau is None else self.tau
        gain: Tensor | float = divisor if self._inverse is None else self._inverse
        if self.w is not None:
            gain = self.w.to(STATE_DTYPE[self.w.dtype]).sigmoid()
        v_reset = 0.0 if self.v_reset is None else self.v_reset
        return Parameters(self._theta(dtype), number(self.v_threshold), number(v_reset), number(gain))

    def _run(
        self, x: Tensor, v: object, single_step: bool, store_v_seq: bool = False, lengths: Lengths | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Spikes, the last membrane after the reset and, on request, that of every step."""
        x = _as_input(x)
        numbers, dynamics = self._numbers(x, x.dim() - (not single_step)), self._dynamics()
        options: dict[str, Any] = {"backend": self.backend, "single_step": single_step, "membrane": store_v_seq}
        options |= {"memory": self.memory, "lengths": lengths, "path": self.path}
        out = functional.run(x, State(cast(Tensor, v)), numbers, dynamics, **options)
        v_seq = None
        if store_v_seq:
            v_seq = reference.reset(out.membrane, out.spikes.to(out.membrane.dtype), numbers, dynamics)
        return out.spikes, out.state.v, v_seq

    # ---- the host's calls

    def materialize_states(self, inputs: tuple[Any, ...], states: Values, step_mode: str) -> Values:
        """A membrane of the shape of one step, in the arithmetic dtype; a stale one restarts, as in the host."""
        if isinstance(inputs[0], fx.Proxy):
            raise TypeError(
                f"torch.fx (SpikingJelly's NIR export) cannot trace {self.path or type(self).__name__}, a polynomial "
                "neuron, and NIR has no node for it: call snn_lnm.swap_back(model) first, which says where the "
                "coefficients allow it."
            )
        x = _as_input(inputs[0])
        if step_mode == "m" and x.dim() < 1:
            raise ValueError("with step_mode='m' the input must be [T, N, ...], got a tensor without dimensions.")
        shape, dtype = x.shape[1:] if step_mode == "m" else x.shape, STATE_DTYPE[x.dtype]
        v = states[0]
        if not isinstance(v, Tensor) or v.shape != shape:
            start = v if isinstance(v, (int, float)) else 0.0 if self.v_reset is None else self.v_reset
            v = torch.full(shape, start, dtype=dtype, device=x.device)
        if _is_integer(inputs[0]):
            v = v.to(inputs[0].dtype)  # in which the host keeps it
        v = v.to(x.device, dtype)
        return (recordable(v), *states[1:])

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: Values, **kwargs: object
    ) -> tuple[tuple[Tensor, ...], Values]:
        spikes, v, _ = self._run(inputs[0], states[0], single_step=True)
        return (spikes,), (v, *states[1:])

    def multi_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: Values, **kwargs: object
    ) -> tuple[tuple[Tensor, ...], Values]:
        if self._steps_itself():
            return super().multi_step_functional_forward(inputs, states, **kwargs)
        spikes, v, _ = self._run(inputs[0], states[0], single_step=False)
        return (spikes,), (v, *states[1:])

    def single_step_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._resume()
        spikes = super().single_step_forward(x, *args, **kwargs)
        self._note()
        return spikes

    def multi_step_forward(self, x_seq: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._resume()
        fused = self.store_v_seq and not self._steps_itself()
        spikes = (self._recorded if fused else super().multi_step_forward)(x_seq, *args, **kwargs)
        self._note()
        return spikes

    def _recorded(self, x_seq: Tensor, *args: Any, store_v_seq: bool = True, lengths: Lengths | None = None) -> Tensor:
        v, *rest = self.materialize_states((x_seq, *args), tuple(self._memories.values()), "m")
        spikes, v, self.v_seq = self._run(x_seq, v, False, store_v_seq, lengths)
        self._memories.update(zip(self._memories, (v, *rest), strict=True))
        return spikes

    def steps_forward(self, x_seq: Tensor, *, lengths: Lengths | None = None) -> Tensor:
        """What a loop of single steps over `[T, N, ...]` gives; one fused call where the host's loop is one, too.

        ``lengths``: as for :func:`snn_lnm.functional.run`.
        """
        if lengths is not None:
            self._resume()
            spikes = self._recorded(x_seq, store_v_seq=False, lengths=lengths)
            self._note()
            return spikes
        if _is_integer(x_seq):
            return torch.stack([self.single_step_forward(x) for x in x_seq])
        return self.multi_step_forward(x_seq)

    def _steps_itself(self) -> bool:
        """A subclass has a step of its own, which a fused sequence would not call."""
        return type(self).single_step_functional_forward is not LNMNode.single_step_functional_forward

    # ---- memories and recomputation: they may have moved on since the forward pass

    def _resume(self) -> None:
        check_kept(f"{self.path}.v" if self.path else "v", self._set_in)

    def _note(self) -> None:
        if not torch.compiler.is_compiling():
            self.__dict__["_set_in"] = recomputation()

    def reset(self) -> None:
        super().reset()
        self._note()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "v":
            self._note()

    # ---- life of a module

    def native_coefficients(self) -> Tensor | None:
        if self.native_start is None:
            return None
        exact = torch.tensor(self.native_start, dtype=torch.float64, device="cpu")
        return exact if self._remainder is None else exact - exact.new_tensor(self._remainder)

    def extra_repr(self) -> str:
        layout = "layer" if self.coefficients.dim() == 1 else [*self.coefficients.shape[:-1]]
        with torch.no_grad():
            tau = self.tau if self.w is None else 1 / self.w.sigmoid()
        return (
            f"{super().extra_repr()}, tau={tau}, decay_input={self.decay_input}, degree={self.degree}, "
            f"layout={layout}, surrogate={recover(self.surrogate_function)}, domain={self.domain}"
        )


def leak(degree: int | None, charge: Charge, v_reset: float | None) -> list[float]:
    """θ of the host's leaky neuron, ``f(v) = v_reset - v``, or without a leak, ``f(v) = v``."""
    degree = 3 if degree is None else check_degree(degree)
    if degree < 1:
        raise ValueError("degree must be at least 1: a polynomial of degree 0 has no leak to start from.")
    lowest = [0.0, 1.0] if charge == "map" else [v_reset or 0.0, -1.0]
    return lowest + [0.0] * (degree - 1)


def _start(coefficients: Any, degree: int | None) -> tuple[Tensor, list[float] | None]:
    """The θ to register, and what rounding took from numbers that were no tensor."""
    if isinstance(coefficients, Tensor) and coefficients.is_floating_point():
        return check_coefficients(coefficients.detach().clone(), degree), None
    try:
        exact = torch.as_tensor(coefficients, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"coefficients must be a tensor or a sequence of numbers, got {coefficients!r}.") from None
    theta = check_coefficients(exact, degree).to(torch.get_default_dtype())
    remainder = cast("list[float]", (exact - theta.double()).tolist())
    return theta.to(torch.get_default_device()), remainder


def _is_integer(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def _as_input(x: object) -> Tensor:
    """Floating-point, as the host's sums with Python's numbers make it."""
    if isinstance(x, Tensor) and (_is_integer(x) or x.dtype == torch.bool):
        x = x.to(torch.get_default_dtype())
    return check_input(x)


def _without_graph(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) and not value.is_leaf else value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if value != value:
        raise ValueError(f"{name} must not be NaN.")
    return float(value)
