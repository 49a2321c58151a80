"""Reverse mode over the graph of a step: a rule for each operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

from snn_lnm.engines.generator.symbols import Graph, Symbol, where

__all__ = ["RULES", "adjoint"]

_Gradients = tuple["Symbol | None", ...]


def _where(d: Symbol, y: Symbol, condition: Symbol, a: Symbol, b: Symbol) -> _Gradients:
    yes, no = (_branch(d, condition, side) for side in (1, 2))
    return None, where(condition, yes, 0.0), where(condition, 0.0, no)


def _clamp(d: Symbol, y: Symbol, u: Symbol, low: Symbol, high: Symbol) -> _Gradients:
    """The edges belong to the inside, and what is no number. The ends are constants."""
    outside = (u < y) | (u > y)
    return where(outside, 0.0, _branch(d, outside, 2)), None, None


def _spike(d: Symbol, s: Symbol, u: Symbol, *numbers: Symbol) -> _Gradients:
    surrogate, _ = s.value
    return (_times(d, surrogate.derivative(u, *numbers)),)


_OF_ONE: dict[str, Callable[[Symbol, Symbol, Symbol], _Gradients]] = {
    "neg": lambda d, y, a: (_minus(d),),
    "abs": lambda d, y, a: (where(a > 0, d, where(a < 0, -d, 0.0)),),
    "exp": lambda d, y, a: (_times(d, y),),
    "log": lambda d, y, a: (d / a,),
    "sqrt": lambda d, y, a: (d / (2 * y),),
    "tanh": lambda d, y, a: (_times(d, 1 - y * y),),
    "sigmoid": lambda d, y, a: (_times(d, y * (1 - y)),),
    "atan": lambda d, y, a: (d / (1 + a * a),),
    "sin": lambda d, y, a: (_times(d, a.cos()),),
    "cos": lambda d, y, a: (_minus(_times(d, a.sin())),),
    "detach": lambda d, y, a: (None,),
}
_OF_TWO: dict[str, Callable[[Symbol, Symbol, Symbol, Symbol], _Gradients]] = {
    "add": lambda d, y, a, b: (d, d),
    "sub": lambda d, y, a, b: (d, _minus(d)),
    "mul": lambda d, y, a, b: (_times(d, b), _times(d, a)),
    "div": lambda d, y, a, b: (d / b, -(d / b) * y),
}
RULES: dict[str, Callable[..., _Gradients]] = {**_OF_ONE, **_OF_TWO, "where": _where, "clamp": _clamp, "spike": _spike}
"""The gradients of an operation's arguments, from that of its result `d`, the result `y` and the arguments."""


def adjoint(graph: Graph, seeds: Iterable[tuple[Symbol, Symbol]], leaves: Iterable[Symbol]) -> dict[int, Symbol]:
    """The gradients of ``leaves``, by their index, from those of the results: ``seeds`` are pairs (result, gradient).

    Nothing is looked for behind a leaf. A leaf that nothing depends on is not in the answer.
    """
    stops = {leaf.index for leaf in leaves}
    gradients: dict[int, list[Symbol]] = {}

    def receive(node: Symbol, gradient: Symbol) -> None:
        terms = gradients.setdefault(node.index, [])
        for place, known in enumerate(terms):
            if (found := _joined(known, gradient)) is not None:
                terms[place : place + 1] = [] if _is_zero(found) else [found]
                return
        terms.append(gradient)

    for result, gradient in seeds:
        receive(result, gradient)
    leads = _leads_to(graph, stops)
    for node in reversed(graph.nodes[: max(gradients, default=-1) + 1]):
        if not gradients.get(node.index) or node.index in stops or node.index not in leads:
            continue
        rule: Any = RULES[node.operation]
        of_arguments = rule(_total(gradients[node.index]), node, *node.arguments)
        for argument, gradient in zip(node.arguments, of_arguments, strict=False):
            if gradient is not None and argument.index in leads:
                receive(argument, gradient)
    return {index: _total(terms) for index, terms in gradients.items() if index in stops and terms}


def _total(terms: list[Symbol]) -> Symbol:
    return reduce(_plus, terms)


# What a selection makes zero stays zero, and selections by the same condition become one: then a neuron's line and its
# polynomial cost one selection on the way back, too.


def _parts(d: Symbol) -> tuple[Symbol, Symbol, Symbol] | None:
    """Condition and branches of a selection that is zero on one side."""
    if d.operation != "where":
        return None
    condition, yes, no = d.arguments
    return (condition, yes, no) if _is_zero(yes) or _is_zero(no) else None


def _is_zero(d: Symbol) -> bool:
    return d.operation == "literal" and d.value == 0.0


def _in_branches(d: Symbol, change: Callable[[Symbol], Symbol]) -> Symbol:
    if (parts := _parts(d)) is None:
        return change(d)
    condition, yes, no = parts
    return where(condition, *[branch if _is_zero(branch) else _in_branches(branch, change) for branch in (yes, no)])


def _times(d: Symbol, factor: Symbol) -> Symbol:
    return _in_branches(d, lambda branch: -(branch.arguments[0] * factor) if _is_minus(branch) else branch * factor)


def _minus(d: Symbol) -> Symbol:
    return _in_branches(d, lambda branch: branch.arguments[0] if _is_minus(branch) else -branch)


def _is_minus(d: Symbol) -> bool:
    return d.operation == "neg"


def _plus(a: Symbol, b: Symbol) -> Symbol:
    return a - b.arguments[0] if _is_minus(b) else b - a.arguments[0] if _is_minus(a) else a + b


def _branch(d: Symbol, condition: Symbol, side: int) -> Symbol:
    """``d`` where ``condition`` holds (1) or does not (2)."""
    if d.operation == "where" and d.arguments[0] is condition:
        return d.arguments[side]
    if d.operation != "add":
        return d
    return _sum(*(_branch(term, condition, side) for term in d.arguments))


def _joined(a: Symbol, b: Symbol) -> Symbol | None:
    """``a + b`` if that is less than a sum: zero, one of them, or one selection. None otherwise."""
    if _is_zero(a) or _is_zero(b):
        return b if _is_zero(a) else a
    if (_is_minus(b) and b.arguments[0] is a) or (_is_minus(a) and a.arguments[0] is b):
        return a.lift(0.0)
    if (left := _parts(a)) is None or (right := _parts(b)) is None or left[0] is not right[0]:
        return None
    yes, no = (_sum(x, y) for x, y in zip(left[1:], right[1:], strict=True))
    return yes if yes is no else where(left[0], yes, no)


def _sum(a: Symbol, b: Symbol) -> Symbol:
    found = _joined(a, b)
    return _plus(a, b) if found is None else found


def _leads_to(graph: Graph, stops: set[int]) -> set[int]:
    """The nodes that depend on one of ``stops``, differentiably."""
    found = set(stops)
    for node in graph.nodes:
        if not node.is_condition and any(a.index in found for a in node.arguments):
            found.add(node.index)
    return found
