"""Pieces of a program on tensors: what follows from constants and numbers alone is computed where it is needed once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from snn_lnm.engines.generator.program import Piece
from snn_lnm.engines.generator.symbols import FUNCTIONS, Symbol
from snn_lnm.reference import clamp

__all__ = ["evaluate"]

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
    "and": operator.and_,
    "or": operator.or_,
    "not": operator.invert,
    "where": torch.where,
    "clamp": clamp,
    "detach": Tensor.detach,
    **{name: getattr(torch, name) for name in FUNCTIONS},
}


def evaluate(piece: Piece, given: Mapping[str, Tensor]) -> list[Any]:
    """The piece's results from its inputs by name: tensors, or numbers where a result is a literal."""
    known: dict[int, Any] = {}

    def value(node: Symbol) -> Any:
        if node.index not in known:
            known[node.index] = compute(node)
        return known[node.index]

    def compute(node: Symbol) -> Any:
        if node.operation == "input":
            return given[node.value]
        if node.operation == "literal":
            return node.value
        return _OPERATIONS[node.operation](*map(value, node.arguments))

    return [value(node) for _, node in piece]
