"""The neuron as a function: checks, choice of engine, one call."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from snn_lnm import engines, reference
from snn_lnm.checks import STATE_DTYPE, align, as_parameter, check_degree, check_input, check_state, check_still_finite
from snn_lnm.engines import calls, form
from snn_lnm.law import Neuron, Outputs
from snn_lnm.lengths import Lengths, check_lengths, each_alone
from snn_lnm.memory import FULL, Memory, can_recompute, check_memory, membrane_dtype, recomputing
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.tracing import is_tracing, sizes

__all__ = ["Output", "currents", "lnm", "run", "through_engine"]

_Given = tuple[Tensor | None, Tensor | None]
_NOTHING: _Given = (None, None)
MOST_PREPARED = 64
"""Calls that a `Dynamics` remembers: batches and sequences come in few sizes."""


class Output(NamedTuple):
    """What a neuron gives.

    Attributes:
        spikes: `[T, B, ...]`, 0 or 1, in the input's dtype.
        membrane: `[T, B, ...]`, h before the reset, in the arithmetic dtype; differentiable.
        state: what the next call continues from.
    """

    spikes: Tensor
    membrane: Tensor
    state: State


def lnm(
    x: Tensor,
    coefficients: Tensor,
    *,
    threshold: Tensor | float = 1.0,
    v_reset: Tensor | float = 0.0,
    gain: Tensor | float = 1.0,
    alpha: Tensor | float | None = None,
    state: State | None = None,
    backend: engines.Backend = "auto",
    memory: Memory = FULL,
    lengths: Any = None,
    **options: Any,
) -> Output:
    """Run the learnable neuron over a whole sequence, differentiably.

    ``h = v + g·(f(v) + c)`` ("drift"), ``h = f(v) + g·c`` ("map") or ``h = v + g·f(v) + c``
    ("residual"), ``s = H(h - threshold)``, then
    the reset; ``f(v) = Σ θ_k v^k``. :mod:`snn_lnm.reference` holds all equations.

    Args:
        x: input current, `[T, B, ...]`, float64, float32, bfloat16 or float16. The same at every step
            (`x.expand(T, ...)`, not requiring gradients, or :func:`snn_lnm.hold`), it is not repeated in memory.
        coefficients: θ, `[D+1]` for the layer, `[C, D+1]` per channel (dim 1 of `[B, C, ...]`) or
            `[*neuron_shape, D+1]` per neuron; degree D in 0..8.
        threshold, v_reset, gain, alpha: numbers or tensors in the same three layouts. ``alpha`` is the
            synapse's decay; None means no synapse.
        state: where to start, :class:`State` of `[B, ...]` tensors; None means zeros.
        backend: ``"auto"``, ``"reference"``, ``"cpp"`` or ``"triton"``; the choice never changes a bit
            of spikes and membranes.
        memory: what is kept for the backward pass, :class:`snn_lnm.Memory`; with any of its options the
            membrane is not asked for (`[0]`).
        lengths: of sequences of different lengths, `[B]`, integers in 0..T, B being dim 0 of a step: sequence b
            gets, in its first ``lengths[b]`` steps, what it gets alone, and zeros after; its state is the one after
            its own last step. What the padding of ``x`` holds has no influence.
        **options: the fields of :class:`snn_lnm.parameters.Dynamics`: ``charge``, ``reset``,
            ``detach_reset``, ``fire_at_threshold``, ``synapse``, ``surrogate``, ``domain`` (None here:
            the bare polynomial), ``extension``, ``gain_divides``, ``smooth``.

    Returns:
        :class:`Output`.

    Raises:
        TypeError: a wrong dtype or type.
        ValueError: a wrong shape, device, degree, name, or non-finite coefficients.
        RuntimeError: the engine asked for cannot run here.

    Source: LNM, arXiv 2510.07341 (drift form, hard reset); QIF, arXiv 2510.05168 (degree 2). Domain,
    map form, delayed resets and synapse are ours or the hosts'.
    """
    check_input(x)
    if x.dim() < 1:
        raise ValueError("the input must be [T, B, ...], got a tensor without dimensions.")
    found = None if lengths is None else check_lengths(lengths, x)
    parameters = Parameters(
        as_parameter("coefficients", coefficients, x),
        as_parameter("threshold", threshold, x),
        as_parameter("v_reset", v_reset, x),
        as_parameter("gain", gain, x),
        None if alpha is None else as_parameter("alpha", alpha, x),
    )
    check_memory(memory)
    if unknown := options.keys() - set(Dynamics.__match_args__):
        names = ", ".join(map(repr, sorted(unknown)))
        raise TypeError(f"unknown option {names}: expected some of {', '.join(Dynamics.__match_args__)}.")
    dynamics, membrane = Dynamics(**options), memory == FULL
    words: dict[str, Any] = {"backend": backend, "membrane": membrane, "memory": memory, "remembers": False}
    return run(x, state, parameters, dynamics, lengths=found, **words)


def run(
    x: Tensor,
    state: State | None,
    parameters: Parameters,
    dynamics: Dynamics,
    *,
    backend: engines.Backend = "auto",
    single_step: bool = False,
    membrane: bool = True,
    memory: Memory = FULL,
    remembers: bool = True,
    lengths: Lengths | None = None,
    path: str = "",
) -> Output:
    """:func:`lnm` for callers that keep a :class:`Dynamics`: modules and adapters.

    With ``single_step`` the input is one step, `[B, ...]`, and so are the outputs. Without
    ``membrane`` the one returned is empty, `[0]`. ``remembers``: ``dynamics`` will be called again, and is to
    hold what was found out about this call. ``lengths``: as :func:`snn_lnm.lengths.check_lengths` gives them.
    ``path``: of the layer, for errors about coefficients that are no longer finite.
    """
    try:
        if lengths is not None:
            words: dict[str, Any] = {"backend": backend, "membrane": membrane, "memory": memory, "remembers": False}
            return _run_each_alone(lengths, x, state, parameters, dynamics, words)
        return _run(x, state, parameters, dynamics, backend, single_step, membrane, memory, remembers)
    except ValueError:
        if not (torch.compiler.is_compiling() or engines.transformed()):
            check_still_finite(parameters.coefficients, path)
        raise


def _run(
    x: Tensor,
    state: State | None,
    parameters: Parameters,
    dynamics: Dynamics,
    backend: engines.Backend,
    single_step: bool,
    membrane: bool,
    memory: Memory,
    remembers: bool,
) -> Output:
    engines.check_backend(backend)
    given = state if type(state) is State else _NOTHING
    values, steps, key = (x, *given, *parameters), 0, None
    if remembers and _are_plain(values) and (state is None or given is state):
        if not x.is_contiguous():
            source, steps = calls.one_step(x, single_step)
            values = (source, *values[1:])
        key = _key(values, memory, steps, single_step, membrane, backend)
        if (prepared := dynamics.prepared.get(key)) is not None:
            start = _start(given, parameters, x.shape if single_step else x.shape[1:], x)
            spikes, h, last = calls.call(prepared, values[0], _present(start), _present(parameters))
            return Output(spikes, h if membrane else start.v.new_empty(0), State(*last))
    check_input(x)
    check_memory(memory)
    shape = sizes(x)
    step = shape if single_step else shape[1:]
    source = values[0]
    aligned = _checked_parameters(parameters, x, step)
    start = _start(_checked_state(state, parameters, x, step), parameters, step, x)
    if not single_step and shape[0] == 0:
        copies = (value if value is None else value.clone(memory_format=torch.contiguous_format) for value in start)
        start = State(*cast("Iterator[Tensor]", copies))
        return Output(x.clone(), x.to(STATE_DTYPE[x.dtype], copy=True), start)
    neuron = form.neuron(dynamics, sizes(aligned.coefficients)[-1] - 1, aligned.alpha is not None)
    states, numbers = _present(start), _present(aligned)
    words: tuple[Any, ...] = (single_step, membrane, memory)
    name, (spikes, h, last) = through_engine(neuron, x, states, numbers, backend, *words)
    recomputes = memory.recompute is not None and not single_step and not membrane and can_recompute()
    compiled = name != "reference" and not recomputes
    if key is not None and compiled and source.is_contiguous() and not _converted(values, aligned, start):
        kept_dtype = membrane_dtype(x, FULL if single_step else memory)
        prepared = calls.prepare(name, kept_dtype, neuron, source, steps, states, numbers, single_step, membrane)
        _remember(dynamics, key, prepared)
    return Output(spikes, h if membrane else start.v.new_empty(0), State(*last))


def through_engine(
    neuron: Neuron,
    x: Tensor,
    states: list[Tensor],
    numbers: list[Tensor],
    backend: engines.Backend,
    single_step: bool,
    membrane: bool,
    memory: Memory,
) -> tuple[str, Outputs]:
    """What ``neuron`` gives, and the name of the engine that ran it. All was checked; there is at least one step."""
    kept_dtype = membrane_dtype(x, FULL if single_step else memory)
    name = engines.choose(x.device, neuron, backend)
    if not torch.compiler.is_compiling() and sizes(x).numel() == 0:
        name = "reference"  # nobody, in any layout
    run = engines.runner(name, neuron, kept_dtype, single_step, membrane)
    if memory.recompute is not None and not single_step and not membrane and can_recompute():
        run = recomputing(run, memory.recompute, draws=bool(neuron.own))
    try:
        return name, run(x, states, numbers)
    except engines.cpp.CannotCompile as error:
        return "reference", engines.instead(backend, error, neuron, single_step)(x, states, numbers)


def _present(values: tuple[Tensor | None, ...]) -> list[Tensor]:
    return [value for value in values if value is not None]


def _run_each_alone(
    lengths: Lengths, x: Tensor, state: State | None, parameters: Parameters, dynamics: Dynamics, words: dict[str, Any]
) -> Output:
    aligned = _checked_parameters(parameters, check_input(x), x.shape[1:])
    given = _checked_state(state, parameters, x, x.shape[1:])
    start = None if state is None else _start(given, parameters, x.shape[1:], x)

    def one(x: Tensor, state: State | None, parameters: Parameters) -> Output:
        return run(x, state, parameters, dynamics, **words)

    return Output(*each_alone(lengths, x, start, aligned, one))


def _checked_parameters(parameters: Parameters, x: Tensor, step: torch.Size) -> Parameters:
    if parameters.coefficients.dim() < 1:
        raise ValueError("coefficients must have at least one dimension, [D+1]; got a scalar.")
    check_degree(sizes(parameters.coefficients)[-1] - 1)
    numbers = [
        None if value is None else align(name, as_parameter(name, value, x), step, name == "coefficients")
        for name, value in zip(Parameters._fields, parameters, strict=True)
    ]
    return Parameters(*cast("list[Tensor]", numbers))


def _checked_state(state: State | None, parameters: Parameters, x: Tensor, step: torch.Size) -> _Given:
    if state is None:
        return _NOTHING
    if not isinstance(cast(object, state), State):
        raise TypeError(f"state must be a snn_lnm.State(v, current) or None, got {type(state).__name__}.")
    v = check_state("v", state.v, step, x)
    current = check_state("current", state.current, step, x)
    if current is not None and parameters.alpha is None:
        raise ValueError("state.current was given but the neuron has no synapse (alpha is None).")
    return v, current


def _start(given: _Given, parameters: Parameters, step: torch.Size, x: Tensor) -> State:
    """``given``, with zeros for what it lacks."""
    v, current = given
    if current is None and parameters.alpha is not None:
        current = zeros(step, x)
    return State(zeros(step, x) if v is None else v, current)


def _are_plain(values: tuple[Any, ...]) -> bool:
    """Tensors are what they seem: no compiler, tracer, transform, mode or subclass, and no numbers in their place."""
    followed = torch.compiler.is_compiling() or is_tracing() or engines.transformed() or calls.watched(values)
    x = values[0]
    return not followed and x is not None and x.layout == torch.strided and not x.is_nested


def _key(values: tuple[Any, ...], *options: Any) -> tuple[Any, ...]:
    """All that the checks, the choice of the engine and what it prepares depend on; with it, the same call needs none.

    But for values, and for sparse states and parameters, which the operators look at or refuse themselves.
    """
    kinds = [None if value is None else (value.shape, value.dtype, value.device) for value in values]
    return (torch.is_grad_enabled(), values[0].is_contiguous(), *options, *kinds)


def _converted(values: tuple[Any, ...], aligned: Parameters, start: State) -> bool:
    """Something is another tensor at each call, in the dtype of the arithmetic."""
    used: tuple[Any, ...] = (*start, *aligned)
    return any(a is not None and a.dtype != b.dtype for a, b in zip(values[1:], used, strict=True))


def _remember(dynamics: Dynamics, key: Any, prepared: calls.Prepared) -> None:
    if len(dynamics.prepared) >= MOST_PREPARED:
        dynamics.prepared.clear()
    dynamics.prepared[key] = prepared


def zeros(step: torch.Size, x: Tensor) -> Tensor:
    """The start where none is given: one zero under every index, of which the C++ engine reads nothing.

    Not to be handed out: on a CPU the next call may get the very same tensor.
    """
    dtype = STATE_DTYPE[x.dtype]
    if is_tracing():  # of the size that an input will have, not of this one's
        return torch.zeros_like(x if x.dim() == len(step) else x[0], dtype=dtype)
    if x.is_cpu and not (torch.compiler.is_compiling() or engines.transformed() or calls.watched((x,))):
        return _kept_zeros(step, dtype)
    return torch.zeros((), dtype=dtype, device=x.device).expand(step)


@functools.lru_cache(maxsize=256)
def _kept_zeros(step: torch.Size, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(mode=False):  # what is made in it could not be kept for a backward pass
        return torch.zeros((), dtype=dtype, device="cpu").expand(step)


def currents(x: Tensor, start: State | None, numbers: Parameters, dynamics: Dynamics) -> Tensor | None:
    """The synaptic state after every step of ``x``, `[T, B, ...]`; None without a synapse."""
    if numbers.alpha is None:
        return None
    current = None if start is None else start.current
    if current is None:
        current = zeros(x.shape[1:], x)
    found: list[Tensor] = []
    for x_t in x.to(current.dtype).unbind(0):
        _, following = reference.synapse(x_t, current, numbers, dynamics)
        assert following is not None
        found.append(current := following)
    return torch.stack(found)
