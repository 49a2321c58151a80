"""`fuse_time`: a model of one time step becomes a model of whole sequences."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from snn_lnm.checks import check_dense
from snn_lnm.fuse import folding
from snn_lnm.fuse.graph import Operation, StepGraph, modules_of, trace
from snn_lnm.fuse.obstacles import loop_of
from snn_lnm.fuse.runner import AtOnce, How, Runner, Seen, way_of
from snn_lnm.fuse.tracer import (
    CannotTrace,
    check_one_step,
    has_hooks,
    holds_neuron,
    loops,
    neurons,
    refusal,
)
from snn_lnm.lengths import check_lengths
from snn_lnm.plugins import Adapter, loaded_adapters
from snn_lnm.table import table
from snn_lnm.tracing import sizes

__all__ = ["FuseReport", "FuseRow", "FusedTime", "fuse_time"]


class FuseRow(NamedTuple):
    """One layer: where it is, what it is, how it runs over time, and why not in one call."""

    path: str
    layer: str
    runs: How
    reason: str


@dataclass(frozen=True)
class FuseReport:
    """How each layer of a fused model runs. Prints as a table."""

    rows: tuple[FuseRow, ...]

    def __str__(self) -> str:
        return "\n".join(table(("layer", "class", "runs", "note"), self.rows))


def fuse_time(
    model: nn.Module,
    *,
    per_step: Sequence[type[nn.Module]] = (),
    exact: bool = False,
    at_once: AtOnce = "auto",
) -> FusedTime:
    """A model that takes whole sequences, from a model whose ``forward`` is one time step.

    Layers without a memory run once on `[T·B, ...]`, the neurons of :func:`snn_lnm.swap` once over T in one
    fused call, and everything else step by step: native neurons, recurrent layers, normalisation by the
    statistics of a step, dropout, hooked or unknown layers. An input that is the same at every step,
    `x.expand(T, ...)`, goes through what precedes the neurons once. ``model`` is not changed; both share every
    parameter, buffer and hidden state, so that either may be trained, swapped, saved or reset.

    Args:
        model: an `nn.Sequential` or any module that ``torch.fx`` can follow, a `norse.torch.SequentialState`,
            or a SpikingJelly net with ``step_mode='s'``.
        per_step: classes of layers not to look into: they run step by step as they are.
        exact: also run the layers that add up, Linear and convolutions, step by step. Without it they may
            round otherwise than in the loop, where the kernel adds up in another order for another batch size.
        at_once: how many steps run as one block of time, the states going from block to block: ``"all"``, a
            number, or ``"auto"``: on a GPU all; on a CPU as many as keep the largest tensor of a block within
            the caches, 16 MiB, but at least 8. The numbers are the same, but for what is said of ``exact``.

    Returns:
        :class:`FusedTime`.

    Raises:
        TypeError: not a module, or ``at_once`` is of another type; ValueError: ``at_once`` is no such word or
            less than 1; a step that cannot be followed, with the reason and what to do.
    """
    if not isinstance(cast(object, model), nn.Module):
        raise TypeError(f"a torch.nn.Module is needed, got {type(model).__name__}.")
    for kind in cast("Sequence[object]", per_step):
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(f"per_step takes classes of modules, got {kind!r}.")
    if isinstance(model, FusedTime):
        raise ValueError("fuse_time: the model is fused already.")
    _check_at_once(at_once)
    return FusedTime(model, tuple(per_step), exact, at_once)


def _check_at_once(at_once: object) -> None:
    if isinstance(at_once, bool) or not isinstance(at_once, (int, str)):
        raise TypeError(f"at_once takes a number of steps, 'auto' or 'all', got {type(at_once).__name__}.")
    if at_once not in ("auto", "all") if isinstance(at_once, str) else at_once < 1:
        raise ValueError(f"at_once takes a number of steps >= 1, 'auto' or 'all', got {at_once!r}.")


class _Step(nn.Module):
    """Gives a container whose own forward cannot be followed a forward that can."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stepped = model

    def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
        return self.stepped(input_tensor, state)


class FusedTime(nn.Module):
    """A per-step model over time; made by :func:`fuse_time`.

    It is called as the step is, with time in front: the input is `[T, B, ...]`, states are those before the
    first step. What the step returns comes back over time, `[T, B, ...]`; a state that is a tuple (Norse's)
    comes back as the last one. Hidden states (snnTorch's ``init_hidden``, SpikingJelly's memories) stay in the
    neurons, as in the loop, so sequences may be given in chunks.

    Its children, parameters and buffers *are* those of the model, under the same names: `state_dict` keys too.
    """

    def __init__(self, model: nn.Module, per_step: tuple[type[nn.Module], ...], exact: bool, at_once: AtOnce) -> None:
        super().__init__()
        for shared in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            self.__dict__[shared] = model.__dict__[shared]
        self.__dict__["_model"] = model  # not a child: it would double every name
        self.training = model.training
        self._per_step, self._exact = per_step, exact
        self._at_once: AtOnce = at_once
        self._graphs: dict[Any, StepGraph] = {}
        self._seen: dict[str, Seen] = {}
        self._stepped: tuple[str, ...] = ()
        self._found: tuple[Adapter, ...] | None = None
        self._made_report()  # refuses now what cannot be fused
        self._trace()

    @property
    def _adapters(self) -> tuple[Adapter, ...]:
        if self._found is None:
            self._found = tuple(loaded_adapters())
        return self._found

    def train(self, mode: bool = True) -> Any:
        self.__dict__["_model"].train(mode)
        self.training = mode
        self._trace()
        return self

    def forward(self, x: Tensor, *states: Any, lengths: Any = None, **named: Any) -> Any:
        """The step over time; ``lengths``: how many steps of each sequence count, see :func:`snn_lnm.functional.lnm`.

        Raises:
            ValueError: a wrong shape or state, or a layer that cannot stop at a sequence's end; TypeError.
        """
        if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance] - users need not check types
            raise TypeError(f"the input must be a torch.Tensor, got {type(x).__name__}.")
        if check_dense(x).dim() < 2 or not sizes(x)[0]:
            raise ValueError(f"the input must be [T, B, ...] with T >= 1, got {[*x.shape]}.")
        known = None if lengths is None else check_lengths(lengths, x)
        root = self._root()
        step = self._step(root)
        arguments = self._arguments(root, step, x, states, named)
        self._check_one_step(root, step)
        if step.repeats:
            self._check_memories(root, step)
        runner = Runner(root, step, self._adapters, self._exact, self._at_once, known)
        out = runner(arguments)
        self.__dict__.update(_seen=runner.seen, _stepped=tuple(runner.stepped))  # no modules, for which nn.Module looks
        return out

    def _arguments(self, root: nn.Module, step: StepGraph, x: Tensor, states: Any, named: Any) -> list[Any]:
        if len(step.inputs) == 1 and not (states or named):
            return [x]
        bound = step.signature.bind(x, *states, **named)
        bound.apply_defaults()
        missing = [name for name, value in bound.arguments.items() if value is None]
        if missing and self._step(root, missing).shape != step.shape:
            raise ValueError(
                f"fuse_time: {', '.join(missing)} is None, and then the step of {type(root).__name__} does something "
                "else: give the state before the first step."
            )
        return [*bound.arguments.values()]

    def _root(self) -> nn.Module:
        """What is traced: made once, as a compiler cannot make modules."""
        if "_traced" not in self.__dict__:
            self.__dict__["_traced"] = self._make_root()
        return self.__dict__["_traced"]

    def _make_root(self) -> nn.Module:
        model = self.__dict__["_model"]
        if any(isinstance(model, neurons(adapter)) for adapter in self._adapters):
            raise refusal(f"a bare {type(model).__name__} is a neuron, not a model: put it into torch.nn.Sequential")
        return _Step(model) if any(type(model) in adapter.step for adapter in self._adapters) else model

    def _trace(self) -> None:
        """Now, and without the states that are None by default, too: a compiler that follows a call cannot."""
        root = self._root()
        with contextlib.suppress(CannotTrace):  # the call that needs it says why
            signature = self._step(root).signature
            if none := [name for name, argument in signature.parameters.items() if argument.default is None]:
                self._step(root, none)

    def _step(self, root: nn.Module, none: Sequence[str] = ()) -> StepGraph:
        """The step's graph, traced anew when something that it depends on has changed."""
        modules = modules_of(root)
        training = tuple([module.training for module in modules.values()])
        known = self._graphs.get((training, *none))
        if known is not None and known.has(modules) and known.options == known.options_now():
            return known
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "fuse_time: the model has changed since it was last called, by train() or eval() or in an option: "
                "call it once before it is compiled again."
            )
        step = trace(root, self._adapters, self._per_step, none)
        self._graphs[(training, *none)] = step
        return step

    def _ways(self, step: StepGraph) -> list[tuple[Operation, nn.Module, How, str]]:
        found: list[tuple[Operation, nn.Module, How, str]] = []
        for node in step.layers:
            module, seen = step.called[node.name], self._seen.get(node.target, (None, False))
            how, reason, _ = way_of(module, step.calls[node.name], seen, self._adapters, self._exact)
            if how == "step by step" and isinstance(module, self._per_step):
                reason = "named in per_step"
            found.append((node, module, how, step.leaves.get(module, reason)))
        return found

    def _check_memories(self, root: nn.Module, step: StepGraph) -> None:
        """A layer with a memory of its own that a step calls twice goes back and forth between its places."""
        seen: set[nn.Module] = set()
        for node, module, how, _ in self._ways(step):
            has_none = type(module) in folding.RANDOM or (type(module) in folding.SUMS and not has_hooks(module))
            if how in ("folded", "once") or step.calls[node.name].carried or has_none:
                continue
            if module in seen:
                if place := loop_of(step.followed, lambda inner: holds_neuron(inner, self._adapters)):
                    raise loops(place)
                raise refusal(
                    f"{_path(root, node)} is called twice in a step and may remember: its calls alternate in time"
                )
            seen.add(module)

    def _check_one_step(self, root: nn.Module, step: StepGraph) -> None:
        """A layer may have been switched to whole sequences since the step was traced."""
        for node in step.layers:
            module = step.called[node.name]
            if type(module) not in folding.KNOWN and not isinstance(module, self._per_step):
                check_one_step(_path(root, node), module, self._adapters)

    @property
    def report(self) -> FuseReport:
        """How every layer runs, as things are now; functions only where they ran step by step."""
        return self._made_report()

    def _made_report(self) -> FuseReport:  # an AttributeError in a property would be taken for a missing one
        root = self._root()
        step = self._step(root)
        self._check_one_step(root, step)
        self._check_memories(root, step)
        ways = self._ways(step)
        rows = [FuseRow(_path(root, n), type(m).__name__, how, reason) for n, m, how, reason in ways]
        rows += [FuseRow("", name, "step by step", "a function not known to be pointwise") for name in self._stepped]
        return FuseReport(tuple(rows))

    def __repr__(self) -> str:
        return f"FusedTime of {type(self.__dict__['_model']).__name__}\n{self.report}"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.update(_graphs={}, _found=None)
        return state


def _path(root: nn.Module, node: Operation) -> str:
    return node.target.removeprefix("stepped." if isinstance(root, _Step) else "")
