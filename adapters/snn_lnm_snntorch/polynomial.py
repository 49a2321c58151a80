"""What `LNM` and `SynapticLNM` share: the polynomial in place of snnTorch's leak.

The usual options run through one fused call. The rest (inhibition, state quantisation, immediate
resets, unknown surrogates, an overridden `fire`) run in snnTorch's own `forward`, in which only the
leak is replaced: the host's bits by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import snntorch
import torch
from torch import Tensor, nn

from snn_lnm.adapting import (
    STATE_DTYPE,
    Backend,
    Domain,
    Dynamics,
    LearnableNeuron,
    Parameters,
    Reset,
    State,
    Surrogate,
    check_backend,
    check_coefficients,
    check_degree,
    check_finite,
    check_input,
    check_kept,
    check_still_finite,
    default_domain,
    from_the_right,
    functional,
    is_tracing,
    recomputation,
    recordable,
    reference,
    sizes,
)
from snn_lnm_snntorch import registry
from snn_lnm_snntorch.surrogates import recover

HOST_UPDATES = ("_base_sub", "_base_zero", "_base_int")
"""What the host's constructor assigns to `state_function`; the property already gives them."""
RESETS: dict[str, Reset] = {"subtract": "soft_next", "zero": "hard_next", "none": "none"}
HOST_STEPS = ("fire", "mem_reset", "_base_state_function", *HOST_UPDATES)
"""Methods of the host's step: who overrides one wants it called, so the host's `forward` runs."""


def leaky_coefficients(beta: Tensor | float, degree: int) -> Tensor:
    """θ = (0, clamp(β, 0, 1), 0, ...), `[*beta.shape, degree + 1]`: snnTorch's leak as a polynomial."""
    check_degree(degree)
    if degree < 1:
        raise ValueError("degree must be at least 1: a polynomial of degree 0 has no leak to start from.")
    try:
        beta = torch.as_tensor(beta).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"beta must be a number or a tensor, got {beta!r}.") from None
    beta = check_finite("beta", beta if beta.is_floating_point() else beta.float()).clamp(0, 1)
    theta = beta.new_zeros(*beta.shape, degree + 1)
    theta[..., 1] = beta
    return theta


def start_coefficients(coefficients: Any, degree: int | None) -> Tensor:
    """A floating-point copy of the user's ``coefficients``, checked."""
    try:
        theta = torch.as_tensor(coefficients).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"coefficients must be a tensor, got {coefficients!r}.") from None
    return check_coefficients(theta if theta.is_floating_point() else theta.float(), degree)


Law = tuple[State | None, Parameters, Dynamics]
"""What :func:`snn_lnm.functional.run` needs besides the input."""


class PolynomialNeuron(LearnableNeuron, snntorch.LIF):
    """Mixin over a snnTorch neuron. ``STATES`` names its state tensors, the membrane last."""

    STATES: ClassVar[tuple[str, ...]] = ("mem",)
    FUSED_RESETS: ClassVar[tuple[str, ...]] = ("subtract", "zero", "none")
    _customised: ClassVar[bool] = False
    coefficients: nn.Parameter | Tensor
    mem: Tensor

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        ours = next(kind for kind in cls.__mro__ if PolynomialNeuron in kind.__bases__)
        cls._customised = any(getattr(cls, name) is not getattr(ours, name) for name in HOST_STEPS)

    @contextmanager
    def _construction(self) -> Generator[None]:
        """Registered weakly if all goes well, not at all if not: the host registers first, then checks."""
        try:
            yield
        except BaseException:
            registry.remove(self)
            raise
        registry.hold_weakly(self)

    def _setup(
        self,
        beta: Tensor | float | None,
        degree: int | None,
        coefficients: Tensor | None,
        learn_coefficients: bool,
        domain: Domain,
        backend: Backend,
    ) -> None:
        if coefficients is None:
            if beta is None:
                raise ValueError("give beta (the leak to start from) or coefficients.")
            coefficients = leaky_coefficients(beta, 3 if degree is None else degree)
        else:
            coefficients = start_coefficients(coefficients, degree)
        if learn_coefficients:
            self.coefficients = nn.Parameter(coefficients)
        else:
            self.register_buffer("coefficients", coefficients)
        self.domain = default_domain(self.degree, self.threshold) if domain == "auto" else domain
        check_backend(backend)
        self.backend: Backend = backend
        self.register_buffer("_v_reset", coefficients.new_zeros(()), persistent=False)
        self.register_buffer("_gain", coefficients.new_ones(()), persistent=False)
        if isinstance(self.spike_grad, str):  # the host's `forward` calls it
            self.spike_grad = recover(self.spike_grad)
        self._dynamics()

    # ---- what snnTorch's constructors would do with beta, mem and state_function

    def _beta_buffer(self, beta: Any, learn_beta: bool) -> None:
        """No beta is registered: θ_1 takes its place. What was asked is kept for `snn_lnm.swap_back`."""
        self.learn_beta = learn_beta

    def _init_mem(self) -> None:
        # Plain tensors, not buffers: DDP broadcasts buffers from rank 0, and states differ by rank.
        for name in self.STATES:
            setattr(self, name, torch.zeros(0))

    @property
    def state_function(self) -> Callable[[Tensor], Any]:
        """The host's update, resolved at each call so that a changed reset takes effect."""
        host = cast(Any, self)
        return {"subtract": host._base_sub, "zero": host._base_zero, "none": host._base_int}[self.reset_mechanism]

    @state_function.setter
    def state_function(self, value: object) -> None:
        if getattr(value, "__func__", None) not in (getattr(type(self), name) for name in HOST_UPDATES):
            raise AttributeError("state_function follows from reset_mechanism: set that, or override a method.")

    # ---- the neuron

    @property
    def degree(self) -> int:
        return self.coefficients.shape[-1] - 1

    def is_leak(self) -> bool:
        """The polynomial is θ_1·v, as the host's. (Not known of coefficients on the meta device.)"""
        theta = self.coefficients.detach()
        return self.degree >= 1 and not theta.is_meta and not bool(theta[..., 0].any() or theta[..., 2:].any())

    @property
    def beta(self) -> Tensor:
        """θ_1, while the polynomial is a leak. A view: written in place, it changes the coefficients.

        Raises:
            AttributeError: the neuron is not a leaky one. (NIR export reads this: NIR has no polynomial
            node, and must not write a wrong LIF.)
        """
        if not self.is_leak():
            raise AttributeError
        return self.coefficients[..., 1]

    def __getattr__(self, name: str) -> Any:
        """As `nn.Module` does, where an AttributeError of a property ends too, and leaves without its text."""
        if name == "beta":
            raise AttributeError(
                f"this {type(self).__name__} has no beta: its polynomial of degree {self.degree} is not a leak (θ_0 "
                "and all above θ_1 would have to be zero), and NIR has no polynomial node to export it to. Read "
                ".coefficients instead."
            )
        return super().__getattr__(name)

    def _dynamics(self) -> Dynamics:
        domain: Any = self.domain and tuple(self.domain)  # a list may change
        given = (self._reset_mechanism, domain)
        cached = self.__dict__.get("_cached_dynamics")
        # A callable is the same if it is that very one: its == may mean anything.
        if cached is None or cached[0] is not self.spike_grad or cached[1] != given:
            dynamics = Dynamics("map", RESETS[given[0]], surrogate=recover(self.spike_grad), domain=domain)
            self.__dict__["_cached_dynamics"] = cached = (self.spike_grad, given, dynamics)
        return cached[2]

    def is_fused(self) -> bool:
        """Its options are the fused call's; others run in the host's own `forward`."""
        return bool(
            self.reset_delay
            and not self.inhibition
            and not self.state_quant
            and self._reset_mechanism in self.FUSED_RESETS
            and isinstance(self._dynamics().surrogate, Surrogate)
            and not self._customised
            and not any(map(self.__dict__.__contains__, HOST_STEPS))
        )

    def _resume(self, name: str, given: Tensor | None = None) -> Tensor:
        """The state ``name`` that a step goes on from: ``given``, or else the neuron's own."""
        state: Tensor = getattr(self, name) if given is None else given
        if torch.compiler.is_compiling():
            return state
        if given is None:
            check_kept(name, self.__dict__.get("_set_in", {}).get(name))
            if is_tracing():
                raise RuntimeError(
                    f"torch.jit.trace would make the kept state {name!r} a constant of the program: pass the state in "
                    "and out as an argument (init_hidden=False), or use torch.export.export."
                )
        return recordable(state)

    def _numbers(self, dtype: torch.dtype, dims: int, alpha: Tensor | None = None) -> Parameters:
        """The parameters for steps of ``dims`` dimensions: snnTorch's broadcasting, from the right, made explicit."""
        constants: dict[str, Any] = self._buffers  # read where they are: `nn.Module.__getattr__` takes its time
        v_reset, gain = constants["_v_reset"], constants["_gain"]
        if (threshold := constants.get("threshold")) is None:
            threshold = self.threshold
        if (theta := self._parameters.get("coefficients")) is None:
            theta = self.coefficients
        is_converted = not (dtype is theta.dtype is threshold.dtype is v_reset.dtype is gain.dtype)
        if dims <= 2 and not is_converted and (alpha is None or alpha.dtype is dtype):
            return Parameters(theta, threshold, v_reset, gain, alpha)

        def right(value: Tensor | None, trailing: int = 0) -> Any:
            return None if value is None else from_the_right(value.to(dtype), dims, trailing)

        return Parameters(right(theta, 1), *map(right, (threshold, v_reset, gain, alpha)))

    def _fused(
        self,
        x: Tensor,
        states: Sequence[Tensor],
        alpha: Tensor | None = None,
        single_step: bool = True,
        membrane: bool = False,
        lengths: Any = None,
    ) -> tuple[functional.Output, Law]:
        """One step `[B, ...]` or a sequence `[T, B, ...]`; and what ran, for who needs more of it."""
        dtype, shape = STATE_DTYPE.get(x.dtype, x.dtype), sizes(x)[0 if single_step else 1 :]
        start = None  # a state of another shape restarts, as in the host
        if len(states) == 1:
            v = states[0]
            if sizes(v) == shape:
                start = State(v if v.dtype is dtype else v.to(dtype))
        elif any([sizes(state) == shape for state in states]):
            start = State(*[s.to(dtype) if sizes(s) == shape else functional.zeros(shape, x) for s in states[::-1]])
        numbers, dynamics = self._numbers(dtype, len(shape), alpha), self._dynamics()
        out = functional.run(
            x,
            start,
            numbers,
            dynamics,
            backend=self.backend,
            single_step=single_step,
            membrane=membrane,
            memory=self.memory,
            lengths=lengths,
            path=self.path,
        )
        return out, (start, numbers, dynamics)

    def _graded(self, spikes: Tensor) -> Tensor:
        factor = self.graded_spikes_factor
        return spikes if self._is_one(factor) else (spikes * factor).to(spikes.dtype)

    def _is_one(self, factor: Tensor) -> bool:
        """The constant 1 (or that cannot be told cheaply, and multiplying is the answer)."""
        is_recorded = torch.compiler.is_compiling() or is_tracing()
        if factor.requires_grad or factor.is_meta or is_recorded or factor.is_inference():
            return False
        cached = self.__dict__.get("_cached_graded")
        # Reading the value would stall a GPU at every step.
        if cached is None or cached[0] is not factor or cached[1] != factor._version:
            cached = (factor, factor._version, bool((factor == 1).all()))
            self.__dict__["_cached_graded"] = cached
        return cached[2]

    def _leak(self, v: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and not self.coefficients.is_cuda:
            check_still_finite(self.coefficients, self.path)
        return reference.polynomial(v, self._numbers(STATE_DTYPE.get(v.dtype, v.dtype), v.dim()), self._dynamics())

    @staticmethod
    def _in_dtype_of(x: Tensor, result: Any) -> Any:
        """The host's result with the spikes in the dtype of the input (the host's are float32)."""
        if isinstance(result, Tensor):
            return result.to(x.dtype)
        return result[0].to(x.dtype), *result[1:]

    def _check_call(self, x: Tensor, **states: Tensor | None) -> Tensor:
        """Everything that can be wrong, before any state changes. Returns the input as floating-point numbers."""
        for name, value in states.items():
            if value is not None and self.init_hidden:
                raise TypeError(f"`{name}` should not be passed as an argument while `init_hidden=True`")
            if not isinstance(cast(object, value), (Tensor, type(None))):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
        if not isinstance(cast(object, x), Tensor):
            raise TypeError(f"input_ must be a torch.Tensor, got {type(x).__name__}.")
        if x.dtype not in STATE_DTYPE and not x.is_floating_point() and not x.is_complex():
            x = x.to(self.coefficients.dtype)  # events and their counts: the host's leak times them is of its own dtype
        return check_input(x)

    # ---- life of a module

    def __setattr__(self, name: str, value: Any) -> None:
        """As `nn.Module` does, which looks for parameters first: a state is set at every step."""
        if name in self.STATES and (again := recomputation()) is not None:
            self.__dict__.setdefault("_set_in", {})[name] = again
        if name in self.STATES and type(value) is Tensor and name in self.__dict__:
            object.__setattr__(self, name, value)
        elif name == "beta":
            raise AttributeError("beta is θ_1 of the coefficients: write into it in place, or into .coefficients.")
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for name in self.STATES:
            if name in self.__dict__:  # else somebody made it a buffer or a parameter
                setattr(self, name, fn(getattr(self, name)))
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in self.STATES:
            if name in state:
                state[name] = state[name].detach()  # of a graph there are no copies
        for transient in ("reset", "_set_in", "_cached_graded", "_cached_dynamics"):
            state.pop(transient, None)
        state["spike_grad"] = recover(state["spike_grad"])  # the host's closures cannot be pickled
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        registry.hold_weakly(self)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any, **named: Any) -> None:
        theirs, ours = prefix + "beta", prefix + "coefficients"
        if theirs in state_dict and ours not in state_dict:
            loaded = leaky_coefficients(cast(Mapping[str, Tensor], state_dict)[theirs], self.degree)
            # One value for the whole layer fits every layout.
            state_dict[ours] = loaded.expand_as(self.coefficients).clone() if loaded.dim() == 1 else loaded
            del state_dict[theirs]
        if ours in state_dict:
            check_finite(ours, state_dict[ours])
        reset = int(state_dict.get(prefix + "reset_mechanism_val", 0))
        if reset not in self.reset_dict.values():
            raise ValueError(f"{prefix}reset_mechanism_val must be one of {self.reset_dict}, got {reset}.")
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)
        self._reset_mechanism = list(self.reset_dict)[int(self.reset_mechanism_val)]
        # Of these a checkpoint knows nothing, and `to_empty` leaves anything in them.
        self._v_reset, self._gain = torch.zeros_like(self._v_reset), torch.ones_like(self._gain)

    def extra_repr(self) -> str:
        layout = "layer" if self.coefficients.dim() == 1 else [*self.coefficients.shape[:-1]]
        surrogate = self._dynamics().surrogate
        path = "fused" if self.is_fused() else "host"
        return (
            f"degree={self.degree}, layout={layout}, reset_mechanism={self.reset_mechanism!r}, "
            f"reset_delay={self.reset_delay}, surrogate={surrogate}, domain={self.domain}, path={path}"
        )
