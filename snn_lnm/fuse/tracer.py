"""How one call of a model is followed, and what is refused on the way."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from snn_lnm.equations import EquationNeuron
from snn_lnm.fuse.obstacles import Fault, fault_of, in_own_gradient, loop_in_frames, loop_of, user_frames
from snn_lnm.neuron import LNM
from snn_lnm.plugins import Adapter
from snn_lnm.swapping.counterpart import HOOKS

__all__ = [
    "CannotTrace",
    "Leaves",
    "StepTracer",
    "check_one_step",
    "has_hooks",
    "holds_neuron",
    "loops",
    "neurons",
    "refusal",
    "untouched",
]

Leaves = tuple[type[nn.Module], ...]


_WORDS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")
IN_PLACE = {"setitem", "__setitem__", *[f"__i{word}__" for word in _WORDS]}
"""Functions and methods, beside those whose names end with `_`."""


class CannotTrace(ValueError):
    """The model's step has no graph; the message says why, and what to do.

    Attributes:
        layer: what would have to run step by step instead; None if that would not help.
        reason: why, for the report.
    """

    def __init__(self, message: str, layer: nn.Module | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.layer, self.reason = layer, reason


def refusal(reason: str, layer: nn.Module | None = None, short: str = "") -> CannotTrace:
    """``short``: the reason as the report of the layer has it."""
    message = (
        f"fuse_time: {reason}. A model's forward must be one time step: [B, ...] in, no loop over time, no branch "
        "on values, every state an argument that is returned. Or name the class of the layer that cannot be "
        "followed in per_step=(...): it then runs step by step, as it is."
    )
    return CannotTrace(message, layer, short or reason)


def loops(place: str) -> CannotTrace:
    return CannotTrace(
        f"fuse_time: its forward loops over time ({place}): fuse_time takes one step; move the loop's body into a "
        "forward of its own, [B, ...] in, every state an argument that is returned, and fuse that module. "
        'docs/fuse.md, "A forward that loops over time", shows it.'
    )


def neurons(adapter: Adapter) -> Leaves:
    return adapter.neurons


def is_over_time(module: nn.Module, adapters: Sequence[Adapter]) -> bool:
    """``module`` takes whole sequences itself."""
    return isinstance(module, (LNM, EquationNeuron)) or any(adapter.over_time(module) for adapter in adapters)


def holds_neuron(module: nn.Module, adapters: Sequence[Adapter]) -> bool:
    kinds = (LNM, EquationNeuron, *[kind for adapter in adapters for kind in neurons(adapter)])
    return any(isinstance(inner, kinds) or is_over_time(inner, adapters) for inner in module.modules())


def check_one_step(path: str, module: nn.Module, adapters: Sequence[Adapter]) -> None:
    if is_over_time(module, adapters):
        raise CannotTrace(
            f"fuse_time: this net takes time itself ({path}, {type(module).__name__}, takes [T, B, ...]): call it with "
            "[T, B, ...] directly. fuse_time is for a net whose layers and neurons take one step, [B, ...]."
        )


_HOOKS = tuple(name for name in HOOKS if name != "_is_full_backward_hook")


def has_hooks(module: nn.Module) -> bool:
    """Somebody wants to see every call of ``module``."""
    attributes = module.__dict__
    return any(map(attributes.get, _HOOKS))


class StepTracer(fx.Tracer):
    """Stops at layers, follows everything else; refuses what a graph would leave out.

    Attributes:
        followed: the modules whose forward is in the graph, from the model on.
        stack: those that are running.
        owners: of each node, the module whose forward made it.
    """

    def __init__(self, adapters: Sequence[Adapter], per_step: Leaves, leaves: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.adapters = adapters
        self.per_step = per_step
        self.leaves = leaves
        self.mode = _mode()
        self.followed: list[nn.Module] = []
        self.stack: list[nn.Module] = []
        self.owners: dict[fx.Node, nn.Module] = {}

    def follow(self, model: nn.Module, none: Sequence[str]) -> fx.Graph:
        """The graph of one call of ``model``.

        Raises:
            CannotTrace: its forward does what no such graph holds.
        """
        self.followed.append(model)
        self.stack.append(model)
        try:
            return self.trace(model, dict.fromkeys(none) if none else None)
        except CannotTrace:
            raise
        except Exception as error:  # whatever the user's forward does to a symbol
            raise self._explained(error) from (None if isinstance(error, (Fault, TraceError)) else error)

    def _explained(self, error: Exception) -> CannotTrace:
        layer = self.stack[-1]
        frames = user_frames(error, [adapter.framework for adapter in self.adapters])
        if place := loop_in_frames(frames, self.holds_neuron) or self.loop():
            return loops(place)
        if in_own_gradient(frames):
            error = Fault("has a gradient of its own (a torch.autograd.Function)")
        fault = fault_of(error, frames)
        can_step = "writes into" not in fault and not self.holds_neuron(layer)
        words = f"{type(layer).__name__}.forward {fault}"
        return refusal(words, layer if can_step else None, f"cannot be followed: it {fault}")

    def loop(self, only_indexed: bool = False) -> str:
        """Where the step loops over time, as far as its source tells; empty if it does not."""
        return loop_of(self.followed, self.holds_neuron, only_indexed)

    def holds_neuron(self, module: nn.Module) -> bool:
        return holds_neuron(module, self.adapters)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m in self.leaves or isinstance(m, (torch.jit.ScriptModule, *self.per_step)):
            return True
        if any(isinstance(m, neurons(a)) for a in self.adapters):
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
        path = self.path_of_module(m).removeprefix("stepped.")
        if not isinstance(m, self.per_step):
            check_one_step(path, m, self.adapters)
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        if has_hooks(m):
            told = "has hooks, which would see no step: remove them, or hook the layers inside"
            layer = None if self.holds_neuron(m) else m
            raise refusal(f"{path} {told}", layer, "its hooks see every step")
        self.followed.append(m)
        step = next((a.step[type(m)] for a in self.adapters if type(m) in a.step), None)
        if step is not None:
            forward = partial(step, m)
        depth = len(self.stack)
        self.stack.append(m)  # stays there if its forward fails
        out = super().call_module(m, forward, args, kwargs)
        del self.stack[depth:]
        return out

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _mode() != self.mode:
            raise Fault("switches gradients or autocast on or off, which its graph would forget")
        node = super().create_node(*args, **kwargs)
        self.owners[node] = self.stack[-1]
        if word := _in_place(node):
            raise Fault(f"writes into a tensor ({word}), of which its graph knows nothing: make a new one")
        return node


def _in_place(node: fx.Node) -> str:
    """The name of the function or method of ``node`` if PyTorch's convention says that it works in place."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    called = node.op in ("call_function", "call_method")
    return name if called and (name in IN_PLACE or (name.endswith("_") and not name.endswith("__"))) else ""


def _mode() -> tuple[bool, ...]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *map(torch.is_autocast_enabled, ("cpu", "cuda"))


@contextmanager
def untouched(model: nn.Module, tracer: StepTracer) -> Generator[dict[str, Tensor]]:
    """Undo what tracing does to the modules' attributes; refuse the steps that do it; yield fx's constants."""
    constants: dict[str, Tensor] = {}
    assigned: dict[str, nn.Module] = {}
    named = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    before = [(path, m, table, dict(table)) for path, m in named for table in _tables(m)]
    try:
        yield constants
    finally:
        for path, m, table, old in before:
            for name in [name for name, value in table.items() if value is not old.get(name, table)]:
                value = table.pop(name)
                if table is model.__dict__ and name.startswith("_tensor_constant"):
                    constants[name] = value
                elif isinstance(value, fx.Proxy) or name in old:
                    assigned[f"{path}.{name}".lstrip(".")] = m
            table.update(old)
    if assigned:
        if place := tracer.loop():
            raise loops(place)
        names, layer = ", ".join(sorted(assigned)), next(iter(assigned.values()))
        can_step = not tracer.holds_neuron(layer)
        raise refusal(f"a step assigns {names}", layer if can_step else None, f"cannot be followed: it assigns {names}")


def _tables(module: nn.Module) -> tuple[dict[str, Any], ...]:
    if isinstance(module, torch.jit.ScriptModule):  # which no tracing reaches
        return ()
    return module.__dict__, module._parameters, module._buffers  # pyright: ignore[reportPrivateUsage] - torch has no public ones
