"""The graph of one time step: which layers it calls, and which of its arguments are whose state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import is_
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from snn_lnm.plugins import Adapter, Call
from snn_lnm.swap import HOOKS

__all__ = [
    "CannotTrace",
    "Operation",
    "StepGraph",
    "Value",
    "has_hooks",
    "modules_of",
    "neurons",
    "pick",
    "refusal",
    "replaced",
    "trace",
]

Leaves = tuple[type[nn.Module], ...]


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


class StepTracer(fx.Tracer):
    """Stops at layers, follows everything else; refuses what a graph would leave out."""

    def __init__(self, adapters: Sequence[Adapter], per_step: Leaves) -> None:
        super().__init__()
        self.adapters = adapters
        self.per_step = per_step
        self.mode = _mode()
        self.followed: list[nn.Module] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, self.per_step) or any(isinstance(m, neurons(a)) for a in self.adapters):
            return True
        if any(type(m) in a.step for a in self.adapters):
            return False
        home = type(m).__module__.split(".")[0]
        if any(home == a.framework for a in self.adapters):
            return not any(isinstance(inner, neurons(a)) for inner in m.modules() for a in self.adapters)
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        if not self.is_leaf_module(m, path):
            if has_hooks(m):
                raise refusal(f"{path} has hooks, which would see no step: remove them, or hook the layers inside")
            self.followed.append(m)
            step = next((a.step[type(m)] for a in self.adapters if type(m) in a.step), None)
            if step is not None:
                forward = partial(step, m)
        return super().call_module(m, forward, args, kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _mode() != self.mode:
            raise refusal("the step switches gradients or autocast on or off, which its graph would forget")
        return super().create_node(*args, **kwargs)


def trace(model: nn.Module, adapters: Sequence[Adapter], per_step: Leaves, none: Sequence[str] = ()) -> StepGraph:
    """The graph of one call of ``model``; arguments called in ``none`` are None.

    Raises:
        ValueError: the step has no such graph, or a state in it that cannot be followed.
    """
    tracer = StepTracer(adapters, per_step)
    with _untouched(model) as constants:
        try:
            tracer.followed.append(model)
            graph = tracer.trace(model, dict.fromkeys(none) if none else None)
        except CannotTrace:
            raise
        except Exception as error:  # whatever the user's forward does to a symbol
            raise refusal(f"torch.fx cannot follow its forward ({type(error).__name__}: {error})") from error
    options = plain_attributes(tracer.followed)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    written = [word for node in graph.nodes if (word := _in_place(node))]
    if written:
        raise refusal(f"the step writes into a tensor ({written[0]}), of which its graph knows nothing: make a new one")
    starred = [node.target for node in inputs if str(node.target).startswith("*")]
    if not inputs or starred:
        raise refusal(f"its forward takes {', '.join(starred) or 'no input'}: name the input and the states")
    states = _states(graph, inputs[1:])
    calls = {node: _call(node, states) for node in graph.nodes if node.op == "call_module"}
    _check_states(graph, states, calls)
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


def _in_place(node: fx.Node) -> str:
    """The name of the function or method of ``node`` if PyTorch's convention says that it works in place."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    called = node.op in ("call_function", "call_method")
    return name if called and (name == "setitem" or (name.endswith("_") and not name.endswith("__"))) else ""


def plain_attributes(modules: Sequence[nn.Module]) -> Any:
    """Numbers, words and switches that a forward may branch on."""
    plain = (bool, int, float, str, type(None))
    return [[(name, value) for name, value in vars(m).items() if isinstance(value, plain)] for m in modules]


class CannotTrace(ValueError):
    """The model's step has no graph; the message says why, and what to do."""


def refusal(reason: str) -> CannotTrace:
    return CannotTrace(
        f"fuse_time: {reason}. A model's forward must be one time step: [B, ...] in, no loop over time, no branch "
        "on values, every state an argument that is returned. Or name the class of the layer that cannot be "
        "followed in per_step=(...): it then runs step by step, as it is."
    )


def neurons(adapter: Adapter) -> Leaves:
    return adapter.neurons


_HOOKS = tuple(name for name in HOOKS if name != "_is_full_backward_hook")


def has_hooks(module: nn.Module) -> bool:
    """Somebody wants to see every call of ``module``."""
    attributes = module.__dict__
    return any(map(attributes.get, _HOOKS))


def _mode() -> tuple[bool, ...]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *map(torch.is_autocast_enabled, ("cpu", "cuda"))


@contextmanager
def _untouched(model: nn.Module) -> Generator[dict[str, Tensor]]:
    """Undo what tracing does to the modules' attributes; refuse the steps that do it; yield fx's constants."""
    constants: dict[str, Tensor] = {}
    assigned: set[str] = set()
    named = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    before = [(path, table, dict(table)) for path, m in named for table in _tables(m)]
    try:
        yield constants
    finally:
        for path, table, old in before:
            for name in [name for name, value in table.items() if value is not old.get(name, table)]:
                value = table.pop(name)
                if table is model.__dict__ and name.startswith("_tensor_constant"):
                    constants[name] = value
                elif isinstance(value, fx.Proxy) or name in old:
                    assigned.add(f"{path}.{name}".lstrip("."))
            table.update(old)
    if assigned:
        raise refusal(f"a step assigns {', '.join(sorted(assigned))}")


def _tables(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module.__dict__, module._parameters, module._buffers  # pyright: ignore[reportPrivateUsage] - torch has no public ones


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


def _check_states(graph: fx.Graph, states: frozenset[fx.Node], calls: dict[fx.Node, Call]) -> None:
    """Every state goes into one layer, and comes back from the step as that layer returned it."""
    output = next(iter(reversed(graph.nodes)))
    for node in states:
        readers = [user for user in node.users if user not in states]
        strange = next((user for user in readers if user is not output and not _takes_state(user, node, calls)), None)
        if strange is not None:
            raise refusal(f"its argument {node.name!r} is used by {strange.name}, not only as the state of a layer")
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
