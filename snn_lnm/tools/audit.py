"""What the compiled kernels are made of, without a GPU: `python -m snn_lnm audit`.

Every variant goes through the engine's own launcher, on tensors that hold nothing, and is compiled ahead of time for
each target. Reported is what its machine code says: registers, spills, and of the innermost loop that touches memory,
one or several steps, the width of accesses, bytes and instructions per neuron and step, and fused multiply-adds.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from snn_lnm.checks import STATE_DTYPE
from snn_lnm.engines import form
from snn_lnm.engines import triton as engine
from snn_lnm.engines.triton.geometry import THREADS
from snn_lnm.engines.triton.launches import Launch
from snn_lnm.parameters import Dynamics
from snn_lnm.surrogate import BY_NAME

__all__ = [
    "TARGETS", "Facts", "Variant", "compile_for", "inspect", "machine_code", "memory_loop",
    "read", "run", "step_bytes", "table", "variants",
]  # fmt: skip

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
"""Backend, architecture and warp size, as Triton names them: A100, H100, B200, MI300."""
_ACCESS = r"\b(?:tt\.load|tt\.store|ttg\.async_copy_global_to_local) .*tensor<\d+x!tt\.ptr<(\w+)>"
_TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


# ---- variants ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A neuron layer as the kernels see it. `bytes` are those its input and output need per neuron and step."""

    name: str
    shape: tuple[int, ...] = (32, 64, 4096)
    layout: str = "layer"
    degree: int = 3
    dtype: torch.dtype = torch.float32
    charge: str = "map"
    reset: str = "hard"
    detach_reset: bool = True
    fire_at_threshold: bool = False
    synapse: str = ""
    surrogate: str = "atan"
    domain: tuple[float, float] | None = (-1.5, 1.5)
    gain_divides: bool = False
    membrane: bool = True  # kept, as training needs it
    held: bool = False  # the input, one step
    kept_dtype: torch.dtype | None = None  # None: that of the arithmetic
    learned: bool = True  # the coefficients: they get gradients

    @property
    def membrane_dtype(self) -> torch.dtype:
        return self.kept_dtype or STATE_DTYPE[self.dtype]

    def tensor(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=STATE_DTYPE[self.dtype], device="meta")

    def text(self) -> str:
        """Of the neuron, for the operators."""
        dynamics = Dynamics(
            charge=cast(Any, self.charge), reset=cast(Any, self.reset), detach_reset=self.detach_reset,
            fire_at_threshold=self.fire_at_threshold, synapse=cast(Any, self.synapse or "decay"),
            surrogate=cast(Any, self.surrogate), domain=self.domain, gain_divides=self.gain_divides,
        )  # fmt: skip
        return form.neuron(dynamics, self.degree, bool(self.synapse)).text

    def numbers(self) -> list[torch.Tensor]:
        spread = {"layer": (), "channel": self.shape[2:3], "neuron": self.shape[2:]}[self.layout]
        count = 4 if self.synapse else 3
        return [self.tensor(*spread, self.degree + 1), *(self.tensor() for _ in range(count))]

    def call(self) -> tuple[str, int, int, int, bool]:
        """What the operators take besides tensors: the law, inner, groups, steps, single_step."""
        inner = math.prod(self.shape[3:]) if self.layout == "channel" else 1
        groups = {"layer": 1, "channel": self.shape[2], "neuron": math.prod(self.shape[2:])}[self.layout]
        return self.text(), inner, groups, self.held * self.shape[0], False

    def launches(self) -> dict[str, Launch]:
        """The forward launch and, for training, the backward one."""
        outputs = torch.empty(self.shape, dtype=self.dtype, device="meta")
        x = outputs[0] if self.held else outputs
        states = [self.tensor(*self.shape[1:]) for _ in range(2 if self.synapse else 1)]
        kept = self.membrane_dtype if self.membrane else None
        tensors = x, states, self.numbers()
        launches = {"forward": engine.prepare_forward(*tensors, *self.call(), kept)[1]}
        if self.membrane:
            h = torch.empty(self.shape, dtype=kept, device="meta")
            needs = [self.learned, *[False] * (len(tensors[2]) - 1)]
            d_outputs = [outputs, *[None] * (1 + len(states))]
            launches["backward"] = engine.prepare_backward(d_outputs, *tensors, h, *self.call(), False, needs)[1]
        return launches

    def bytes(self, kernel: str) -> int:
        """x, s and h forward; the gradients of s and x, and h, backward; x and its gradient only where not held."""
        return (1 if self.held else 2) * self.dtype.itemsize + (self.membrane_dtype.itemsize if self.membrane else 0)


def variants() -> Iterator[Variant]:
    """What is audited: every option of the law once, every layout and dtype, sizes that allow wide accesses."""
    yield Variant("LIF", degree=1, domain=None)
    yield Variant("QIF", degree=2)
    yield Variant("cubic")
    yield Variant("cubic, inference", membrane=False)
    yield Variant("degree 8", degree=8)
    for charge in ("drift", "residual"):
        yield Variant(charge, charge=charge)
    for reset in ("soft", "none", "hard_next", "soft_next"):
        yield Variant(reset, reset=reset)
    yield Variant("attached reset", detach_reset=False)
    yield Variant("gain divides", charge="residual", gain_divides=True)
    for synapse in ("decay", "euler"):
        yield Variant(f"synapse {synapse}", synapse=synapse)
    for surrogate in BY_NAME:
        yield Variant(surrogate, surrogate=surrogate)
    yield Variant("per channel", shape=(16, 8, 32, 32, 32), layout="channel")
    yield Variant("per channel, small maps", shape=(16, 8, 128, 4, 4), layout="channel")
    yield Variant("per neuron", layout="neuron")
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        yield Variant(str(dtype).removeprefix("torch."), dtype=dtype)
    yield Variant("bfloat16 membrane", kept_dtype=torch.bfloat16)
    yield Variant("held input", held=True)
    yield Variant("odd size", shape=(32, 3, 1001))


# ---- machine code --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """One kernel of one variant on one target. Of the loop: per neuron and step."""

    variant: str
    kernel: str
    target: str
    registers: int
    spilled: int
    stack: int
    shared: int
    load_bits: int
    store_bits: int
    bytes: float
    instructions: float
    contractions: int
    faults: tuple[str, ...] = ()


class Code(NamedTuple):
    """Instructions of a stretch of machine code, and the widths of its loads and stores in bits."""

    instructions: list[str]
    loads: list[int]
    stores: list[int]

    @property
    def bytes(self) -> float:
        """Moved by one thread."""
        return (sum(self.loads) + sum(self.stores)) / 8


def compile_for(launch: Launch, target: str) -> Any:
    """The launch's kernel, compiled by Triton for a target that need not be here."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    constants = launch.compiled_in(TARGETS[target][2])
    for index, (name, value) in enumerate(zip(launch.kernel.arg_names, launch.arguments, strict=False)):
        if value is None:
            signature[name], constants[name] = "constexpr", None
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[(index,)] = _TYPES[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = launch.kernel.params[index].annotation_type
    signature |= dict.fromkeys(launch.kernel.arg_names[len(launch.arguments) :], "constexpr")
    source, options = ASTSource(launch.kernel, signature, constants, attributes), launch.options(TARGETS[target][2])
    return cast(Any, triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options))


def step_bytes(ttgir: str, conditional: bool = True) -> int:
    """Bytes per neuron that one pass of the innermost loop moves, in the code before unrolling.

    Without ``conditional``, only what every pass moves: nothing under an `if`.
    """
    size = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2}
    depth, found = 0, 0
    open_loops: list[tuple[int, int]] = []  # depth at which it ends, bytes so far; -1: it holds another loop
    open_ifs: list[int] = []  # depth at which it ends
    for line in ttgir.splitlines():
        access = re.search(_ACCESS, line)
        if access and open_loops and open_loops[-1][1] >= 0 and (conditional or not open_ifs):
            open_loops[-1] = (open_loops[-1][0], open_loops[-1][1] + size[access[1]])
        depth += line.count("{") - line.count("}")
        if re.search(r"\bscf\.if\b", line):
            open_ifs.append(depth)
        elif re.search(r"\bscf\.for\b", line):
            if open_loops:
                open_loops[-1] = (open_loops[-1][0], -1)
            open_loops.append((depth, 0))
        while open_ifs and depth < open_ifs[-1]:
            open_ifs.pop()
        while open_loops and depth < open_loops[-1][0]:
            found = max(found, open_loops.pop()[1])
    return found


def _loops(lines: list[str], label: str, branch: str) -> Iterator[list[str]]:
    """The innermost loops: from a label to the last branch back to it, with no other such pair inside."""
    at = {match[1]: i for i, line in enumerate(lines) if (match := re.match(label, line))}
    last: dict[int, int] = {}
    for i, line in enumerate(lines):
        match = re.search(branch, line)
        if match and at.get(match[1], i) < i:
            last[at[match[1]]] = i
    for first, end in last.items():
        if not any(first < a and b <= end for a, b in last.items()):
            yield lines[first : end + 1]


def read(lines: list[str], syntax: dict[str, str]) -> Code:
    instructions = [match[1] for line in lines if (match := re.match(syntax["instruction"], line))]
    widths: dict[str, list[int]] = {"load": [], "store": []}
    for instruction in instructions:
        for kind, found in widths.items():
            if match := re.match(syntax[kind], instruction):
                found.append(_bits(match[1]))
    return Code(instructions, widths["load"], widths["store"])


def memory_loop(lines: list[str], syntax: dict[str, str]) -> Code:
    """The longest innermost loop that reads or writes memory; empty without one."""
    loops = (read(body, syntax) for body in _loops(lines, syntax["label"], syntax["branch"]))
    moving = [loop for loop in loops if loop.loads or loop.stores]
    return max(moving, key=lambda loop: len(loop.instructions), default=Code([], [], []))


def _bits(suffix: str) -> int:
    """Width of an access from its mnemonic: `.E.128`, `.E.U16`, `dwordx4`, `short`."""
    if match := re.search(r"x(\d)$", suffix):
        return 32 * int(match[1])
    if match := re.search(r"(8|16|64|128)\b", suffix):
        return int(match[1])
    return 16 if "short" in suffix else 32


_SASS = {
    "label": r"\s*/\*0*(\w+)\*/",
    "branch": r"\bBRA\b[^;]*?\b0x0*(\w+)",
    "instruction": r"\s*/\*\w+\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)",
    "load": r"LDG(?!DEPBAR)(.*)",  # with S, to shared memory; DEPBAR waits for those
    "store": r"STG(.*)",
    "contraction": r"[FD]FMA|HFMA2",
}
_AMDGCN = {
    "label": r"\.(\w+):",
    "branch": r"\bs_c?branch\w* \.(\w+)",
    "instruction": r"\t([a-z]\w*)",
    "load": r"(?:global|buffer|flat)_load_(\w+)",
    "store": r"(?:global|buffer|flat)_store_(\w+)",
    "contraction": r"v_(pk_)?(fma|fmac|mad|mac)_",
}


def _cuobjdump(compiled: Any, what: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return subprocess.run([tool, what, file.name], capture_output=True, text=True, check=True).stdout


def machine_code(compiled: Any, target: str) -> tuple[list[str], dict[str, str], dict[str, Any]]:
    """Its lines, how to read them, and what the kernel occupies."""
    if TARGETS[target][0] == "hip":
        text = compiled.asm["amdgcn"]
        counts = {name: int(count) for name, count in re.findall(r"\.(\w+):\s+(\d+)", text)}
        return (
            text.splitlines(),
            _AMDGCN,
            {
                "registers": counts["vgpr_count"],
                "spilled": counts["vgpr_spill_count"] + counts["sgpr_spill_count"],
                "stack": counts["private_segment_fixed_size"],
                "shared": counts["group_segment_fixed_size"],
            },
        )
    text = _cuobjdump(compiled, "-sass")
    usage = dict(re.findall(r"\b(REG|STACK|SHARED):(\d+)", _cuobjdump(compiled, "-res-usage")))
    return (
        text.splitlines(),
        _SASS,
        {
            "registers": int(usage["REG"]),
            "spilled": len(re.findall(r"\b(?:LDL|STL)\b", text)),
            "stack": int(usage["STACK"]),
            "shared": int(usage["SHARED"]),
        },
    )


def inspect(variant: Variant, kernel: str, launch: Launch, target: str) -> Facts:
    """Compile one kernel of a variant and read its machine code."""
    compiled = compile_for(launch, target)
    lines, syntax, resources = machine_code(compiled, target)
    loop = memory_loop(lines, syntax)
    block, per_step = launch.prepared.constants["BLOCK"], step_bytes(compiled.asm["ttgir"])
    steps = loop.bytes * THREADS / block / per_step if per_step else 0.0  # that the loop was unrolled to
    facts = Facts(
        variant=variant.name,
        kernel=kernel,
        target=target,
        **resources,
        load_bits=min(loop.loads, default=0),
        store_bits=min(loop.stores, default=0),
        bytes=per_step,
        instructions=round(len(loop.instructions) * THREADS / block / steps, 1) if steps else 0.0,
        contractions=sum(bool(re.match(syntax["contraction"], i)) for i in loop.instructions),
    )
    return replace(facts, faults=tuple(_faults(facts, variant, launch, steps)))


def _faults(facts: Facts, variant: Variant, launch: Launch, steps: float) -> Iterator[str]:
    if facts.spilled or facts.stack:
        yield f"{facts.spilled} spills, {facts.stack} bytes of stack"
    if launch.prepared.constants["ALIGN"] == 1:
        return
    if steps < 1 or steps != int(steps):
        yield f"the loop's accesses are {steps:g} times those of one step"
    needed = variant.bytes(facts.kernel)
    if facts.bytes != needed:
        yield f"{facts.bytes} bytes per neuron and step, {needed} are needed"
    narrowest = min(variant.dtype.itemsize, variant.membrane_dtype.itemsize)
    vector = 8 * min(16, launch.prepared.constants["BLOCK"] // THREADS * narrowest)
    # A held input is read before the forward loop, and its gradient written after the backward one.
    held = facts.kernel if variant.held else ""
    if (facts.load_bits < vector and held != "forward") or (facts.store_bits < vector and held != "backward"):
        yield f"accesses of {facts.load_bits} and {facts.store_bits} bits, {vector} are possible"
    if facts.kernel == "forward" and facts.contractions and not variant.gain_divides:
        yield f"{facts.contractions} fused multiply-adds in the forward loop change the bits"


def _facts(variant: Variant, targets: list[str]) -> list[Facts]:
    return [inspect(variant, *launch, target) for launch in variant.launches().items() for target in targets]


def run(targets: list[str], only: str = "", jobs: int = 1) -> Iterator[Facts]:
    """The facts of all variants whose name contains ``only``, compiled by ``jobs`` processes.

    Raises:
        RuntimeError: Triton is missing, or interprets its kernels instead of compiling them.
    """
    if engine.interpreted():
        raise RuntimeError("TRITON_INTERPRET=1 makes Triton interpret kernels, not compile them: unset it.")
    if (reason := engine.missing()) is not None:
        raise RuntimeError(reason)
    chosen = [variant for variant in variants() if only in variant.name]
    if jobs == 1:
        yield from itertools.chain.from_iterable(_facts(variant, targets) for variant in chosen)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from itertools.chain.from_iterable(pool.map(_facts, chosen, itertools.repeat(targets)))


def table(rows: list[Facts]) -> str:
    """The facts as text, faults last."""
    head = ("variant", "kernel", "target", "regs", "spills", "stack", "load", "store", "bytes", "instr", "fma", "")
    cells = [
        (
            f.variant, f.kernel, f.target, f.registers, f.spilled, f.stack, f"{f.load_bits}b", f"{f.store_bits}b",
            f"{f.bytes:g}", f"{f.instructions:g}", f.contractions, "; ".join(f.faults) or "ok",
        )
        for f in rows
    ]  # fmt: skip
    lines = [head, *(tuple(map(str, row)) for row in cells)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
