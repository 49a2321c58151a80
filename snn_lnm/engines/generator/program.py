"""What an engine has to compute for a neuron: its step, and the way back through it, as pieces of one graph.

A piece is a list of (name of a result, node). Nodes are of four levels: literals; what follows from the neuron's
constants; what follows from its numbers too; and what changes with time. An engine computes the second and third once
and keeps them: `shared` and `values`, the ones that the fourth reads.

The way back starts from the membrane ``h`` that the forward pass kept. A state after the step that follows from ``h``
and the numbers alone is recovered from it. Others are computed again, forward in time, if a gradient asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache

import torch

from snn_lnm.engines.generator.adjoint import adjoint
from snn_lnm.engines.generator.symbols import Graph, Symbol, Vector
from snn_lnm.law import Law

__all__ = ["Backward", "Forward", "Piece", "backward", "forward", "operations"]

Piece = list[tuple[str, Symbol]]
_LITERAL, _CONSTANT, _NUMBER, _VARYING = range(4)


class Program:
    """A law's step as a graph.

    Attributes:
        constants, numbers: the inputs' names in order; numbers that come in one tensor are ``name.k``.
        widths: how many numbers come in each tensor.
    """

    def __init__(self, law: Law) -> None:
        self.law = law
        self.graph = graph = Graph()
        self.constants = [name for name, _ in law.constants]
        self.widths = [1 if width is None else width for _, width in law.numbers]
        self.x = graph.input("x")
        self.before = [graph.input(f"state.{name}") for name in law.states]
        numbers: dict[str, Symbol | Vector] = {}
        self.numbers: list[Symbol] = []
        for name, width in law.numbers:
            symbols = [graph.input(f"number.{name}.{k}") for k in range(width or 1)]
            self.numbers += symbols
            numbers[name] = symbols[0] if width is None else Vector(symbols)
        constants = {name: graph.input(name) for name in self.constants}
        found = law.step(self.x, dict(zip(law.states, self.before, strict=True)), numbers, constants)
        self.spike, self.h, after = found
        self.after = [after[name] for name in law.states]
        known = {"x", *(node.value for node in (*self.before, *self.numbers)), *self.constants}
        if unknown := sorted(self.inputs([self.spike, self.h, *self.after]) - known):
            raise ValueError(f"the step uses {', '.join(unknown)}, which the law does not name among its constants.")
        self._levels: dict[int, int] = {}

    def level(self, node: Symbol) -> int:
        if node.index not in self._levels:
            for known in self.graph.nodes[len(self._levels) : node.index + 1]:  # arguments come first
                self._levels[known.index] = self._level(known)
        return self._levels[node.index]

    def _level(self, node: Symbol) -> int:
        if node.operation == "literal":
            return _LITERAL
        if node.operation != "input":
            return max(self._levels[argument.index] for argument in node.arguments)
        if node.value.startswith("number."):
            return _NUMBER
        return _CONSTANT if node.value in self.constants else _VARYING

    def read(self, roots: Iterable[Symbol], level: int) -> list[Symbol]:
        """The nodes of ``level`` that higher ones read, or that are results themselves."""
        found: dict[int, Symbol] = {}
        seen: set[int] = set()
        stack = list(roots)
        found |= {root.index: root for root in stack if self.level(root) == level}
        while stack:
            node = stack.pop()
            if node.index in seen or self.level(node) <= level:
                continue
            seen.add(node.index)
            stack += node.arguments
            found |= {argument.index: argument for argument in node.arguments if self.level(argument) == level}
        return [found[index] for index in sorted(found)]

    def inputs(self, roots: Iterable[Symbol]) -> set[str]:
        """The names of the inputs that ``roots`` follow from."""
        names: set[str] = set()
        seen: set[int] = set()
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node.index not in seen:
                seen.add(node.index)
                stack += node.arguments
                if node.operation == "input":
                    names.add(node.value)
        return names

    @cached_property
    def center(self) -> Symbol:
        """A membrane kept in bfloat16 is kept as its distance from here: the threshold, unless it is huge."""
        threshold = [node for node in self.numbers if node.value == "number.threshold.0"]
        if not threshold:
            return self.graph.literal(0.0)
        return torch.where(threshold[0].abs() <= 100, threshold[0], 0.0)  # pyright: ignore - a symbol answers

    def above(self, spike: Symbol) -> Symbol:
        """The condition of a spike. A smooth one has none."""
        if spike.operation != "spike":
            return self.graph.literal(0.0) > self.graph.literal(0.0)
        return spike.arguments[0] >= 0 if spike.value[1] else spike.arguments[0] > 0


class Forward(Program):
    """
    Attributes:
        pieces: ``step``, from x and the states before it; ``above``, the spike's condition at a membrane ``h``.
    """

    def __init__(self, law: Law) -> None:
        super().__init__(law)
        states = [(f"after.{k}", node) for k, node in enumerate(self.after)]
        step = [*states, ("spike", self.spike), ("membrane", self.h)]
        (spike,) = self.graph.substitute([self.spike], self.h, self.graph.input("h"))
        self.pieces: dict[str, Piece] = {
            "step": step,
            "above": [("above", self.above(spike))],
            "center": [("center", self.center)],
        }
        roots = [node for piece in self.pieces.values() for _, node in piece]
        self.values = self.read(roots, _NUMBER)
        self.shared = self.read([*roots, *self.values], _CONSTANT)
        self.spikes_are_exact = self.spike.operation == "spike"


class Backward(Program):
    """
    Attributes:
        pieces: ``back``, ``recover``, ``advance``, and ``finish``: the numbers' gradients from those of `summed`.
        summed: the values whose gradients are summed over time and neurons.
        rerun: the places of the states that are computed again.
        uses_input: a gradient asks for the input, or for a state that is computed again from it.
    """

    def __init__(self, law: Law, needs: tuple[bool, ...]) -> None:
        super().__init__(law)
        graph, kept = self.graph, self.graph.input("h")
        spike, *after = graph.substitute([self.spike, *self.after], self.h, kept)
        of_time = {"x", *(node.value for node in self.before)}
        recovered = [not self.inputs([node]) & of_time for node in after]
        wanted = self._wanted(needs)
        leaves = [self.x, *self.before, *self._learned([spike, *after, self.h], wanted)]
        seeds = [(spike, graph.input("d_spike"))]
        seeds += [(node, graph.input(f"d_after.{k}")) for k, node in enumerate(after)]
        behind = adjoint(graph, seeds, [kept, *leaves])
        d_h = graph.input("d_membrane")
        d_h = behind[kept.index] + d_h if kept.index in behind else d_h
        ahead = adjoint(graph, [(self.h, d_h)], leaves)

        zero = graph.literal(0.0)
        totals = dict(behind)
        for index, gradient in ahead.items():
            totals[index] = totals[index] + gradient if index in totals else gradient
        back = [(f"d_before.{k}", totals.get(node.index, zero)) for k, node in enumerate(self.before)]
        back.append(("d_x", totals.get(self.x.index, zero)))
        self.summed = [leaf for leaf in leaves[1 + len(self.before) :] if leaf.index in totals]
        back += [(f"sums.{k}", totals[leaf.index]) for k, leaf in enumerate(self.summed)]
        self._find_rerun(after, recovered, [node for _, node in back])
        self.pieces: dict[str, Piece] = {
            "back": back,
            "recover": [(f"before.{k}", node) for k, node in enumerate(after) if recovered[k]],
            "advance": [(f"after.{k}", after[k]) for k in self.rerun],
            "center": [("center", self.center)],
        }
        roots = [node for piece in self.pieces.values() for _, node in piece]
        self.values = self.read(roots, _NUMBER)
        of_sums = [(leaf, graph.input(f"total.{k}")) for k, leaf in enumerate(self.summed)]
        gradients = adjoint(graph, of_sums, wanted)
        finish = [(f"gradients.{k}", gradients.get(number.index, zero)) for k, number in enumerate(wanted)]
        self.pieces["finish"] = finish
        self.shared = self.read([*roots, *self.values, *(node for _, node in finish)], _CONSTANT)

    def _wanted(self, needs: tuple[bool, ...]) -> list[Symbol]:
        """The numbers of those tensors whose gradients are asked for."""
        flags = [need for need, width in zip(needs, self.widths, strict=True) for _ in range(width)]
        return [number for number, flag in zip(self.numbers, flags, strict=True) if flag]

    def _learned(self, roots: list[Symbol], wanted: list[Symbol]) -> list[Symbol]:
        """The values that the step reads and that follow from ``wanted`` numbers."""
        names = {number.value for number in wanted}
        return [node for node in self.read(roots, _NUMBER) if self.inputs([node]) & names]

    def _find_rerun(self, after: list[Symbol], recovered: list[bool], back: list[Symbol]) -> None:
        names = [node.value for node in self.before]
        used = self.inputs(back)
        while True:  # what is computed again may itself ask for more
            rerun = [k for k, name in enumerate(names) if name in used and not recovered[k]]
            more = used | self.inputs([after[k] for k in rerun])
            if more == used:
                break
            used = more
        self.rerun, self.uses_input = rerun, "x" in used


def operations(roots: Iterable[Symbol]) -> set[str]:
    """The names of all operations that ``roots`` follow from."""
    seen: dict[int, Symbol] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node.index not in seen:
            seen[node.index] = node
            stack += node.arguments
    return {node.operation for node in seen.values()}


@lru_cache(maxsize=1024)
def forward(law: Law) -> Forward:
    return Forward(law)


@lru_cache(maxsize=1024)
def backward(law: Law, needs: tuple[bool, ...]) -> Backward:
    return Backward(law, needs)
