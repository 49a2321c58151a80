"""Symbols that stand for tensors while a step runs, and the graph of operations that this leaves behind.

A step written for tensors runs on symbols as it is: arithmetic, comparisons, `torch.where`, `detach`, spikes and the
functions of `FUNCTIONS`. Each operation is a node of the graph, in the order in which the step performs them; the same
operation on the same nodes is the same node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch

from snn_lnm.surrogate import Surrogate

__all__ = ["FUNCTIONS", "Graph", "Symbol", "Vector"]

FUNCTIONS = ("abs", "exp", "log", "sqrt", "tanh", "sigmoid", "atan", "sin", "cos")
"""Of one argument, by the names they have in PyTorch."""
_CONDITIONS = {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"}


class Graph:
    """The nodes of one trace, each once."""

    def __init__(self) -> None:
        self.nodes: list[Symbol] = []
        self._known: dict[Any, Symbol] = {}

    def make(self, operation: str, *arguments: Symbol, value: Any = None) -> Symbol:
        key = (operation, *(argument.index for argument in arguments), _key(value))
        if key not in self._known:
            self._known[key] = Symbol(self, operation, arguments, value, len(self.nodes))
            self.nodes.append(self._known[key])
        return self._known[key]

    def input(self, name: str) -> Symbol:
        return self.make("input", value=name)

    def literal(self, value: float) -> Symbol:
        return self.make("literal", value=float(value))

    def substitute(self, roots: Iterable[Symbol], old: Symbol, new: Symbol) -> list[Symbol]:
        """``roots`` with ``new`` in the place of ``old``."""
        roots = list(roots)
        last = max(root.index for root in roots)
        found: dict[int, Symbol] = {old.index: new}
        for node in self.nodes[old.index : last + 1]:
            if any(argument.index in found for argument in node.arguments):
                arguments = [found.get(argument.index, argument) for argument in node.arguments]
                found[node.index] = self.make(node.operation, *arguments, value=node.value)
        return [found.get(root.index, root) for root in roots]


def _key(value: Any) -> Any:
    return (value, str(value)) if isinstance(value, float) else value  # 0.0 is not -0.0


def _binary(operation: str, swapped: bool = False) -> Callable[[Symbol, Any], Symbol]:
    def method(self: Symbol, other: Any) -> Symbol:
        left, right = (self.lift(other), self) if swapped else (self, self.lift(other))
        return self.graph.make(operation, left, right)

    return method


def _unary(operation: str) -> Callable[[Symbol], Symbol]:
    return lambda self: self.graph.make(operation, self)


def _in_place(self: Symbol, other: object) -> Symbol:
    raise TypeError("a step cannot change a value in place: write v = v + x for v += x.")


class Symbol:
    """A value of the step that is not known yet: a node of the graph."""

    __slots__ = ("arguments", "graph", "index", "operation", "value")
    dtype = None  # of `u.to(u.dtype)`

    def __init__(self, graph: Graph, operation: str, arguments: tuple[Symbol, ...], value: Any, index: int) -> None:
        self.graph, self.operation, self.arguments, self.value, self.index = graph, operation, arguments, value, index

    @property
    def is_condition(self) -> bool:
        return self.operation in _CONDITIONS

    def lift(self, other: object) -> Symbol:
        """``other`` as a node of the same graph."""
        if isinstance(other, Symbol):
            return other
        if isinstance(other, (int, float)):
            return self.graph.literal(other)
        raise TypeError(
            f"a step computes with its states, its numbers and Python's numbers, got {type(other).__name__}."
        )

    def __bool__(self) -> bool:
        raise TypeError("a step cannot ask for a value (if, and, or, max, ...): write torch.where(condition, a, b).")

    __hash__ = object.__hash__
    __add__, __radd__ = _binary("add"), _binary("add", swapped=True)
    __sub__, __rsub__ = _binary("sub"), _binary("sub", swapped=True)
    __mul__, __rmul__ = _binary("mul"), _binary("mul", swapped=True)
    __truediv__, __rtruediv__ = _binary("div"), _binary("div", swapped=True)
    __lt__, __le__, __gt__, __ge__ = _binary("lt"), _binary("le"), _binary("gt"), _binary("ge")
    __eq__, __ne__ = cast(Any, (_binary("eq"), _binary("ne")))
    __and__, __or__ = _binary("and"), _binary("or")
    __iadd__ = __isub__ = __imul__ = __itruediv__ = _in_place
    __neg__, __invert__ = _unary("neg"), _unary("not")
    abs, exp, log, sqrt, tanh, sigmoid, atan, sin, cos = map(_unary, FUNCTIONS)

    def __pow__(self, exponent: object) -> Symbol:
        if exponent not in (2, 3):
            raise TypeError(f"a step knows the powers 2 and 3, got {exponent!r}: write a product, or torch.exp.")
        square = self * self
        return square if exponent == 2 else square * self

    def expand_as(self, other: Symbol) -> Symbol:
        return self

    def detach(self) -> Symbol:
        return self.graph.make("detach", self)

    def __getattr__(self, name: str) -> Any:
        if name in _METHODS:
            return partial(_METHODS[name], self)
        if name.startswith("__"):
            raise AttributeError(name)
        raise TypeError(f"a step cannot use .{name} of a value: it knows arithmetic, comparisons and {_known()}.")

    def to(self, dtype: None) -> Symbol:
        """A condition as 0 or 1."""
        return where(self, 1.0, 0.0) if self.is_condition else self

    def spike(self, surrogate: Surrogate, at_zero: bool) -> Symbol:
        """1 above zero (or at zero), 0 below, with the surrogate's derivative, whose numbers are inputs."""
        numbers = [self.graph.input(f"surrogate_{name}") for name in surrogate.__match_args__]
        return self.graph.make("spike", self, *numbers, value=(type(surrogate), at_zero))

    def smooth(self, surrogate: Surrogate) -> Symbol:
        numbers = [self.graph.input(f"surrogate_{name}") for name in surrogate.__match_args__]
        return surrogate.primitive(self, *numbers)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function in _TORCH:
            return _TORCH[function](*arguments, **(options or {}))
        name = getattr(function, "__name__", function)
        raise TypeError(f"a step cannot use torch.{name}: it knows arithmetic, comparisons and {_known()}.")


def where(condition: Symbol, yes: object, no: object) -> Symbol:
    """`torch.where`. Nested so that it holds a value between two others in order, it is an operation: "clamp"."""
    if not getattr(condition, "is_condition", False):
        raise TypeError("torch.where needs a condition in a step: a comparison of its values.")
    yes, no = condition.lift(yes), condition.lift(no)
    if condition.operation == "lt" and condition.arguments[1] is yes and no.operation == "where":
        u, (above, high, inside) = condition.arguments[0], no.arguments
        is_clamp = inside is u and above.operation == "gt" and above.arguments[0] is u and above.arguments[1] is high
        if is_clamp and _in_order(yes, high):
            return u.graph.make("clamp", u, yes, high)
    return condition.graph.make("where", condition, yes, no)


def _in_order(low: Symbol, high: Symbol) -> bool:
    """Two literals that are, or the ends of a domain, which are checked."""
    if low.operation == high.operation == "literal":
        return low.value <= high.value
    return (low.value, high.value) == ("lo", "hi")


def _clamp(u: Symbol, min: object = None, max: object = None) -> Symbol:
    above = u if max is None else where(u > u.lift(max), max, u)
    return above if min is None else where(u < u.lift(min), min, above)


def _relu(u: Symbol) -> Symbol:
    return where(u > 0, u, 0.0)


def _square(u: Symbol) -> Symbol:
    return u * u


def _maximum(a: Symbol, b: Symbol) -> Symbol:
    return where(a < b, b, a)


def _minimum(a: Symbol, b: Symbol) -> Symbol:
    return where(a > b, b, a)


def _full_like(u: Symbol, value: object) -> Symbol:
    return u.lift(value)


def _zeros_like(u: Symbol) -> Symbol:
    return u.lift(0.0)


def _ones_like(u: Symbol) -> Symbol:
    return u.lift(1.0)


def _bool(u: Symbol) -> Symbol:
    return u if u.is_condition else cast(Symbol, u != 0)


def _itself(u: Symbol) -> Symbol:
    return u


_TORCH: dict[Any, Callable[..., Symbol]] = {
    torch.where: where,
    torch.clamp: _clamp,
    torch.relu: _relu,
    torch.square: _square,
    torch.maximum: _maximum,
    torch.minimum: _minimum,
    torch.full_like: _full_like,
    torch.zeros_like: _zeros_like,
    torch.ones_like: _ones_like,
    **{getattr(torch, name): getattr(Symbol, name) for name in FUNCTIONS},
}
_METHODS: dict[str, Callable[..., Symbol]] = {
    "bool": _bool,
    "clamp": _clamp,
    "clone": _itself,
    "relu": _relu,
    "square": _square,
}
"""Of tensors, beside those that :class:`Symbol` has."""


def _known() -> str:
    return ", ".join(sorted(known.__name__ for known in _TORCH))


class Vector:
    """Numbers that come in one tensor, as the coefficients do: its last dimension is unbound to symbols."""

    def __init__(self, symbols: list[Symbol]) -> None:
        self.symbols = symbols

    def unbind(self, dim: int) -> list[Symbol]:
        assert dim == -1
        return self.symbols
