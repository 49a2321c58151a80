"""Reverse mode over the graph of a step: a rule for each operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from snn_lnm.engines.generator.symbols import Graph, Symbol, where

__all__ = ["RULES", "adjoint"]

_Gradients = tuple["Symbol | None", ...]


def _where(d: Symbol, y: Symbol, condition: Symbol, a: Symbol, b: Symbol) -> _Gradients:
    return None, where(condition, d, 0.0), where(condition, 0.0, d)


def _spike(d: Symbol, s: Symbol, u: Symbol, *numbers: Symbol) -> _Gradients:
    surrogate, _ = s.value
    return (d * surrogate.derivative(u, *numbers),)


_OF_ONE: dict[str, Callable[[Symbol, Symbol, Symbol], _Gradients]] = {
    "neg": lambda d, y, a: (-d,),
    "abs": lambda d, y, a: (where(a > 0, d, where(a < 0, -d, 0.0)),),
    "exp": lambda d, y, a: (d * y,),
    "log": lambda d, y, a: (d / a,),
    "sqrt": lambda d, y, a: (d / (2 * y),),
    "tanh": lambda d, y, a: (d * (1 - y * y),),
    "sigmoid": lambda d, y, a: (d * (y * (1 - y)),),
    "atan": lambda d, y, a: (d / (1 + a * a),),
    "sin": lambda d, y, a: (d * a.cos(),),
    "cos": lambda d, y, a: (-(d * a.sin()),),
    "detach": lambda d, y, a: (None,),
}
_OF_TWO: dict[str, Callable[[Symbol, Symbol, Symbol, Symbol], _Gradients]] = {
    "add": lambda d, y, a, b: (d, d),
    "sub": lambda d, y, a, b: (d, -d),
    "mul": lambda d, y, a, b: (d * b, d * a),
    "div": lambda d, y, a, b: (d / b, -(d / b) * y),
}
RULES: dict[str, Callable[..., _Gradients]] = {**_OF_ONE, **_OF_TWO, "where": _where, "spike": _spike}
"""The gradients of an operation's arguments, from that of its result `d`, the result `y` and the arguments."""


def adjoint(graph: Graph, seeds: Iterable[tuple[Symbol, Symbol]], leaves: Iterable[Symbol]) -> dict[int, Symbol]:
    """The gradients of ``leaves``, by their index, from those of the results: ``seeds`` are pairs (result, gradient).

    Nothing is looked for behind a leaf. A leaf that nothing depends on is not in the answer.
    """
    stops = {leaf.index for leaf in leaves}
    gradients: dict[int, Symbol] = {}

    def receive(node: Symbol, gradient: Symbol) -> None:
        known = gradients.pop(node.index, None)
        total = gradient if known is None else _sum(known, gradient)
        if total is not None:
            gradients[node.index] = total

    for result, gradient in seeds:
        receive(result, gradient)
    leads = _leads_to(graph, stops)
    for node in reversed(graph.nodes[: max(gradients, default=-1) + 1]):
        if node.index not in gradients or node.index in stops or node.index not in leads:
            continue
        rule: Any = RULES[node.operation]
        of_arguments = rule(gradients[node.index], node, *node.arguments)
        for argument, gradient in zip(node.arguments, of_arguments, strict=False):
            if gradient is not None and argument.index in leads:
                receive(argument, gradient)
    return {index: gradient for index, gradient in gradients.items() if index in stops}


def _sum(a: Symbol, b: Symbol) -> Symbol | None:
    """``a + b``; None for ``a + -a``, and ``d`` for its two halves ``where(c, d, 0) + where(c, 0, d)``."""
    if (b.operation == "neg" and b.arguments[0] is a) or (a.operation == "neg" and a.arguments[0] is b):
        return None
    if a.operation == b.operation == "where" and a.arguments[0] is b.arguments[0]:
        (_, yes, zero), (_, nought, no) = a.arguments, b.arguments
        if yes is no and zero.value == nought.value == 0.0:
            return yes
    return a + b


def _leads_to(graph: Graph, stops: set[int]) -> set[int]:
    """The nodes that depend on one of ``stops``, differentiably."""
    found = set(stops)
    for node in graph.nodes:
        if not node.is_condition and any(a.index in found for a in node.arguments):
            found.add(node.index)
    return found
