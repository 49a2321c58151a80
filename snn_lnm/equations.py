"""Dynamics of one's own: a neuron from its equations, on every engine."""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from snn_lnm import engines, functional
from snn_lnm import surrogate as surrogates
from snn_lnm.checks import STATE_DTYPE, align, as_parameter, check_choice, check_input, check_state, number
from snn_lnm.engines import form
from snn_lnm.engines.generator import program
from snn_lnm.law import Law, Neuron, Outputs, Stepped
from snn_lnm.memory import FULL, Memory, check_memory
from snn_lnm.surrogate import Surrogate
from snn_lnm.tracing import sizes

__all__ = ["EquationNeuron", "neuron_from_equations"]

ResetMechanism = Literal["subtract", "zero", "none"]
Values = Mapping[str, Any]
_PACKAGE = str(Path(__file__).parent)


@dataclass(frozen=True)
class Equations:
    """What the user wrote, and what of it follows."""

    name: str
    states: tuple[str, ...]
    spike_state: str
    update: Callable[..., Values]
    reset: Callable[..., Values] | None
    of_update: tuple[str, ...]
    of_reset: tuple[str, ...]


@dataclass(frozen=True)
class _Step:
    """One time step, on tensors or symbols: a :attr:`snn_lnm.law.Law.step`."""

    equations: Equations
    surrogate: Surrogate
    mechanism: str
    detach_reset: bool
    smooth: bool

    def __call__(self, x: Any, states: Values, numbers: Values, constants: Values) -> Stepped:
        said, threshold = self.equations, numbers["threshold"]
        given = {name: numbers[name] for name in said.of_update}
        updated = _complete(said, "update_fn", said.update(dict(states), x, **given))
        h = updated[said.spike_state]
        u = h - threshold
        spikes = self.surrogate.smooth(u) if self.smooth else self.surrogate(u)
        s = spikes.detach() if self.detach_reset else spikes
        if said.reset is not None:
            given = {name: numbers[name] for name in said.of_reset}
            return Stepped(spikes, h, _complete(said, "reset_fn", said.reset(dict(updated), s, threshold, **given)))
        after = {"subtract": lambda: h - s * threshold, "zero": lambda: (1 - s) * h, "none": lambda: h}[
            self.mechanism
        ]()
        return Stepped(spikes, h, {**updated, said.spike_state: after})


def _complete(said: Equations, function: str, given: object) -> dict[str, Any]:
    """The states that a function returned, in order."""
    if not isinstance(given, Mapping) or {*cast("Values", given)} != {*said.states}:
        got = sorted(map(str, cast("Values", given))) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(f"{function} must return a dict of all states, {[*said.states]}, got {got}.")
    return {name: cast("Values", given)[name] for name in said.states}


class EquationNeuron(nn.Module):
    """A layer of neurons of one's own: base of what :func:`neuron_from_equations` makes.

    Args:
        threshold: a number, `[C]` or `[*neuron_shape]`, as each of ``numbers``.
        reset_mechanism: of the spiking state where there is no ``reset_fn``: ``"subtract"`` (the threshold),
            ``"zero"`` or ``"none"``.
        learn: the names of the numbers that are learned; True: all but the threshold; False: none.
        learn_threshold: whether the threshold is learned.
        detach_reset: the reset is a constant for the gradient.
        surrogate: see :mod:`snn_lnm.surrogate`.
        smooth: the spike is the surrogate's primitive: not a spiking neuron, but one whose gradient is true, for
            checking gradients.
        backend: ``"auto"``, ``"reference"``, ``"cpp"``, ``"triton"``.
        memory: what is kept for the backward pass, :class:`snn_lnm.Memory`.
        **numbers: the further arguments of ``update_fn`` and ``reset_fn``, to start from.

    Shapes: input `[T, B, ...]` (``step``: `[B, ...]`), spikes the same, states `[B, ...]`. Dtypes: float64, float32,
    bfloat16, float16; half inputs are computed in float32.

    Raises:
        TypeError: an unknown number; a type or dtype that does not fit; equations that cannot be traced.
        ValueError: a shape or name that does not fit.
    """

    equations: ClassVar[Equations]
    defaults: ClassVar[dict[str, float]]
    names: ClassVar[tuple[str, ...]]
    """Of its numbers, the threshold first."""
    init_values: ClassVar[dict[str, float]]
    State: ClassVar[Any]
    threshold: Tensor

    def __init__(
        self,
        *,
        threshold: Tensor | float = 1.0,
        reset_mechanism: ResetMechanism = "subtract",
        learn: bool | str | Iterable[str] = True,
        learn_threshold: bool = False,
        detach_reset: bool = True,
        surrogate: str | surrogates.Spike = "atan",
        smooth: bool = False,
        backend: engines.Backend = "auto",
        memory: Memory = FULL,
        **numbers: Tensor | float,
    ) -> None:
        super().__init__()
        said, known = self.equations, {*self.defaults}
        asked = [learn] if isinstance(learn, str) else learn
        learned = known if asked is True else set[str]() if asked is False else {*asked}
        for given in (set(numbers), learned):
            if unknown := sorted(given - known):
                raise TypeError(f"{said.name} has no number {', '.join(unknown)}: it has {', '.join(sorted(known))}.")
        check_choice("reset_mechanism", reset_mechanism, ResetMechanism)
        engines.check_backend(backend)
        check_memory(memory)
        spike = surrogates.get(cast(surrogates.Spike, surrogate))
        if not isinstance(spike, Surrogate):
            raise TypeError(
                f"{said.name}: surrogate must be one of {', '.join(surrogates.available())}, got {spike!r}."
            )
        self.backend: engines.Backend = backend
        self.memory = memory
        self._options = (spike, reset_mechanism, detach_reset, smooth)
        self._neuron = _neuron_of(_Step(said, *self._options), self.names)
        for name, start in {"threshold": threshold, **self.defaults, **numbers}.items():
            value = number(name, start)
            if learn_threshold if name == "threshold" else name in learned:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_neuron"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._neuron = _neuron_of(_Step(self.equations, *self._options), self.names)

    def forward(self, x: Tensor, state: Any = None, *, return_membrane: bool = False) -> Any:
        """Run over a sequence `[T, B, ...]`.

        Returns:
            ``(spikes, state)``, the state a named tuple; with ``return_membrane``, ``(spikes, state, membrane)``: the
            spiking state before the reset, `[T, B, ...]`, differentiable.
        """
        if isinstance(cast(object, x), Tensor) and x.dim() < 1:
            raise ValueError("the input must be [T, B, ...], got a tensor without dimensions.")
        return self._run(x, state, return_membrane, single_step=False)

    def step(self, x: Tensor, state: Any = None, *, return_membrane: bool = False) -> Any:
        """One time step: `[B, ...]` in, and out as :meth:`forward` but without the time dimension."""
        return self._run(x, state, return_membrane, single_step=True)

    def _run(self, x: Tensor, state: Any, return_membrane: bool, single_step: bool) -> Any:
        check_input(x)
        step = sizes(x) if single_step else sizes(x)[1:]
        numbers = [align(name, as_parameter(name, getattr(self, name), x), step) for name in self.names]
        states = self._states(x, state, step)
        if not single_step and x.shape[0] == 0:
            spikes, h, last = x.clone(), x.to(STATE_DTYPE[x.dtype], copy=True), [value.clone() for value in states]
        else:
            options = (self.backend, single_step, return_membrane, self.memory)
            _, (spikes, h, last) = functional.through_engine(self._neuron, x, states, numbers, *options)
        after = self.State(*last)
        return (spikes, after, h) if return_membrane else (spikes, after)

    def _states(self, x: Tensor, state: Any, step: torch.Size) -> list[Tensor]:
        names = self.equations.states
        given: Sequence[Any] = [None] * len(names) if state is None else state
        if not isinstance(cast(object, given), (tuple, list)) or len(given) != len(names):
            raise TypeError(f"state must be None or a tuple of {', '.join(names)}, got {type(state).__name__}.")
        found: list[Tensor] = []
        for name, value in zip(names, given, strict=True):
            start = self.init_values[name]
            checked = check_state(name, value, step, x)
            if checked is None and start:
                checked = torch.full(step, start, dtype=STATE_DTYPE[x.dtype], device=x.device)
            found.append(functional.zeros(step, x) if checked is None else checked)
        return found

    def extra_repr(self) -> str:
        learned = [name for name, _ in self.named_parameters()]
        numbers = ", ".join(f"{name}={tuple(getattr(self, name).shape)}" for name in self.names)
        return f"states={[*self.equations.states]}, {numbers}, learned={learned}, backend={self.backend!r}"


def _neuron_of(step: _Step, names: tuple[str, ...]) -> Neuron:
    """What engines are asked to run.

    Raises:
        TypeError, ValueError: the equations cannot be traced, with their line.
    """
    said, surrogate = step.equations, step.surrogate
    constants = tuple(
        zip([f"surrogate_{name}" for name in surrogate.__match_args__], surrogate.parameters, strict=True)
    )
    law = Law(said.states, tuple((name, None) for name in names), constants, replace(step, surrogate=type(surrogate)()))
    try:
        found = program.forward(law.form)
    except (TypeError, ValueError, AttributeError) as error:
        raise type(error)(_with_line(said.name, error)) from None
    nodes = [(n.operation, [a.index for a in n.arguments], str(n.value)) for n in found.graph.nodes]
    roots = [node.index for _, node in found.pieces["step"]]
    digest = hashlib.sha256(repr((nodes, roots, constants)).encode()).hexdigest()[:16]
    text = f"equations={said.name}-{digest}"
    scan = partial(_scan, step, names)
    kept = form.Form(law, scan)
    form.register(text, kept)
    functions = tuple(sorted(program.operations(node for _, node in found.pieces["step"])))
    return Neuron(text, (None,) * len(names), kept.membrane_state, scan, functions)


def _scan(step: _Step, names: tuple[str, ...], x: Tensor, states: list[Tensor], values: list[Tensor]) -> Outputs:
    """The definition, in eager PyTorch."""
    numbers = dict(zip(names, values, strict=True))
    named: Values = dict(zip(step.equations.states, states, strict=True))
    spikes: list[Tensor] = []
    h: list[Tensor] = []
    for x_t in x.to(STATE_DTYPE[x.dtype]).unbind(0):
        s_t, h_t, named = step(x_t, named, numbers, {})
        spikes.append(s_t.expand_as(x_t))
        h.append(h_t.expand_as(x_t))
    last = [value.expand_as(x[0]).clone() for value in named.values()]  # never the start itself, which may be shared
    return torch.stack(spikes).to(x.dtype), torch.stack(h), last


def _with_line(name: str, error: Exception) -> str:
    """The error's words, after the line of the user's function that it comes from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_PACKAGE)]
    place = f' {frames[-1].filename}:{frames[-1].lineno}, "{frames[-1].line}":' if frames else ""
    return f"{name}:{place} {error}"


def _numbers_of(name: str, function: Callable[..., Any], given: int) -> dict[str, float | None]:
    """The further arguments of a function, with what they start from."""
    found: dict[str, float | None] = {}
    for k, parameter in enumerate(inspect.signature(function).parameters.values()):
        if k < given:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{name}: a number needs a name of its own, got {parameter}.")
        found[parameter.name] = None if parameter.default is parameter.empty else parameter.default
    return found


def neuron_from_equations(
    name: str,
    state_names: Sequence[str],
    update_fn: Callable[..., Values],
    spike_state: str | None = None,
    reset_fn: Callable[..., Values] | None = None,
    init_values: Mapping[str, float] | None = None,
) -> type[EquationNeuron]:
    """A class of neurons from equations, which run on every engine, compiled and fused over time.

    One step, elementwise over neurons::

        states = update_fn(states, x, **numbers)
        spikes = H(states[spike_state] - threshold)
        states = reset_fn(states, spikes, threshold, **numbers)

    Both functions take and return dicts of tensors, by the states' names. They are written in arithmetic, comparisons,
    `torch.where`, `torch.clamp`, `torch.exp`, `torch.tanh` and the like. Their further arguments are the neuron's
    numbers, which are learned; the default of an argument is where it starts::

        def update(states, x, tau=5.0, sharpness=0.5):
            v = states["v"]
            return {"v": v + (sharpness * torch.exp((v - 0.8) / sharpness) - v + x) / tau}

        EIF = snn_lnm.neuron_from_equations("EIF", ["v"], update)
        spikes, state = EIF(threshold=2.0, tau=torch.full((64,), 5.0))(x)  # x: [T, B, 64]

    Args:
        name: of the class. To be pickled, the class must have this name in the module that makes it.
        state_names: of what a neuron carries from step to step.
        update_fn: the states before the reset.
        spike_state: the state that spikes at the threshold; default: the first.
        reset_fn: the states after the spikes; default: the class's ``reset_mechanism``.
        init_values: of states that do not start at zero.

    Returns:
        A subclass of :class:`EquationNeuron`.

    Raises:
        TypeError, ValueError: names or numbers that do not fit. Equations that cannot be traced are refused when the
            class is called, with the line.

    Source: the signature is that of snnTorch's `neuron_from_equations`; learned numbers are ours.
    """
    states = tuple(state_names)
    if not states or len({*states}) < len(states) or not all(state.isidentifier() for state in states):
        raise ValueError(f"{name}: state_names must be different names, got {[*state_names]}.")
    spiking = states[0] if spike_state is None else spike_state
    starts = dict.fromkeys(states, 0.0) | dict(init_values or {})
    for what, given in (("spike_state", {spiking}), ("init_values", {*starts})):
        if unknown := sorted(given - {*states}):
            raise ValueError(f"{name}: {what} names {', '.join(unknown)}, expected some of {', '.join(states)}.")
    of_update = _numbers_of(name, update_fn, 2)
    of_reset = {} if reset_fn is None else _numbers_of(name, reset_fn, 3)
    defaults: dict[str, float] = {}
    for argument in {**of_update, **of_reset}:
        values = {of[argument] for of in (of_update, of_reset) if of.get(argument) is not None}
        if len(values) != 1:
            raise TypeError(f"{name}: the number {argument} needs one default to start from, got {[*values]}.")
        if argument in (*inspect.signature(EquationNeuron.__init__).parameters, *dir(nn.Module)):
            raise ValueError(f"{name}: a number cannot be called {argument}, which means something else here.")
        defaults[argument] = float(cast(float, values.pop()))
    said = Equations(name, states, spiking, update_fn, reset_fn, tuple(of_update), tuple(of_reset))
    module = sys._getframe(1).f_globals.get("__name__", "__main__")  # pyright: ignore[reportPrivateUsage] - as namedtuple does, for pickles
    state_type: Any = NamedTuple("State", [(state, Tensor) for state in states])  # pyright: ignore - its fields are known at run time only
    state_type.__module__, state_type.__qualname__ = module, f"{name}.State"
    members = {
        "equations": said,
        "defaults": defaults,
        "names": ("threshold", *defaults),
        "init_values": starts,
        "State": state_type,
    }
    return cast("type[EquationNeuron]", type(name, (EquationNeuron,), {**members, "__module__": module}))
