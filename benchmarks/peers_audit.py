"""Our Triton kernels beside SpikingJelly's, without a GPU: `python -m benchmarks.peers_audit`.

Float32, one layer `[32, 64, 4096]`, hard reset, atan, spikes as the only output, all bytes and instructions per neuron
and step. Both sides are compiled ahead of time by the same Triton and read by the same audit
(`snn_lnm.tools.audit`). The exit status is 1 if ours is worse in a column that is judged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers_kernels import (
    TAU,
    Call,
    Neuron,
    Shape,
    check_version,
    compilations,
    compile_call,
    flexsn,
    jelly,
    kept,
    ours,
)
from snn_lnm.engines import triton as engine
from snn_lnm.tools.audit import machine_code, memory_loop, read, step_bytes

STEPS, LAYER = 32, (64, 4096)
SHAPES: list[Shape] = [
    (1, 1, 16), (4, 64, 4096), (5, 1, 4096), (1000, 7, 512), (32, 64, 1024),
    (2, 3, 48), (16, 16, 16), (3, 1, 2**20), (128, 64, 512), (7, 2, 2**31),
]  # fmt: skip
"""Over which compilations are counted."""
TARGETS = ("sm_80", "sm_90", "sm_100")


@dataclass(frozen=True)
class Row:
    """One neuron on one target; bytes and instructions are per neuron and step."""

    comparison: str
    target: str
    neuron: str
    forward_bytes: float
    backward_bytes: float
    outside_bytes: float  # written by PyTorch operators around the kernels
    saved_bytes: float
    forward_instructions: float
    backward_instructions: float
    forward_registers: int
    backward_registers: int
    spilled: int
    compilations: int

    @property
    def traffic(self) -> float:
        return self.forward_bytes + self.backward_bytes + self.outside_bytes


JUDGED = (
    "forward_bytes", "backward_bytes", "outside_bytes", "saved_bytes",
    "forward_instructions", "backward_instructions", "spilled", "compilations",
)  # fmt: skip
"""Registers are shown, not judged: they cost nothing until they limit how many programs a GPU holds."""
BALANCE = 115
"""Instructions per neuron and step that an A100 issues while it moves 12 bytes (docs/performance-gpu.md): so many are
free, and loads that run ahead are paid with them."""


@dataclass(frozen=True)
class Comparison:
    """Rows to compare. ``ours`` is judged against ``theirs``, ``also`` is shown with them."""

    name: str
    ours: Callable[[], Neuron]
    theirs: Callable[[], Neuron]
    also: Callable[[], Neuron]
    share: float | None = None  # of their traffic, instead of every column


def comparisons() -> list[Comparison]:
    from spikingjelly.activation_based import neuron

    found = []
    for detach in (True, False):
        reset = "detached" if detach else "attached"
        natives = ("LIF", 1, (TAU, True), neuron.LIFNode), ("QIF", 2, (TAU, 0.0, 0.8, 1.0), neuron.QIFNode)
        for name, degree, numbers, kind in natives:
            found.append(
                Comparison(
                    f"{name}, {reset} reset",
                    lambda d=degree, r=detach, k=kind: ours(d, False, k(TAU, detach_reset=r), r),
                    lambda n=name, r=detach, p=numbers: jelly(n.lower(), p, r),
                    lambda d=degree, r=detach, k=kind: ours(d, True, k(TAU, detach_reset=r), r),
                )
            )
    cubic = ours(3, True, None, False), ours(3, False, None, False)
    learned, fixed = (lambda: cubic[0]), (lambda: cubic[1])
    found.append(Comparison("learned cubic, attached reset", learned, lambda: flexsn(True), fixed, 0.2))
    found.append(Comparison("fixed cubic, attached reset", fixed, lambda: flexsn(False), learned))
    return found


def cost(calls: Callable[[int], Call], target: str) -> tuple[float, float, int, int]:
    """Bytes and instructions per neuron and step, registers and spills of the kernel that ``calls`` gives for T steps.

    Read off the innermost loop that writes memory. Instructions under an `if` in it are all counted, as if each step
    took every branch; bytes are those that every step moves. A kernel without a loop was unrolled over all steps: then
    two lengths are compiled, and what the longer one has more is that of its additional steps.
    """
    call = calls(STEPS)
    compiled = compile_call(call, target)
    lines, syntax, resources = machine_code(compiled, target)
    given = call.kernel.signature.bind_partial(*call.arguments)
    constants = {**given.arguments, **call.options}
    neurons = constants.get("BLOCK", constants.get("BLOCK_NCL")) / (32 * compiled.metadata.num_warps)  # of a thread
    code = memory_loop(lines, syntax)
    if code.stores:
        steps = code.bytes / neurons / step_bytes(compiled.asm["ttgir"])
        moved = float(step_bytes(compiled.asm["ttgir"], conditional=False))
        issued = len(code.instructions)
    else:
        shorter, steps = machine_code(compile_call(calls(STEPS // 2), target), target)[0], STEPS - STEPS // 2
        long, short = read(lines, syntax), read(shorter, syntax)
        moved = (long.bytes - short.bytes) / neurons / steps
        issued = len(long.instructions) - len(short.instructions)
    occupied = resources["registers"], resources["spilled"] + resources["stack"]
    return moved, round(issued / neurons / steps, 1), *occupied


def best(neuron: Neuron, kernel: str, target: str) -> tuple[float, float, int, int]:
    """The cost in the tuning configuration of the fewest instructions."""

    def call(steps: int, index: int) -> Call:
        return neuron.calls((steps, *LAYER))[kernel][index]

    count = len(neuron.calls((STEPS, *LAYER))[kernel])
    costs = [cost(lambda steps, i=index: call(steps, i), target) for index in range(count)]
    return min(costs, key=lambda each: each[1])


def measure(comparison: str, neuron: Neuron, target: str) -> Row:
    saved, outside = kept(neuron, (STEPS, *LAYER))
    there, back = (best(neuron, kernel, target) for kernel in ("forward", "backward"))
    return Row(
        comparison, target, neuron.name, there[0], back[0], outside, saved, there[1], back[1], there[2], back[2],
        there[3] + back[3], compilations(neuron, SHAPES, target),
    )  # fmt: skip


def worse(mine: Row, theirs: Row, share: float | None = None) -> list[str]:
    """In which judged columns ``mine`` is worse, as sentences."""
    if share is not None:
        part = mine.traffic / theirs.traffic
        return [f"traffic is {part:.3g} of theirs, {share:g} was promised"] if part > share else []
    pairs = ((name, getattr(mine, name), getattr(theirs, name)) for name in JUDGED)
    found = [(name, a, b) for name, a, b in pairs if a > (max(b, BALANCE) if name.endswith("instructions") else b)]
    return [f"{name.replace('_', ' ')}: {a:g} against {b:g}" for name, a, b in found]


def table(rows: Sequence[Row]) -> str:
    head = (
        "comparison", "target", "neuron", "bytes fwd", "bwd", "outside", "saved", "instr fwd", "bwd",
        "regs fwd", "bwd", "spills", "compiled",
    )  # fmt: skip
    lines = [head, *(tuple(f"{v:g}" if isinstance(v, float) else str(v) for v in asdict(r).values()) for r in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", nargs="+", default=["sm_90"], choices=TARGETS, metavar="TARGET")
    parser.add_argument("--only", default="", help="comparisons whose name contains this")
    parser.add_argument("--json", type=Path, help="also write all rows there")
    options = parser.parse_args(arguments)
    try:
        if engine.interpreted():
            raise RuntimeError("TRITON_INTERPRET=1 makes Triton interpret kernels, not compile them: unset it.")
        if (reason := engine.missing()) is not None:
            raise RuntimeError(reason)
        check_version()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    rows, faults = [], []
    for comparison in (each for each in comparisons() if options.only in each.name):
        neurons = comparison.ours(), comparison.theirs(), comparison.also()
        for target in options.targets:
            found = [measure(comparison.name, neuron, target) for neuron in neurons]
            rows += found
            where = f"{comparison.name}, {target}: {found[0].neuron} is worse than {found[1].neuron}"
            faults += [f"{where}: {fault}" for fault in worse(found[0], found[1], comparison.share)]
    print(table(rows))
    print("\n".join(faults) or "ours is not worse in any column that is judged")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(bool(faults) or not rows)


if __name__ == "__main__":
    sys.exit(main())
