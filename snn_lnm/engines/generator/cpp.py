"""A neuron's kernels in C++: the pieces of its program as functions, which the loops of engines/cpp call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snn_lnm.engines.generator.program import Backward, Forward, Piece, Program
from snn_lnm.engines.generator.symbols import FUNCTIONS, Symbol

__all__ = ["backward_source", "forward_source"]

_COMPARED = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", **_COMPARED, "and": "&", "or": "|"}
_CALLS = {name: f"{name}({{0}})" for name in FUNCTIONS}
_OTHER = {"neg": "-{0}", "not": "~{0}", "where": "select({0}, {1}, {2})", "clamp": "clamp({0}, {1}, {2})", **_CALLS}


def _expression(node: Symbol, arguments: list[str]) -> str:
    if node.operation in _INFIX:
        return f" {_INFIX[node.operation]} ".join(arguments)
    if node.operation == "spike":
        return f"select({arguments[0]} {'>=' if node.value[1] else '>'} 0, splat<V>(1), V{{}})"
    return _OTHER[node.operation].format(*arguments)


def _statements(piece: Piece, given: Mapping[int, str], results: Mapping[str, str]) -> list[str]:
    """The piece's results, computed from what is ``given``; each node once, in the order of the trace."""
    needed: dict[int, Symbol] = {}
    stack = [node for _, node in piece]
    while stack:
        node = stack.pop()
        if node.index not in given and node.index not in needed and node.operation != "literal":
            needed[node.index] = node
            stack += node.arguments
    lines: list[str] = []
    codes = dict(given)

    def code(node: Symbol) -> str:
        return f"splat<V>({_literal(node.value)})" if node.operation == "literal" else codes[node.index]

    for index in sorted(needed):
        node = needed[index]
        arguments = [code(argument) for argument in node.arguments]
        if node.operation == "detach":
            codes[index] = arguments[0]
            continue
        codes[index] = f"t{len(lines)}"
        lines.append(f"const auto {codes[index]} = {_expression(node, arguments)};")
    return lines + [f"{results.get(name, name)} = {code(node)};" for name, node in piece]


def _literal(value: float) -> str:
    return repr(value).replace("inf", "__builtin_inf()").replace("nan", '__builtin_nan("")')


def _function(name: str, parameters: str, lines: list[str], result: str = "void") -> list[str]:
    head = f"  LNM_INLINE static inline {result} {name}({parameters}) {{"
    return [head, *[f"    {line}" for line in lines], "  }"]


def _place(name: str) -> str:
    """``after.0`` as ``after[0]``."""
    head, _, place = name.partition(".")
    return f"{head}[{place}]" if place else head


def _piece(
    program: Program, name: str, parameters: str, piece: Piece, own: Mapping[int, str], result: str = "void"
) -> list[str]:
    known: dict[str, str] = {"x": "x", "h": "h", "d_spike": "d_spike", "d_membrane": "d_membrane"}
    known |= {f"state.{state}": f"before[{k}]" for k, state in enumerate(program.law.states)}
    known |= {f"d_after.{k}": f"d_after[{k}]" for k in range(len(program.before))}
    given = {n.index: known[n.value] for n in program.graph.nodes if n.operation == "input" and n.value in known}
    given |= own
    lines = _statements(piece, given, {label: _place(label) for label, _ in piece})
    if result != "void":
        lines[-1] = "return " + lines[-1].partition(" = ")[2]
    return _function(name, parameters, lines, result)


def _common(program: Any) -> tuple[list[str], dict[int, str]]:
    """What both directions have: counts, and the functions that fill `shared` and `values`."""
    of_constants = {program.graph.input(name).index: f"constants[{k}]" for k, name in enumerate(program.constants)}
    read = program.inputs(program.shared)
    constants = max((k + 1 for k, name in enumerate(program.constants) if name in read), default=0)
    of_numbers = {node.index: f"own[{k}]" for k, node in enumerate(program.numbers)}
    shared = {node.index: f"shared[{k}]" for k, node in enumerate(program.shared)}
    values = {node.index: f"values[{k}]" for k, node in enumerate(program.values)}
    widths = ", ".join(map(str, program.widths))
    lines = [
        "  using V = Vec<T>;",
        f"  static constexpr int64_t kStates = {len(program.before)}, kConstants = {constants};",
        f"  static constexpr int64_t kTensors = {len(program.widths)}, kNumbers = {len(program.numbers)};",
        f"  static constexpr int64_t kShared = {len(shared)}, kValues = {len(values)};",
        f"  static constexpr int64_t kWidths[] = {{{widths}}};",
        "  using States = List<V, kStates>;",
        "  using Own = List<V, kNumbers>;",
        "  using Shared = List<V, kShared>;",
        "  using Values = List<V, kValues>;",
    ]
    fill = [(f"shared.{k}", node) for k, node in enumerate(program.shared)]
    lines += _piece(program, "share", "const List<V, kConstants>& constants, Shared& shared", fill, of_constants)
    fill = [(f"values.{k}", node) for k, node in enumerate(program.values)]
    lines += _piece(
        program, "prepare", "const Own& own, const Shared& shared, Values& values", fill, of_numbers | shared
    )
    return lines, shared | values


_READS = "const Values& values, const Shared& shared"


def forward_source(program: Forward, arithmetic: str, storage: str, kept: str, uniform: bool) -> str:
    lines, read = _common(program)
    flag = str(program.spikes_are_exact).lower()
    lines.append(f"  static constexpr bool kSpikesAreExact = {flag};")
    step = f"V x, const States& before, {_READS}, States& after, V& spike, V& membrane"
    lines += _piece(program, "step", step, program.pieces["step"], read)
    lines += _piece(program, "center", _READS, program.pieces["center"], read, "V")
    lines += _piece(program, "above", f"V h, const States& before, {_READS}", program.pieces["above"], read, "auto")
    return _kernel("forward", lines, arithmetic, storage, kept, uniform, "forward<Neuron, {0}>(pass, tile)")


def backward_source(program: Backward, arithmetic: str, storage: str, kept: str, uniform: bool) -> str:
    lines, read = _common(program)
    uses_input = str("x" in program.inputs(node for _, node in program.pieces["back"])).lower()
    columns = len(program.pieces["finish"])
    lines += [
        f"  static constexpr int64_t kSums = {len(program.summed)}, kColumns = {columns};",
        f"  static constexpr int64_t kRerun = {len(program.rerun)};",
        f"  static constexpr bool kUsesInput = {uses_input};",
        "  using Sums = List<V, kSums>;",
    ]
    back = f"V h, V x, const States& before, V d_spike, V d_membrane, const States& d_after, {_READS}, "
    back += "States& d_before, V& d_x, Sums& sums"
    lines += [line.replace("] =", "] +=") if " sums[" in line else line
              for line in _piece(program, "back", back, program.pieces["back"], read)]  # fmt: skip
    lines += _piece(program, "center", _READS, program.pieces["center"], read, "V")
    lines += _piece(program, "recover", f"V h, {_READS}, States& before", program.pieces["recover"], read)
    advance = f"V h, V x, const States& before, {_READS}, States& after"
    lines += _piece(program, "advance", advance, program.pieces["advance"], read)
    totals = {program.graph.input(f"total.{k}").index: f"total[{k}]" for k in range(len(program.summed))}
    own = {node.index: f"own[{k}]" for k, node in enumerate(program.numbers)}
    shared = {node.index: f"shared[{k}]" for k, node in enumerate(program.shared)}
    finish = "const Own& own, const Shared& shared, const Sums& total, List<V, kColumns>& gradients"
    lines += _piece(program, "finish", finish, program.pieces["finish"], own | shared | totals)
    moves = [f"place[{row} * stride] = states[{k}];" for row, k in enumerate(program.rerun)]
    lines += _function("pack", "const States& states, int64_t stride, V* place", moves)
    moves = [f"states[{k}] = place[{row} * stride];" for row, k in enumerate(program.rerun)]
    lines += _function("unpack", "const V* place, int64_t stride, States& states", moves)
    source = _kernel("backward", lines, arithmetic, storage, kept, uniform, "Backward<Neuron, {0}>(pass, tile).run()")
    return source + f'extern "C" const int64_t columns = {columns};\n'


def _kernel(name: str, lines: list[str], arithmetic: str, storage: str, kept: str, uniform: bool, call: str) -> str:
    halves = '#include "halves.h"\n' if {storage, kept} - {"float", "double"} else ""
    neuron = "\n".join(lines)
    call = call.format(f"{storage}, {kept}, {str(uniform).lower()}")
    return f"""{halves}#include "{name}.h"

namespace lnm {{
namespace {{

struct Neuron {{
  using T = {arithmetic};
{neuron}
}};

}}  // namespace
}}  // namespace lnm

extern "C" void run(const lnm::Pass& pass, int64_t begin, int64_t end) {{
  using namespace lnm;
  for (int64_t item = begin; item < end; ++item) {{
    const Tile tile(pass.plan, item);
    {call};
  }}
}}
"""
