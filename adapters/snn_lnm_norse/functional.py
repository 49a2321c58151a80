"""The neuron as Norse's functional interface has it: plain parameters and states, one step at a time."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from snn_lnm.adapting import (
    FULL,
    STATE_DTYPE,
    Backend,
    Charge,
    Domain,
    Dynamics,
    Extension,
    Memory,
    Parameters,
    State,
    check_input,
    default_domain,
    from_the_right,
    functional,
    recordable,
    reference,
    sizes,
)
from snn_lnm_norse.surrogates import recover

__all__ = [
    "LNMBoxFeedForwardState",
    "LNMBoxState",
    "LNMFeedForwardState",
    "LNMParameters",
    "LNMState",
    "lnm_feed_forward_step",
    "lnm_step",
]

Number = Tensor | float


class LNMParameters(NamedTuple):
    """Parameters of a learnable neuron, by Norse's names.

    ``h = v + a·(f(v) + i)`` with ``a = dt·tau_mem_inv`` and ``f(v) = Σ θ_k v^k``; with a synapse
    ``i ← i + x`` before and ``i ← i - b·i``, ``b = dt·tau_syn_inv``, after. The defaults are those of
    `norse.torch.LIFParameters` with room to learn: θ = (v_leak, -1, 0, 0).

    Attributes:
        coefficients: θ, `[D+1]` or one per neuron, D in 0..8. As everywhere in Norse, numbers broadcast with
            the input from the right: one polynomial per channel of `[B, C, H, W]` is `[C, 1, 1, D+1]`.
        tau_syn_inv: 1/τ_syn in 1/s; None: no synaptic current, the input reaches the membrane as it is.
        tau_mem_inv: 1/τ_mem in 1/s.
        v_th, v_reset: threshold, and the value after a spike.
        v_start: where membranes start.
        bias: added to the input (`LIFBoxParameters` rounds ``x + v_leak`` first); None: nothing.
        method, alpha: Norse's threshold method.
        charge: ``"drift"`` as above, or ``"map"``: ``h = f(v) + i``, free of dt and τ_mem.
        reset: ``"hard"`` to ``v_reset`` or ``"soft"``, minus ``v_th``.
        domain, extension: see :class:`snn_lnm.LNM`.
    """

    coefficients: Tensor = torch.tensor([0.0, -1.0, 0.0, 0.0])
    tau_syn_inv: Number | None = torch.tensor(1.0 / 5e-3)
    tau_mem_inv: Number = torch.tensor(1.0 / 1e-2)
    v_th: Number = torch.tensor(1.0)
    v_reset: Number = torch.tensor(0.0)
    v_start: Number = torch.tensor(0.0)
    bias: Number | None = None
    method: str = "super"
    alpha: Number = 100.0
    charge: Charge = "drift"
    reset: Literal["hard", "soft"] = "hard"
    domain: Domain = "auto"
    extension: Extension = "line"


DEFAULT = LNMParameters()


class LNMFeedForwardState(NamedTuple):
    """Membrane and synaptic current, `[B, ...]`."""

    v: Tensor
    i: Tensor


class LNMBoxFeedForwardState(NamedTuple):
    """Membrane of a neuron without a synaptic current, `[B, ...]`."""

    v: Tensor


class LNMState(NamedTuple):
    """Spikes, membrane and synaptic current of a recurrent neuron, `[B, H]`."""

    z: Tensor
    v: Tensor
    i: Tensor


class LNMBoxState(NamedTuple):
    """Spikes and membrane of a recurrent neuron without a synaptic current, `[B, H]`."""

    z: Tensor
    v: Tensor


def lnm_feed_forward_step(
    input_tensor: Tensor, state: Any, p: LNMParameters = DEFAULT, dt: float = 0.001
) -> tuple[Tensor, Any]:
    """One step without recurrence: `[B, ...]` in, ``(spikes, state)`` out. The reset lets gradients through.

    Args:
        input_tensor: x, `[B, ...]`; integers and sparse tensors too, as in Norse.
        state: :class:`LNMFeedForwardState` (with a synapse) or :class:`LNMBoxFeedForwardState`, or any tuple
            with their fields, Norse's own included; None starts at ``p.v_start``.
        p: parameters.
        dt: time step in s.

    Raises:
        ValueError, TypeError: shapes, dtypes, names, non-finite coefficients.
    """
    return advance(input_tensor, state, p, dt, dynamics_of(p, detach_reset=False), single_step=True)


def lnm_step(
    input_tensor: Tensor,
    state: Any,
    input_weights: Tensor,
    recurrent_weights: Tensor,
    p: LNMParameters = DEFAULT,
    dt: float = 0.001,
) -> tuple[Tensor, Any]:
    """One step with recurrence: `[B, I]` in, spikes `[B, H]` and :class:`LNMState` out.

    ``x = W_in·input + W_rec·z``; the reset is detached, as in Norse. Arguments and errors as for
    :func:`lnm_feed_forward_step`; the weights are `[H, I]` and `[H, H]`.
    """
    dynamics = dynamics_of(p, detach_reset=True)
    return advance_recurrent(input_tensor, state, input_weights, recurrent_weights, p, dt, dynamics)


# ---- what the functions and the modules share


def dynamics_of(p: LNMParameters, detach_reset: bool) -> Dynamics:
    """The options of the law that ``p`` stands for."""
    degree = p.coefficients.shape[-1] - 1
    domain = default_domain(degree, p.v_th) if isinstance(p.domain, str) else p.domain
    surrogate = recover(p.method, p.alpha)
    options: dict[str, Any] = {"detach_reset": detach_reset, "domain": domain, "extension": p.extension}
    return Dynamics(p.charge, p.reset, synapse="euler", surrogate=surrogate, **options)


def advance(
    x: Tensor,
    state: Any,
    p: LNMParameters,
    dt: float,
    dynamics: Dynamics,
    backend: Backend = "auto",
    single_step: bool = False,
    record_states: bool = False,
    memory: Memory = FULL,
    lengths: Any = None,
    path: str = "",
) -> tuple[Tensor, Any]:
    """One step `[B, ...]`, or a whole sequence `[T, B, ...]`, without recurrence."""
    sparse, x = x.is_sparse, _as_input(x)
    if p.bias is not None:
        x = x + p.bias
    own = sizes(x)[0 if single_step else 1 :]
    step = _common_shape(own, state)
    if step != own:
        x = x.expand(step if single_step else (len(x), *step))
    start = _start(state, step, x, p)
    numbers = _numbers(p, dt, len(step), x)
    options: dict[str, Any] = {"backend": backend, "single_step": single_step, "membrane": record_states}
    out = functional.run(x, start, numbers, dynamics, memory=memory, lengths=lengths, path=path, **options)
    last = out.state
    if record_states:
        v = reference.reset(out.membrane, out.spikes.to(out.membrane.dtype), numbers, dynamics)
        last = State(v, functional.currents(x, start, numbers, dynamics))
    spikes = out.spikes.to_sparse() if sparse else out.spikes
    return spikes, feed_forward_state(last.v, last.current)


def advance_recurrent(
    x: Tensor,
    state: Any,
    input_weights: Tensor,
    recurrent_weights: Tensor,
    p: LNMParameters,
    dt: float,
    dynamics: Dynamics,
    backend: Backend = "auto",
    path: str = "",
) -> tuple[Tensor, Any]:
    """One step `[B, I]` with recurrence. Norse's order: ``(i + W_in·x) + W_rec·z``."""
    sparse, x = x.is_sparse, _as_input(x)
    driven = torch.nn.functional.linear(x, input_weights)
    step = _common_shape(sizes(driven), state)
    driven = driven if step == sizes(driven) else driven.expand(step)
    z = torch.zeros_like(driven) if state is None else _broadcast(state.z, step, driven).to(x.dtype)
    fed_back = torch.nn.functional.linear(z, recurrent_weights).expand_as(driven)
    if p.bias is not None:
        fed_back = fed_back + p.bias
    start = _start(state, step, driven, p)
    if start.current is None:
        fed_back = driven + fed_back
    else:
        start = State(start.v, start.current + driven.to(start.current.dtype))
    numbers = _numbers(p, dt, driven.dim(), driven)
    options: dict[str, Any] = {"backend": backend, "single_step": True, "membrane": False}
    out = functional.run(fed_back, start, numbers, dynamics, path=path, **options)
    spikes = out.spikes.to_sparse() if sparse else out.spikes
    return spikes, recurrent_state(spikes, out.state.v, out.state.current)


def feed_forward_state(v: Tensor, i: Tensor | None) -> Any:
    return LNMBoxFeedForwardState(v) if i is None else LNMFeedForwardState(v, i)


def recurrent_state(z: Tensor, v: Tensor, i: Tensor | None) -> Any:
    return LNMBoxState(z, v) if i is None else LNMState(z, v, i)


def _as_input(x: Tensor) -> Tensor:
    """Dense and floating-point, as Norse's sums with its float32 states make it."""
    x = x.to_dense() if x.is_sparse else x
    return check_input(x if x.is_floating_point() or x.is_complex() else x.float())


def _start(state: Any, step: torch.Size, x: Tensor, p: LNMParameters) -> State:
    """The law's state from Norse's, whose members may be scalars, numbers or of a narrower type."""
    v = p.v_start if state is None else state.v
    i = None
    if p.tau_syn_inv is not None:
        i = _broadcast(0.0 if state is None else state.i, step, x)
    return State(_broadcast(v, step, x), i)


def _common_shape(step: torch.Size, state: Any) -> torch.Size:
    """One step of the input broadcast with the state, as the host's sums would."""
    if state is None or all([isinstance(value, Tensor) and sizes(value) == step for value in state]):
        return step
    shapes = [sizes(torch.as_tensor(value)) for value in state]
    try:
        return cast(torch.Size, torch.broadcast_shapes(step, *shapes))
    except RuntimeError:
        named = ", ".join(f"state.{name} {[*shape]}" for name, shape in zip(state._fields, shapes, strict=True))
        raise ValueError(
            f"one step of the input is {[*step]} and does not fit {named}: start a new sequence with state=None."
        ) from None


def _broadcast(value: Any, step: torch.Size, x: Tensor) -> Tensor:
    """To ``step``, the last dimensions of ``x``."""
    if isinstance(value, Tensor) and sizes(value) == step and _fits(value, STATE_DTYPE.get(x.dtype, x.dtype), x):
        return recordable(value)
    value = torch.as_tensor(value.to_dense() if isinstance(value, Tensor) else value, device=x.device)
    return recordable(_promote(value, STATE_DTYPE.get(x.dtype, x.dtype))).expand(x.shape[x.dim() - len(step) :])


def _fits(value: Tensor, dtype: torch.dtype, x: Tensor) -> bool:
    """Nothing has to be made of it."""
    return value.dtype == dtype and value.layout == torch.strided and value.device == x.device


def _promote(value: Tensor, dtype: torch.dtype) -> Tensor:
    """PyTorch's own promotion: scalars follow the input, other tensors only widen."""
    widens = value.dim() == 0 or not value.is_floating_point() or torch.promote_types(value.dtype, dtype) == dtype
    return value.to(dtype) if widens else value


def _numbers(p: LNMParameters, dt: float, dims: int, x: Tensor) -> Parameters:
    dtype = STATE_DTYPE.get(x.dtype, x.dtype)

    def number(value: Number, trailing: int = 0) -> Tensor:
        if isinstance(value, Tensor) and _fits(value, dtype, x):
            return from_the_right(value, dims, trailing)
        return from_the_right(_promote(torch.as_tensor(value, device=x.device), dtype), dims, trailing)

    return Parameters(
        number(p.coefficients, 1),
        number(p.v_th),
        number(p.v_reset),
        number(1.0 if p.charge == "map" else dt * p.tau_mem_inv),
        None if p.tau_syn_inv is None else number(dt * p.tau_syn_inv),
    )
