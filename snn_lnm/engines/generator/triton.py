"""A neuron's kernels in Triton: the pieces of its program as functions, and the kernels' heads.

Literals and constants get the arithmetic type ``T`` where they stand: Triton would take them for float32.
"""

from __future__ import annotations

from collections.abc import Mapping

from snn_lnm.engines.generator.program import Backward, Forward, Piece, Program
from snn_lnm.engines.generator.symbols import Symbol

__all__ = ["UNKNOWN", "backward_source", "forward_source"]

_COMPARED = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_INFIX = {"add": "+", "sub": "-", "mul": "*", **_COMPARED, "and": "&", "or": "|"}
_SAME = {name: f"tl.{name}({{0}})" for name in ("abs", "exp", "log", "sigmoid", "sin", "cos")}
_CALLS = {**_SAME, "sqrt": "tl.sqrt_rn({0})", "tanh": "(2 * tl.sigmoid(2 * {0}) - 1)"}
_OTHER = {"neg": "-{0}", "not": "~{0}", "where": "tl.where({0}, {1}, {2})", "div": "divide({0}, {1})", **_CALLS}
_OTHER["clamp"] = "tl.where({0} < {1}, {1}, tl.where({0} > {2}, {2}, {0}))"
UNKNOWN = {"atan": "arctangent"}
"""What a step may use and Triton has not."""

HEAD = """import triton
import triton.language as tl

from snn_lnm.engines.triton.kernels import SIZES, backward, divide, forward

"""
_SIZES = (
    "steps: tl.int64, neurons: tl.int64, period: tl.int64, span: tl.int64, inner: tl.int64, repeats: tl.int64,\n"
    "    block_repeats: tl.int64, rows: tl.int32, row_blocks: tl.int32"
)
_CONSTANTS = ["D", "MANY", "SHARED", "BLOCK", "ALIGN", "STAGES", "STARTS", "HOLDS"]


def _expression(node: Symbol, arguments: list[str]) -> str:
    if node.operation in _INFIX:
        return f" {_INFIX[node.operation]} ".join(arguments)
    if node.operation == "spike":
        return f"({arguments[0]} {'>=' if node.value[1] else '>'} 0).to(T)"
    return _OTHER[node.operation].format(*arguments)


def _function(name: str, parameters: list[str], piece: Piece, given: Mapping[int, str], result: str) -> str:
    """``result`` is what it returns, with a place ``{k}`` for each of the piece's results."""
    codes, lines = dict(given), list[str]()
    needed: dict[int, Symbol] = {}
    stack = [node for _, node in piece]
    while stack:
        node = stack.pop()
        if node.index not in codes and node.index not in needed:
            needed[node.index] = node
            stack += node.arguments
    for index in sorted(needed):
        node = needed[index]
        if node.operation == "literal":
            codes[index] = f"tl.full((), {_literal(node.value)}, T)"
        elif node.operation == "detach":
            codes[index] = codes[node.arguments[0].index]
        else:
            codes[index] = f"t{len(lines)}"
            lines.append(f"{codes[index]} = {_expression(node, [codes[a.index] for a in node.arguments])}")
    lines.append(f"return {result.format(*[codes[node.index] for _, node in piece])}")
    body = "\n".join(f"    {line}" for line in lines)
    return f"@triton.jit\ndef {name}({', '.join([*parameters, 'T: tl.constexpr'])}):\n{body}\n"


def _literal(value: float) -> str:
    return f'float("{value}")' if value in (float("inf"), -float("inf")) else repr(value)


def _tuple(places: list[str]) -> str:
    return f"({', '.join(places)}{',' if len(places) == 1 else ''})"


class _Names:
    """How the functions call what they get."""

    def __init__(self, program: Forward | Backward) -> None:
        inputs = {node.value: node.index for node in program.graph.nodes if node.operation == "input"}
        names = {"x": "x", "h": "h", "d_spike": "d_spike", "d_membrane": "d_membrane"}
        names |= {f"state.{state}": f"before[{k}]" for k, state in enumerate(program.law.states)}
        names |= {f"d_after.{k}": f"d_after[{k}]" for k in range(len(program.before))}
        self.varying = {inputs[name]: code for name, code in names.items() if name in inputs}
        self.own = {node.index: f"own[{k}]" for k, node in enumerate(program.numbers)}
        self.shared = {node.index: f"tl.full((), c[{k}], T)" for k, node in enumerate(program.shared)}
        self.values = {node.index: f"n[{k}]" for k, node in enumerate(program.values)}


def _slots(piece: Piece) -> list[str]:
    return [f"{{{k}}}" for k in range(len(piece))]


def _common(program: Forward | Backward, names: _Names) -> list[str]:
    fill: Piece = [("", node) for node in program.values]
    read = names.shared | names.values
    return [
        _function("prepare", ["own", "c: tl.constexpr"], fill, names.own | names.shared, _tuple(_slots(fill))),
        _function("center", ["n", "c: tl.constexpr"], program.pieces["center"], read, "{0}"),
    ]


def forward_source(program: Forward) -> str:
    names, count = _Names(program), len(program.before)
    read, step = names.shared | names.values, program.pieces["step"]
    slots = _slots(step)
    parts = _common(program, names)
    result = f"{_tuple(slots[:count])}, {slots[count]}, {slots[count + 1]}"
    parts.append(_function("step", ["x", "before", "n", "c: tl.constexpr"], step, read | names.varying, result))
    above = program.pieces["above"]
    parts.append(_function("above", ["h", "before", "n", "c: tl.constexpr"], above, read | names.varying, "{0}"))
    pointers = ["x_ptr", *_each("state", count), "spikes_ptr", "h_ptr", *_each("last", count)]
    given = ["x_ptr", _tuple(_each("state", count)), "spikes_ptr", "h_ptr", _tuple(_each("last", count))]
    return _module(parts, program, "forward", pointers, given, [])


def backward_source(program: Backward) -> str:
    names, count = _Names(program), len(program.before)
    read, back = names.shared | names.values, program.pieces["back"]
    slots = _slots(back)
    parts = _common(program, names)
    result = f"{_tuple(slots[:count])}, {slots[count]}, {_tuple(slots[count + 1 :])}"
    arguments = ["h", "x", "before", "d_spike", "d_membrane", "d_after", "n", "c: tl.constexpr"]
    parts.append(_function("back", arguments, back, read | names.varying, result))
    recover = program.pieces["recover"]
    found = {int(name.partition(".")[2]): f"{{{place}}}" for place, (name, _) in enumerate(recover)}
    whole = _tuple([found.get(k, f"before[{k}]") for k in range(count)])
    parts.append(_function("recover", ["h", "before", "n", "c: tl.constexpr"], recover, read | names.varying, whole))
    advance = program.pieces["advance"]
    again = {k: f"{{{place}}}" for place, k in enumerate(program.rerun)}
    whole = _tuple([again.get(k, f"before[{k}]") for k in range(count)])
    arguments = ["h", "x", "before", "n", "c: tl.constexpr"]
    parts.append(_function("advance", arguments, advance, read | names.varying, whole))
    pointers = ["x_ptr", *_each("state", count), "h_ptr", "earlier_ptr", "d_spikes_ptr", "d_h_ptr"]
    pointers += [*_each("d_last", count), "d_x_ptr", *_each("d_state", count), "partial_ptr"]
    given = ["x_ptr", _tuple(_each("state", count)), "h_ptr", "earlier_ptr", "d_spikes_ptr", "d_h_ptr"]
    given += [_tuple(_each("d_last", count)), "d_x_ptr", _tuple(_each("d_state", count)), "partial_ptr"]
    return _module(parts, program, "backward", pointers, given, ["ROWS"])


def _each(name: str, count: int) -> list[str]:
    return [f"{name}{k}_ptr" for k in range(count)]


def _module(
    parts: list[str], program: Program, name: str, pointers: list[str], given: list[str], more: list[str]
) -> str:
    numbers = _each("number", len(program.widths))
    constants = [*_CONSTANTS, *more]
    head = f"    {', '.join([*pointers, *numbers])},\n    {_SIZES},\n    "
    head += ", ".join(f"{constant}: tl.constexpr" for constant in constants)
    sizes = "steps, neurons, period, span, inner, repeats, block_repeats, rows, row_blocks"
    call = f"    {name}({', '.join([*given, _tuple(numbers)])}, {sizes}, {', '.join(constants)})"
    kernel = f"@triton.jit(do_not_specialize=SIZES)\ndef {name}_kernel(\n{head},\n):\n{call}\n"
    return HEAD + "\n\n".join([*parts, kernel])
