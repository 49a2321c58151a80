"""Runs a step's graph over a whole sequence, node by node: folded, fused, or step by step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snn_lnm.engines.held import expanded, held
from snn_lnm.fuse import blocks, folding
from snn_lnm.fuse.graph import DERIVATIONS, Operation, StepGraph, Value, has_hooks, neurons, replaced
from snn_lnm.plugins import Adapter, Call, CannotFuse

__all__ = ["AtOnce", "Runner", "Way", "way_of"]

ALIGNMENT = 64
"""Bytes, PyTorch's on CPUs."""

AtOnce = Literal["auto", "all"] | int
How = Literal["once", "folded", "fused over T", "step by step"]


Seen = tuple[int | None, bool]
"""What a run found out about a layer's input: the dimensions of a step, and whether all steps are the same."""
Way = tuple[How, str, Callable[..., Any] | None]
"""How one layer runs over time, why so, and what does it if not T calls of the layer: that takes `[T, B, ...]` if it is
fused over T, `[T·B, ...]` if folded, and `[B, ...]` if it runs once."""


@dataclass(eq=False)
class OverTime:
    """A tensor of every step, `[T, ...]`; ``is_input``: the model's own input, of which the loop takes slices."""

    tensor: Tensor
    is_input: bool = False


@dataclass(eq=False)
class Steps:
    """What is no tensor, of every step; the last one is what a step hands on."""

    values: list[Any]


def way_of(module: nn.Module, call: Call, seen: Seen, adapters: Sequence[Adapter], exact: bool) -> Way:
    """How ``module`` runs, called as ``call``, on inputs as ``seen``."""
    if has_hooks(module):
        return "step by step", "its hooks see every step", None
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
    ) -> None:
        self.root, self.step = root, step
        self.adapters, self.exact, self.at_once = adapters, exact, at_once
        self.seen: dict[str, Seen] = {}
        self.stepped: list[str] = []
        self.largest = 0  # bytes of one step; 0: nobody asks
        self.states: dict[str, Any] = {}
        self.same: dict[str, Any] = {}  # values that do not change over time, and are computed once

    def __call__(self, arguments: Sequence[Any]) -> Any:
        x, *states = arguments
        if (step := held(x)) is not None:
            self.same[self.step.inputs[0]] = step
        return _result(_joined([self._block(part, states) for part in self._blocks(x)]))

    def _blocks(self, x: Tensor) -> Iterator[Tensor]:
        """Parts of ``x``; how long depends on nothing but the sizes of tensors."""
        steps = x.shape[0] if isinstance(self.at_once, str) else self.at_once
        if self.at_once == "auto" and x.device.type == "cpu":  # a GPU waits for calls, not for its caches
            same = bool(self.same)
            first = blocks.first_steps(x, same)
            if first < x.shape[0]:
                known = blocks.bytes_of_a_step(self.step, x, same, self.adapters)
                if known is None:
                    head, x = _parts(x, [first, x.shape[0] - first])
                    self.largest = 1
                    yield head
                steps = blocks.steps_of(known or self.largest)
        if 0 < x.shape[0] <= steps:
            yield x
        elif x.shape[0]:
            yield from _parts(x, steps)  # whose gradient is put together once, not a slice at a time

    def _block(self, x: Tensor, states: Sequence[Any]) -> Any:
        """What the step returns over the time of ``x``; goes on from the last block's states, if there was one."""
        self.steps = x.shape[0]
        self.stepped = []
        values: dict[str, Any] = dict(zip(self.step.inputs, [OverTime(x, is_input=True), *states], strict=True))
        values.update(self.same)
        *nodes, output = self.step.operations
        for node in nodes:
            if node.name not in values:
                values[node.name] = self._value(node, values)
            if self.largest:
                self.largest = max(self.largest, *map(_bytes_of_a_step, _leaves(values[node.name])), 1)
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
        if is_new and not _over_time(value):
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
            self.states[name] = _last(out)
        return out

    def _layer_over_time(self, node: Operation, args: Any, kwargs: Any) -> Any:
        module, call = self.step.called[node.name], self.step.calls[node.name]
        given, *rest = args or (None,)
        same = not isinstance(given, OverTime)
        x: Any = given if same else given.tensor
        if not isinstance(x, Tensor) or ((rest or kwargs) and _over_time((rest, kwargs))):
            return self._step_by_step(module, args, kwargs, call)
        self.seen[node.target] = seen = (x.dim() if same else x.dim() - 1, same)
        how, _, run = way_of(module, call, seen, self.adapters, self.exact)
        if run is None:
            return self._step_by_step(module, args, kwargs, call)
        if how == "once":
            return run(x, *rest, **kwargs)
        if how == "folded":
            out = folding.fold(run, x, *rest, **kwargs)
            return OverTime(out) if type(out) is Tensor else _collect_folded(out)
        return _fused_result(run(expanded(x, self.steps) if same else x, *rest, **kwargs))

    def _function(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(target, "__name__", str(target))
        function = target if callable(target) else _method(str(target))
        if not _over_time((args, kwargs)):
            folds = bool(args) and isinstance(args[0], Tensor) and folding.FOLDED_FUNCTIONS.get(target) == args[0].dim()
            if folds or target in folding.POINTWISE or name in folding.OF_ONE_STEP or name in DERIVATIONS:
                return function(*args, **kwargs)
        elif name == "getitem" and isinstance(args[0], (tuple, list)):
            return function(*args, **kwargs)
        elif isinstance(args[0], OverTime) and not _over_time((args[1:], kwargs)):
            x, *rest = args
            if name in folding.OF_ONE_STEP or (name == "getattr" and rest[0] in folding.OF_ONE_STEP):
                return function(x.tensor[0], *rest, **kwargs)
            if folding.FOLDED_FUNCTIONS.get(target) == x.tensor.dim() - 1 and not (
                self.exact and target in folding.SUMS
            ):
                return _collect_folded(folding.fold(function, x.tensor, *rest, **kwargs))
        indexed_by_values = name == "getitem" and _over_time(args[1:])
        if target in folding.POINTWISE and not indexed_by_values and not _steps((args, kwargs)):
            out = folding.in_one_call(function, lambda value: isinstance(value, OverTime), args, kwargs)
            return _collect_folded(out)
        self.stepped.append(name)
        return self._step_by_step(function, args, kwargs, Call(0, False, True))

    def _step_by_step(self, function: Callable[..., Any], args: Any, kwargs: Any, call: Call) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        unrolled = [_unrolled(leaf, self.steps) for leaf in leaves]
        results: list[Any] = []
        for values in zip(*unrolled, strict=True) if unrolled else ((),) * self.steps:
            inner_args, inner_kwargs = pytree.tree_unflatten(list(values), spec)
            if call.carried and results:
                inner_args, inner_kwargs = _carry(inner_args, inner_kwargs, results[-1], call.states)
            results.append(function(*inner_args, **inner_kwargs))
        return _collect(results)


def _given(node: Operation, values: dict[str, Any]) -> tuple[Any, Any]:
    """The arguments of ``node``."""

    def value(source: Value) -> Any:
        return values[source.name]

    return replaced(node.args, Value, value), replaced(node.kwargs, Value, value)


def _method(name: str) -> Callable[..., Any]:
    def call(value: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(value, name)(*args, **kwargs)

    return call


def _leaves(tree: Any) -> list[Any]:
    return [tree] if isinstance(tree, (OverTime, Tensor)) else pytree.tree_leaves(tree)


def _over_time(tree: Any) -> bool:
    return any([isinstance(leaf, (OverTime, Steps)) for leaf in _leaves(tree)])


def _steps(tree: Any) -> bool:
    return any(isinstance(leaf, Steps) for leaf in _leaves(tree))


def _unrolled(leaf: Any, steps: int) -> Sequence[Any]:
    if isinstance(leaf, OverTime):
        slices = leaf.tensor.unbind(0)
        return slices if leaf.is_input else [*map(_aligned, slices)]
    return leaf.values if isinstance(leaf, Steps) else (leaf,) * steps


def _aligned(value: Tensor) -> Tensor:
    """``value`` where a step's own result would lie: a BLAS may add up in another order at another alignment."""
    if torch.compiler.is_compiling():  # a compiler decides by itself where things lie
        return value
    return value.clone() if value.storage_offset() * value.element_size() % ALIGNMENT else value


def _parts(x: Tensor, steps: int | list[int]) -> tuple[Tensor, ...]:
    return cast("tuple[Tensor, ...]", x.split(steps))  # pyright: ignore[reportUnknownMemberType] - torch's is untyped


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


def _collect(results: list[Any]) -> Any:
    """The results of all steps as values over time."""
    first = results[0]
    if isinstance(first, Tensor):
        return OverTime(torch.stack(results))
    if type(first) in (tuple, list):
        return type(first)(_collect([*values]) for values in zip(*results, strict=True))
    return Steps(results)


def _collect_folded(out: Any) -> Any:
    return OverTime(out) if isinstance(out, Tensor) else pytree.tree_map_only(Tensor, OverTime, out)


def _fused_result(out: Any) -> Any:
    """Tensors are over time; a state that is a tuple is the last one."""
    if isinstance(out, Tensor):
        return OverTime(out)
    return tuple([OverTime(value) if isinstance(value, Tensor) else Steps([value]) for value in out])


def _bytes_of_a_step(value: Any) -> int:
    return value.tensor.nbytes // len(value.tensor) if isinstance(value, OverTime) else 0


def _last(value: Any) -> Any:
    """What a layer returned at the last step."""
    if isinstance(value, OverTime):
        return _aligned(value.tensor[-1])
    if isinstance(value, Steps):
        return value.values[-1]
    return type(value)(map(_last, value)) if type(value) in (tuple, list) else value


def _joined(blocks: Sequence[Any]) -> Any:
    """The step's results in all blocks as one."""

    def join(first: Any, *later: Any) -> Any:
        if isinstance(first, OverTime) and later:
            return OverTime(torch.cat([part.tensor for part in (first, *later)]))
        return later[-1] if later else first

    return pytree.tree_map(join, *blocks) if len(blocks) > 1 else blocks[0]


def _result(value: Any) -> Any:
    """What the step returns, over time."""
    if isinstance(value, OverTime):
        return value.tensor
    if isinstance(value, Steps):
        return value.values[-1]
    same: object = value  # isinstance() on it leaves `value` as it is: a dict, say, of any things, not of unknown ones
    if isinstance(same, dict):
        return {key: _result(inner) for key, inner in value.items()}
    if isinstance(same, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_result, value))
    if isinstance(same, (tuple, list)):
        return (tuple if isinstance(same, tuple) else list)(map(_result, value))
    return value
