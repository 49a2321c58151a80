"""Runs a step's graph over a whole sequence, node by node: folded, fused, or step by step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snn_lnm.fuse import blocks, folding, padding
from snn_lnm.fuse.graph import DERIVATIONS, Operation, StepGraph, Value, replaced
from snn_lnm.fuse.tracer import has_hooks, neurons
from snn_lnm.fuse.values import (
    OverTime,
    bytes_of_a_step,
    collected,
    collected_folded,
    fused_result,
    has_objects,
    has_steps,
    joined,
    last,
    leaves,
    mapped,
    result_of,
    tensors_over_time,
    unrolled,
)
from snn_lnm.held import expanded, held
from snn_lnm.lengths import Lengths, within
from snn_lnm.plugins import Adapter, Call, CannotFuse
from snn_lnm.tracing import sizes

__all__ = ["AtOnce", "Runner", "Way", "way_of"]

AtOnce = Literal["auto", "all"] | int
How = Literal["once", "folded", "fused over T", "step by step"]


Seen = tuple[int | None, bool]
"""What a run found out about a layer's input: the dimensions of a step, and whether all steps are the same."""
Way = tuple[How, str, Callable[..., Any] | None]
"""How one layer runs over time, why so, and what does it if not T calls of the layer: that takes `[T, B, ...]` if it is
fused over T, `[T·B, ...]` if folded, and `[B, ...]` if it runs once."""


def way_of(module: nn.Module, call: Call, seen: Seen, adapters: Sequence[Adapter], exact: bool) -> Way:
    """How ``module`` runs, called as ``call``, on inputs as ``seen``."""
    if has_hooks(module):
        return "step by step", "its hooks see every step", None
    if isinstance(module, torch.jit.ScriptModule):
        return "step by step", "scripted: what it does, and keeps, is not to be seen", None
    dims, same = seen
    if type(module) not in folding.KNOWN:
        way = _way_of_neuron(module, call, adapters)
        if way is not None:
            return way
    try:
        kind = folding.kind_of(module, adapters)
    except CannotFuse as obstacle:
        return "step by step", str(obstacle), None
    if reason := folding.reason_to_step(kind, module, dims):
        return "step by step", reason, None
    if same:
        return "once", "its input is the same at every step", folding.call_of(kind, module)
    if exact and kind in folding.SUMS:
        return "step by step", "exact=True: its sums may round otherwise on a larger batch", None
    return "folded", "", folding.call_of(kind, module)


def _way_of_neuron(module: nn.Module, call: Call, adapters: Sequence[Adapter]) -> Way | None:
    """None if it is no neuron of theirs."""
    kind = type(module)
    for adapter in adapters:
        if kind in adapter.fuse:
            try:
                return "fused over T", "", adapter.fuse[kind](module, call)
            except CannotFuse as obstacle:
                return "step by step", str(obstacle), None
    for adapter in adapters:
        if isinstance(module, neurons(adapter)):
            can_swap = kind in adapter.replace
            return "step by step", "native: snn_lnm.swap first" if can_swap else "a neuron without a fused form", None
    return None


class Runner:
    """Runs of ``step`` over time, ``at_once`` steps in a block."""

    def __init__(
        self,
        root: nn.Module,
        step: StepGraph,
        adapters: Sequence[Adapter],
        exact: bool,
        at_once: AtOnce,
        lengths: Lengths | None = None,
    ) -> None:
        self.root, self.step = root, step
        self.lengths = lengths  # what is left of each sequence where the block begins
        self.adapters, self.exact, self.at_once = adapters, exact, at_once
        self.seen: dict[str, Seen] = {}
        self.stepped: list[str] = []
        self.largest = 0  # bytes of one step; 0: nobody asks
        self.states: dict[str, Any] = {}
        self.same: dict[str, Any] = {}  # values that do not change over time, and are computed once

    def __call__(self, arguments: Sequence[Any]) -> Any:
        x, *states = arguments
        if self.lengths is not None:
            return self._padded(x, states, self.lengths)
        if (step := held(x)) is not None:
            self.same[self.step.inputs[0]] = step
        return result_of(joined([self._block(part, states) for part in self._blocks(x)]))

    def _padded(self, x: Tensor, states: Sequence[Any], lengths: Lengths) -> Any:
        found: list[Any] = []
        with padding.restored(self.step.called.values()):
            start, known = 0, padding.repeated(x[: max(1, *lengths)], lengths)
            for part in self._blocks(known):
                self.lengths = within(lengths, start, part.shape[0])
                found.append(self._block(part, states))
                start += part.shape[0]
            out = mapped(joined(found), lambda value: padding.trimmed(value, lengths, x.shape[0]))
        return result_of(out)

    def _blocks(self, x: Tensor) -> Iterator[Tensor]:
        """Parts of ``x``; how long depends on nothing but the sizes of tensors."""
        length = sizes(x)[0]
        steps = length if isinstance(self.at_once, str) else self.at_once
        if self.at_once == "auto" and x.device.type == "cpu":  # a GPU waits for calls, not for its caches
            same = bool(self.same)
            first = blocks.first_steps(x, same)
            if first < length:
                known = blocks.bytes_of_a_step(self.step, x, same, self.adapters)
                if known is None:
                    head, x = _parts(x, [first, length - first])
                    length -= first
                    self.largest = 1
                    yield head
                steps = blocks.steps_of(known or self.largest)
        if length <= steps:
            yield x
        else:
            yield from _parts(x, steps)  # whose gradient is put together once, not a slice at a time

    def _block(self, x: Tensor, states: Sequence[Any]) -> Any:
        """What the step returns over the time of ``x``; goes on from the last block's states, if there was one."""
        self.steps = sizes(x)[0]
        self.stepped = []
        values: dict[str, Any] = dict(zip(self.step.inputs, [OverTime(x, is_input=True), *states], strict=True))
        values.update(self.same)
        *nodes, output = self.step.operations
        for node in nodes:
            if node.name not in values:
                values[node.name] = self._value(node, values)
            if self.largest:
                self.largest = max(self.largest, *map(bytes_of_a_step, leaves(values[node.name])), 1)
            for source in node.done:
                del values[source]
        return replaced(output.args[0], Value, lambda value: self._returned(value.name, values[value.name]))

    def _value(self, node: Operation, values: dict[str, Any]) -> Any:
        if node.only is not None:
            value = self._layer_over_time(node, (values[node.only],), {})
        elif node.op == "call_module":
            value = self._layer(node, values)
        elif node.op == "get_attr":
            value = self._attribute(str(node.target))
        else:
            value = self._function(node.target, *_given(node, values))
        is_new = type(value) is not OverTime and (node.op == "get_attr" or self._is_of_the_same(node))
        if is_new and not has_steps(value):
            self.same[node.name] = value
        return value

    def _is_of_the_same(self, node: Operation) -> bool:
        return bool(self.same) and any([source in self.same for source in node.sources])

    def _returned(self, source: str, value: Any) -> Any:
        """What the step returns: over time, unless it is an attribute of the model."""
        if source not in self.same or source in self.step.attributes:
            return value
        return pytree.tree_map_only(Tensor, lambda step: OverTime(torch.stack([step] * self.steps)), value)

    def _attribute(self, target: str) -> Any:
        if target in self.step.constants:
            return self.step.constants[target]
        value: Any = self.root
        for name in target.split("."):
            value = getattr(value, name)
        return value

    def _layer(self, node: Operation, values: dict[str, Any]) -> Any:
        name, call = node.name, self.step.calls[node.name]
        args, kwargs = _given(node, values)
        if len(kwargs) > 1:
            kwargs = _in_order(self.step.called[name], kwargs)
        if name in self.states:
            args, kwargs = _carry(args, kwargs, self.states[name], call.states)
        out = self._layer_over_time(node, args, kwargs)
        if call.carried:
            state = last(out)
            self.states[name] = state if self.lengths is None else self._lasting(state, args, kwargs, call.states)
        return out

    def _lasting(self, last: Any, args: Any, kwargs: Any, states: int) -> Any:
        """``last``, with the states that a layer was given for the sequences that have no step here."""
        assert self.lengths is not None
        values = [*(last if type(last) in (tuple, list) else (last,))]
        given = [*args[1:], *kwargs.values()]
        values[-states:] = [
            padding.living(self.lengths, 0, new, old) for new, old in zip(values[-states:], given, strict=True)
        ]
        return tuple(values) if type(last) in (tuple, list) else values[0]

    def _layer_over_time(self, node: Operation, args: Any, kwargs: Any) -> Any:
        module, call = self.step.called[node.name], self.step.calls[node.name]
        given, *rest = args or (None,)
        same = not isinstance(given, OverTime)
        x: Any = given if same else given.tensor
        if not isinstance(x, Tensor) or ((rest or kwargs) and has_steps((rest, kwargs))):
            if self.lengths is not None:
                padding.check_layer(node.target, module, call, None, None, self.adapters)
            return self._step_by_step(module, args, kwargs, call)
        self.seen[node.target] = seen = (x.dim() if same else x.dim() - 1, same)
        how, _, run = way_of(module, call, seen, self.adapters, self.exact)
        if self.lengths is not None:
            padding.check_layer(node.target, module, call, seen[0], run, self.adapters)
        if run is None:
            return self._step_by_step(module, args, kwargs, call)
        if how == "once":
            return run(x, *rest, **kwargs)
        if how == "folded":
            out = folding.fold(run, x, *rest, **kwargs)
            return OverTime(out) if type(out) is Tensor else collected_folded(out)
        x = expanded(x, self.steps) if same else x
        if self.lengths is None:
            return fused_result(run(x, *rest, **kwargs))
        lengths, run = self.lengths, padding.fused_run(node.target, run)
        out = fused_result(run(x, *rest, lengths=lengths, **kwargs))
        return mapped(out, lambda value: padding.repeated(value, lengths))

    def _function(self, target: Any, args: Any, kwargs: Any) -> Any:
        out = self._function_over_time(target, args, kwargs)
        name = getattr(target, "__name__", str(target))
        is_item = name == "getitem" and isinstance(args[0], (tuple, list))
        of_one_step = name in folding.OF_ONE_STEP or (name == "getattr" and args[1] in folding.OF_ONE_STEP)
        if self.lengths is not None and not (is_item or of_one_step):
            padding.check_function(name, args, kwargs, *map(tensors_over_time, ((args, kwargs), out)))
        return out

    def _function_over_time(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(target, "__name__", str(target))
        function = target if callable(target) else _method(str(target))
        if not has_steps((args, kwargs)):
            folds = bool(args) and isinstance(args[0], Tensor) and folding.FOLDED_FUNCTIONS.get(target) == args[0].dim()
            if folds or target in folding.POINTWISE or name in folding.OF_ONE_STEP or name in DERIVATIONS:
                return function(*args, **kwargs)
        elif name == "getitem" and isinstance(args[0], (tuple, list)):
            return function(*args, **kwargs)
        elif isinstance(args[0], OverTime) and not has_steps((args[1:], kwargs)):
            x, *rest = args
            if name in folding.OF_ONE_STEP or (name == "getattr" and rest[0] in folding.OF_ONE_STEP):
                return function(x.tensor[0], *rest, **kwargs)
            if folding.FOLDED_FUNCTIONS.get(target) == x.tensor.dim() - 1 and not (
                self.exact and target in folding.SUMS
            ):
                return collected_folded(folding.fold(function, x.tensor, *rest, **kwargs))
        indexed_by_values = name == "getitem" and has_steps(args[1:])
        if target in folding.POINTWISE and not indexed_by_values and not has_objects((args, kwargs)):
            out = folding.in_one_call(function, lambda value: isinstance(value, OverTime), args, kwargs)
            return collected_folded(out)
        self.stepped.append(name)
        return self._step_by_step(function, args, kwargs, Call(0, False, True))

    def _step_by_step(self, function: Callable[..., Any], args: Any, kwargs: Any, call: Call) -> Any:
        flat, spec = pytree.tree_flatten((args, kwargs))
        by_step = [unrolled(leaf, self.steps) for leaf in flat]
        results: list[Any] = []
        marks = _marks(by_step) if isinstance(function, nn.Module) and function in self.step.leaves else []
        for values in zip(*by_step, strict=True) if by_step else ((),) * self.steps:
            inner_args, inner_kwargs = pytree.tree_unflatten(list(values), spec)
            if call.carried and results:
                inner_args, inner_kwargs = _carry(inner_args, inner_kwargs, results[-1], call.states)
            result = function(*inner_args, **inner_kwargs)
            if call.carried and self.lengths is not None:
                if results:
                    result = padding.living(self.lengths, len(results), result, results[-1])
                else:
                    result = self._lasting(result, inner_args, inner_kwargs, call.states)
            results.append(result)
        if any([_is_written(*mark) for mark in marks]):
            raise RuntimeError(
                f"{type(function).__name__} writes into what it is given, which others may read: let it make a new one."
            )
        return collected(results)


def _given(node: Operation, values: dict[str, Any]) -> tuple[Any, Any]:
    """The arguments of ``node``."""

    def value(source: Value) -> Any:
        return values[source.name]

    return replaced(node.args, Value, value), replaced(node.kwargs, Value, value)


def _method(name: str) -> Callable[..., Any]:
    def call(value: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(value, name)(*args, **kwargs)

    return call


def _parts(x: Tensor, steps: int | list[int]) -> tuple[Tensor, ...]:
    return cast("tuple[Tensor, ...]", x.split(steps))  # pyright: ignore[reportUnknownMemberType] - torch's is untyped


def _marks(by_step: Sequence[Sequence[Any]]) -> list[tuple[Tensor, Tensor | int]]:
    """What tells later whether the tensors were written into; nothing for a compiler, whose slices are views."""
    if torch.compiler.is_compiling():
        return []
    tensors = [leaf for values in by_step for leaf in values if isinstance(leaf, Tensor)]
    return [(x, x.clone() if x.is_inference() else x._version) for x in tensors]


def _is_written(x: Tensor, mark: Tensor | int) -> bool:
    return bool((x.ne(mark) & (x.eq(x) | mark.eq(mark))).any()) if isinstance(mark, Tensor) else x._version != mark


def _in_order(module: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """As its forward declares them, which is the order of the states that it returns."""
    declared = [*inspect.signature(module.forward).parameters]
    return dict(
        sorted(kwargs.items(), key=lambda item: declared.index(item[0]) if item[0] in declared else len(declared))
    )


def _carry(args: Any, kwargs: Any, result: Any, states: int) -> tuple[Any, Any]:
    """The arguments of the next step: the last ``states`` results are the states."""
    following = [*(result if type(result) in (tuple, list) else (result,))][-states:]
    positional = len(args) - 1
    return (args[0], *following[:positional]), dict(zip(kwargs, following[positional:], strict=True))
