"""The graph of one time step: which layers it calls, and which of its arguments are whose state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from snn_lnm.fuse.tracer import CannotTrace, Leaves, StepTracer, holds_neuron, loops, refusal, untouched
from snn_lnm.plugins import Adapter, Call

__all__ = ["Operation", "StepGraph", "Value", "modules_of", "pick", "replaced", "trace"]


def pick(state: Any, index: int) -> Any:
    """``state[index]``, and None of None: how a container hands its state on to its layers."""
    if isinstance(state, fx.Proxy):
        return state.tracer.create_proxy("call_function", pick, (state, index), {})
    return None if state is None else state[index]


DERIVATIONS = ("pick", "getitem", "getattr", "_assert_is_none")
"""Functions that take a state out of another, by name; the last one is fx's own."""


@dataclass(frozen=True, eq=False)
class Value:
    """In an operation's arguments: what the one called ``name`` gave."""

    name: str


@dataclass(frozen=True, eq=False)
class Operation:
    """A node of `torch.fx`, in plain Python, which torch.compile follows.

    Attributes:
        name, op, target, args, kwargs: the node's, with a :class:`Value` for each node.
        sources: names of those nodes.
        done: the sources that nobody needs any more: a sequence is memory.
        only: of a layer, the source that is its only argument, if so.
    """

    name: str
    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sources: tuple[str, ...]
    done: tuple[str, ...]
    only: str | None


@dataclass(frozen=True)
class StepGraph:
    """A traced step. Operations are known by their names.

    Attributes:
        operations: in their order; the last one is the output.
        signature: of its forward; the first argument is the input.
        states: operations that are, or are taken from, arguments other than the first.
        calls: of each layer, how the step calls it.
        constants: tensors that the step makes while it is traced.
        followed: the modules whose forward is in the graph.
        options: their plain attributes, when it was made.
        inputs, attributes: names of the operations that are arguments, and of those that are the model's attributes.
        layers: the operations that call one.
        called: what they call.
        repeats: some of them call the same.
        modules: all of the model, by their paths, when it was made.
        leaves: layers that could not be followed and hold no neuron, and why: they run step by step.
    """

    operations: tuple[Operation, ...]
    signature: inspect.Signature
    states: frozenset[str]
    calls: dict[str, Call]
    constants: dict[str, Tensor]
    followed: tuple[nn.Module, ...]
    options: Any
    inputs: tuple[str, ...]
    attributes: tuple[str, ...]
    layers: tuple[Operation, ...]
    called: dict[str, nn.Module]
    repeats: bool
    modules: dict[str, nn.Module]
    leaves: dict[nn.Module, str]

    def has(self, modules: dict[str, nn.Module]) -> bool:
        """``modules`` are those of which it was made."""
        known = self.modules
        return [*known] == [*modules] and all(map(is_, known.values(), modules.values()))

    def options_now(self) -> Any:
        """The plain attributes that the graph holds as constants, as they are now."""
        if torch.compiler.is_compiling():  # PyTorch 2.11 cannot list attributes, only look at those that it is told of
            pairs = zip(self.followed, self.options, strict=True)
            return [[(name, getattr(module, name, None)) for name, _ in known] for module, known in pairs]
        return plain_attributes(self.followed)

    @property
    def shape(self) -> list[tuple[str, Any]]:
        """What the step computes, without where its states come from."""
        return [(n.op, n.target) for n in self.operations if n.op != "placeholder" and n.name not in self.states]


def trace(model: nn.Module, adapters: Sequence[Adapter], per_step: Leaves, none: Sequence[str] = ()) -> StepGraph:
    """The graph of one call of ``model``; arguments called in ``none`` are None.

    A layer that cannot be followed and holds no neuron is not looked into: it runs step by step.

    Raises:
        ValueError: the step has no such graph, or a state in it that cannot be followed.
    """
    leaves: dict[nn.Module, str] = {}
    while True:
        tracer = StepTracer(adapters, per_step, leaves)
        try:
            return _traced(model, tracer, none)
        except CannotTrace as obstacle:
            layer = obstacle.layer
            if layer is None or layer is model or layer in leaves or holds_neuron(layer, adapters):
                if obstacle.reason and (place := tracer.loop()):  # which is what has to change first
                    raise loops(place) from None
                raise
            leaves[layer] = obstacle.reason


def _traced(model: nn.Module, tracer: StepTracer, none: Sequence[str]) -> StepGraph:
    with untouched(model, tracer) as constants:
        graph = tracer.follow(model, none)
    if place := tracer.loop(only_indexed=True):  # a graph of all its rounds would take the batch for time
        raise loops(place)
    options = plain_attributes(tracer.followed)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    starred = [node.target for node in inputs if str(node.target).startswith("*")]
    if not inputs or starred:
        raise refusal(f"its forward takes {', '.join(starred) or 'no input'}: name the input and the states")
    states = _states(graph, inputs[1:])
    calls = {node: _call(node, states) for node in graph.nodes if node.op == "call_module"}
    _check_states(graph, states, calls, tracer.owners)
    how = {node.name: call for node, call in calls.items()}
    taken = frozenset(node.name for node in states)
    modules = modules_of(model)
    called = {node.name: modules[str(node.target)] for node in calls}
    operations, signature = _operations(graph), inspect.signature(model.forward)
    arguments, attributes = (
        tuple(node.name for node in operations if node.op == op) for op in ("placeholder", "get_attr")
    )
    layers = tuple(node for node in operations if node.op == "call_module")
    followed = tuple(tracer.followed)
    return StepGraph(
        operations=operations,
        signature=signature,
        states=taken,
        calls=how,
        constants=constants,
        followed=followed,
        options=options,
        inputs=arguments,
        attributes=attributes,
        layers=layers,
        called=called,
        repeats=len({*called.values()}) < len(called),
        modules=modules,
        leaves=dict(tracer.leaves),
    )


def modules_of(module: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """All modules by their paths, as things are now; a module under several, where `named_modules` names one."""
    found = {prefix: module}
    children = module._modules  # pyright: ignore[reportPrivateUsage] - what PyTorch's own, slower walk reads
    for name, child in children.items():
        if child is not None:
            path = f"{prefix}.{name}" if prefix else name
            found[path] = child
            if child._modules:  # pyright: ignore[reportPrivateUsage]
                found.update(modules_of(child, path))
    return found


def _operations(graph: fx.Graph) -> tuple[Operation, ...]:
    last = {source: node for node in graph.nodes for source in node.all_input_nodes}

    def operation(node: fx.Node) -> Operation:
        args, kwargs = (replaced(tree, fx.Node, lambda n: Value(n.name)) for tree in (node.args, node.kwargs))
        sources = tuple(source.name for source in node.all_input_nodes)
        done = tuple(source.name for source in node.all_input_nodes if last[source] is node)
        is_layer_of_one = node.op == "call_module" and len(args) == 1 and isinstance(args[0], Value) and not kwargs
        only = args[0].name if is_layer_of_one else None
        return Operation(node.name, node.op, node.target, args, kwargs, sources, done, only)

    return tuple(map(operation, graph.nodes))


def replaced(tree: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """The arguments of a node, with ``function`` of each ``kind`` in them."""
    if isinstance(tree, kind):
        return function(tree)
    if isinstance(tree, (tuple, list)):
        parts = [replaced(part, kind, function) for part in cast("Sequence[Any]", tree)]
        return parts if isinstance(tree, list) else tuple(parts)
    if isinstance(tree, dict):
        return {key: replaced(part, kind, function) for key, part in cast("dict[Any, Any]", tree).items()}
    if isinstance(tree, slice):
        return slice(
            *[replaced(part, kind, function) for part in cast("Sequence[Any]", (tree.start, tree.stop, tree.step))]
        )
    return tree


def plain_attributes(modules: Sequence[nn.Module]) -> Any:
    """Numbers, words and switches that a forward may branch on."""
    plain = (bool, int, float, str, type(None))
    return [[(name, value) for name, value in vars(m).items() if isinstance(value, plain)] for m in modules]


def _states(graph: fx.Graph, inputs: Sequence[fx.Node]) -> frozenset[fx.Node]:
    """``inputs`` and what the step takes out of them."""
    states = set(inputs)
    for node in graph.nodes:
        taken = node.op == "call_function" and getattr(node.target, "__name__", "") in DERIVATIONS
        if taken and node.args and node.args[0] in states:
            states.add(node)
    return frozenset(states)


def _call(node: fx.Node, states: frozenset[fx.Node]) -> Call:
    """How the step calls the layer of ``node``; its arguments after the first are states."""
    if not node.args:
        return Call(0, False, True)
    given = [*node.args[1:], *node.kwargs.values()]
    carried = bool(given) and all(isinstance(value, fx.Node) and value in states for value in given)
    later = [user for item in node.users if _index(item) not in (None, 0) for user in item.users]
    return Call(len(given), carried, any(user.op != "output" for user in later))


def _index(node: fx.Node) -> int | None:
    is_item = node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"
    return node.args[1] if is_item and isinstance(node.args[1], int) else None


def _check_states(
    graph: fx.Graph, states: frozenset[fx.Node], calls: dict[fx.Node, Call], owners: dict[fx.Node, nn.Module]
) -> None:
    """Every state goes into one layer, and comes back from the step as that layer returned it."""
    output = next(iter(reversed(graph.nodes)))
    for node in states:
        readers = [user for user in node.users if user not in states]
        strange = next((user for user in readers if user is not output and not _takes_state(user, node, calls)), None)
        if strange is not None:
            told = f"its argument {node.name!r} is used by {strange.name}, not only as the state of a layer"
            raise refusal(told, owners.get(strange), "computes with a state by itself")
        if len([user for user in readers if user is not output]) > 1:
            raise refusal(f"its argument {node.name!r} is the state of {len(readers)} layers at once")
    for node, call in calls.items():
        if call.carried:
            items = sorted((item for item in node.users if _index(item) is not None), key=lambda n: _index(n) or 0)
            following = items[-call.states :] or [node]
            if not set(following) <= set(output.all_input_nodes):
                raise refusal(f"it does not return the next state of {node.target} as that layer gave it")


def _takes_state(user: fx.Node, state: fx.Node, calls: dict[fx.Node, Call]) -> bool:
    return user in calls and calls[user].carried and state not in user.args[:1]
