"""What the graph of a step means: an interpreter of it, and an engine's way through its pieces."""

import math
import operator

import torch

from snn_lnm.engines.generator import program
from snn_lnm.engines.generator.symbols import FUNCTIONS

CONDITIONS = {name: getattr(operator, name) for name in ("lt", "le", "gt", "ge", "eq", "ne", "and_", "or_", "inv")}
CONDITIONS = {{"and_": "and", "or_": "or", "inv": "not"}.get(name, name): of for name, of in CONDITIONS.items()}
OPERATIONS = {
    **CONDITIONS,
    **{name: getattr(torch, name) for name in FUNCTIONS},
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "neg")},
    "div": operator.truediv,
    "where": torch.where,
    "clamp": lambda u, low, high: torch.where(u < low, low, torch.where(u > high, high, u)),
    "detach": torch.Tensor.detach,
}


def apply(node, arguments):
    if node.operation == "spike":
        kind, at_zero = node.value
        return kind()(arguments[0], at_zero)
    return OPERATIONS[node.operation](*arguments)


def nodes(roots, known=()):
    """All that ``roots`` follow from, in order, but for what is ``known``."""
    stack, needed = list(roots), {}
    while stack:
        node = stack.pop()
        if node.index not in known and node.index not in needed:
            needed[node.index] = node
            stack += node.arguments
    return [needed[index] for index in sorted(needed)]


def interpret(roots, inputs, known=(), apply=apply):
    """The values of ``roots`` where inputs have those values, in float64; those of ``known`` nodes are given."""
    values = dict(known)
    for node in nodes(roots, values):
        index = node.index
        if node.operation == "literal":
            values[index] = torch.tensor(node.value, dtype=torch.float64)
        elif node.operation == "input":
            values[index] = inputs[node.value]
        else:
            values[index] = apply(node, [values[argument.index] for argument in node.arguments])
    return [values[root.index] for root in roots]


def of_numbers(law, numbers):
    """Inputs of a program: the numbers of a law, by name, and its constants."""
    columns = {name: numbers[name].unbind(-1) if width else [numbers[name]] for name, width in law.numbers}
    found = {f"number.{name}.{k}": value for name, values in columns.items() for k, value in enumerate(values)}
    return found | {name: torch.tensor(value, dtype=torch.float64) for name, value in law.constants}


def of_states(law, states):
    return {f"state.{name}": states[name] for name in law.states}


def piece(p, name, inputs):
    labels = [label for label, _ in p.pieces[name]]
    return dict(zip(labels, interpret([node for _, node in p.pieces[name]], inputs), strict=True))


def way_back(law, needs, x, start, numbers, kept, d_spikes, d_membranes, d_last):
    """The gradients of inputs, starts and numbers, as an engine puts a program's pieces together."""
    p, steps, absent = program.backward(law.form, needs), len(x), torch.full_like(x[0], math.nan)
    numbers = of_numbers(law, numbers)
    rows = [numbers | {"h": kept[t], "x": x[t] if p.uses_input else absent} for t in range(steps)]
    before = [of_states(law, start)]
    for t in range(1, steps):
        found = {f"before.{k}": absent for k in range(len(law.states))}
        found |= piece(p, "recover", numbers | {"h": kept[t - 1]})
        again = piece(p, "advance", rows[t - 1] | before[t - 1])
        found |= {name.replace("after", "before"): value for name, value in again.items()}
        before.append({f"state.{name}": found[f"before.{k}"] for k, name in enumerate(law.states)})
    d_x, d_states, total = [], d_last, [torch.zeros_like(absent)] * len(p.summed)
    for t in reversed(range(steps)):
        given = {"d_spike": d_spikes[t], "d_membrane": d_membranes[t]}
        given |= {f"d_after.{k}": d for k, d in enumerate(d_states)}
        found = piece(p, "back", rows[t] | before[t] | given)
        d_states = [found[f"d_before.{k}"] for k in range(len(d_states))]
        d_x.insert(0, found["d_x"].expand_as(absent))
        total = [value + found[f"sums.{k}"] for k, value in enumerate(total)]
    finish = piece(p, "finish", numbers | {f"total.{k}": value for k, value in enumerate(total)})
    columns = iter(finish.values())
    d_numbers = [
        torch.stack([next(columns).expand_as(absent) for _ in range(width or 1)], -1)
        for (_, width), need in zip(law.numbers, needs, strict=True)
        if need
    ]
    shapes = zip(d_numbers, [width for (_, width), need in zip(law.numbers, needs, strict=True) if need], strict=True)
    return [torch.stack(d_x), *d_states, *(d if width else d[..., 0] for d, width in shapes)]
