"""The Triton engine, for NVIDIA and AMD GPUs: obstacles, geometry, launches. The law is in law.py.

Triton is imported at the first launch, never before. With ``TRITON_INTERPRET=1`` in the environment before that,
the kernels are interpreted on the CPU: the bits are the same, the speed is for tests.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import shutil
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from packaging.version import Version
from torch import Tensor

from snn_lnm.surrogate import BY_NAME, Surrogate

__all__ = ["backward", "forward", "interpreted", "missing", "obstacle", "plan", "prepare_backward", "prepare_forward"]

MINIMUM = Version("3.4")  # named tuples inside kernels
THREADS = 64  # of a program; each moves 16 bytes of the membrane at a time
PROGRAMS = 1024  # enough to fill a GPU: repeats are shared out to no more than about as many
STAGES = 4  # steps whose loads are under way at a time
ROWS = 16  # steps that a gradient is summed over before the sum goes to float64
ALIGN = 16  # elements; sizes that are multiples of it give vector accesses
_SURROGATES = tuple(BY_NAME.values())


# ---- obstacles -----------------------------------------------------------------------------------


def interpreted() -> bool:
    """Triton's interpreter was asked for in the environment."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def missing() -> str | None:
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "triton is not installed: `pip install triton` (PyTorch's GPU builds for Linux bring it along)."
    if Version(version) < MINIMUM:
        return f"triton {version} is too old, {MINIMUM} or newer is needed: upgrade PyTorch, which brings its triton."
    compilers = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    if not interpreted() and not any(name and shutil.which(name) for name in compilers):
        return (
            "Triton needs a C compiler for its launcher and none is on PATH: install one, for example "
            "`apt install gcc` or `conda install c-compiler`, or set CC."
        )
    return None


def obstacle(device: torch.device, needs_arctangent: bool) -> str | None:
    """Why the Triton engine cannot run this, in a sentence; None if it can."""
    if device.type != "cuda" and not (interpreted() and device.type == "cpu"):
        return f"the triton engine runs on GPU tensors, the input is on {device}."
    if needs_arctangent:
        return "Triton has no arctangent, ATan's primitive in smooth mode: use another surrogate there."
    return missing()


obstacle._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess] - functions take any


# ---- geometry ------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """How one launch cuts its neurons; `kernels.py` says what the sizes mean. Depends on sizes only."""

    steps: int
    neurons: int
    period: int
    span: int
    inner: int
    repeats: int
    block_repeats: int
    shared: bool
    block: int

    @property
    def align(self) -> int:
        return ALIGN if all(size % ALIGN == 0 for size in (self.neurons, self.period, self.span)) else 1

    @property
    def chunks(self) -> int:
        return -(-self.repeats // self.block_repeats)

    @property
    def rows(self) -> int:
        return self.period // max(1, self.span)

    @property
    def row_blocks(self) -> int:
        return -(-self.span // self.block)

    @property
    def programs(self) -> int:
        return self.rows * self.row_blocks * self.chunks

    @property
    def sizes(self) -> tuple[int, ...]:
        """The kernels' sizes, in their order."""
        scaled = (size // self.align for size in (self.neurons, self.period, self.span))
        return (self.steps, *scaled, self.inner, self.repeats, self.block_repeats, self.rows, self.row_blocks)


def plan(steps: int, neurons: int, inner: int, groups: int, itemsize: int) -> Plan:
    """The geometry for `[steps, neurons]`, neuron i of a step in group ``(i // inner) % groups``."""
    block = THREADS * 16 // max(4, itemsize)
    if groups == 1:
        return Plan(steps, neurons, neurons, neurons, 1, 1, 1, True, block)
    period = inner * groups
    repeats = neurons // period
    if inner % block == 0 or inner >= 4 * block:  # few idle lanes at the ends of groups
        return Plan(steps, neurons, period, inner, inner, repeats, 1, True, block)
    blocks = -(-period // block)
    block_repeats = max(1, blocks * repeats // PROGRAMS)
    return Plan(steps, neurons, period, period, inner, repeats, block_repeats, False, block)


# ---- launches ------------------------------------------------------------------------------------


@functools.cache
def _formula(surrogate: type[Surrogate], name: str) -> Any:
    """A surrogate's formula as a Triton function: the one of surrogate.py, which Triton compiles from its source."""
    import triton
    import triton.language as tl

    formula = getattr(surrogate, name)
    named = types.FunctionType(formula.__code__, {"tl": tl}, formula.__name__)
    named.__module__, named.__qualname__ = formula.__module__, formula.__qualname__
    return triton.jit(named)


class Law(NamedTuple):
    """The part of the operators' arguments that forward and backward share (see `engines/op.py`)."""

    coefficients: Tensor
    threshold: Tensor
    v_reset: Tensor
    gain: Tensor
    alpha: Tensor | None
    inner: int
    single_step: bool
    held: int
    charge: str
    reset: str
    synapse: str
    surrogate: int
    surrogate_parameters: list[float]
    domain: list[float]
    extension: str
    detach_reset: bool
    fire_at_threshold: bool
    gain_divides: bool
    smooth: bool

    @property
    def degree(self) -> int:
        return self.coefficients.shape[-1] - 1

    @property
    def numbers(self) -> tuple[Tensor, ...]:
        alpha = self.gain if self.alpha is None else self.alpha  # never read where there is no synapse
        return tuple(t.contiguous() for t in (*self[:4], alpha))

    @property
    def many(self) -> tuple[bool, ...]:
        """Which numbers vary by group."""
        return tuple(t.numel() > (self.degree + 1 if k == 0 else 1) for k, t in enumerate(self.numbers))

    @property
    def groups(self) -> int:
        return max(t.numel() // (self.degree + 1 if k == 0 else 1) for k, t in enumerate(self.numbers))

    def outputs(self, x: Tensor) -> torch.Size:
        """The shape of spikes and membranes."""
        return torch.Size([self.held, *x.shape]) if self.held else x.shape

    def plan(self, x: Tensor) -> Plan:
        steps = 1 if self.single_step else x.shape[0]
        return plan(steps, x.numel() // max(1, steps), self.inner, self.groups, x.element_size())

    def options(self) -> Any:
        """The kernels' constexpr options."""
        from snn_lnm.engines.triton.law import Options

        kind = _SURROGATES[self.surrogate]
        first, second = (
            self.surrogate_parameters if len(self.surrogate_parameters) == 2 else (*self.surrogate_parameters, None)
        )
        return Options(
            degree=self.degree,
            charge=self.charge,
            reset=self.reset,
            state_is_membrane=self.reset not in ("hard", "soft"),
            synapse="" if self.alpha is None else self.synapse,
            bounded=bool(self.domain),
            lo=self.domain[0] if self.domain else 0.0,
            hi=self.domain[1] if self.domain else 0.0,
            line=self.extension == "line",
            detach_reset=self.detach_reset,
            fire_at_threshold=self.fire_at_threshold,
            gain_divides=self.gain_divides,
            smooth=self.smooth,
            derivative=_formula(kind, "derivative"),
            primitive=_formula(kind, "primitive") if self.smooth else None,
            first=first,
            second=second,
        )


class Launch(NamedTuple):
    """One kernel call: what to run on how many programs, with which arguments and constants."""

    kernel: Any
    programs: int
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    fuses: bool

    def options(self, warp_size: int) -> dict[str, Any]:
        """The compiler's. Fused multiply-adds would change the forward pass's bits; gradients may round less."""
        return {"num_warps": THREADS // warp_size, "enable_fp_fusion": self.fuses}

    def __call__(self, device: torch.device) -> None:
        if self.programs == 0:
            return
        with torch.cuda.device(device if device.type == "cuda" else -1):
            self.kernel[(self.programs,)](*self.arguments, **self.constants, **self.options(_warp_size()))


@functools.cache
def _warp_size() -> int:
    if interpreted():
        return 32
    import triton

    target: Any = triton.runtime.driver.active.get_current_target()
    return target.warp_size


def _launch(name: str, law: Law, geometry: Plan, arguments: list[Tensor | None], **constants: Any) -> Launch:
    from snn_lnm.engines.triton import kernels

    shape = {"MANY": law.many, "SHARED": geometry.shared, "BLOCK": geometry.block, "ALIGN": geometry.align}
    shape["STAGES"] = STAGES
    everything = (*arguments, *law.numbers, *geometry.sizes)
    constants = {"D": law.options(), **constants, **shape}
    return Launch(getattr(kernels, name), geometry.programs, everything, constants, name == "backward_kernel")


def _contiguous(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.contiguous()


Outputs = tuple[Tensor, ...]


def forward(x: Tensor, v: Tensor, current: Tensor | None, *rest: Any) -> Outputs:
    """`snn_lnm::forward` on a GPU: spikes, h, last v, last current."""
    outputs, launch = prepare_forward(x, v, current, *rest)
    launch(x.device)
    return outputs


def prepare_forward(x: Tensor, v: Tensor, current: Tensor | None, *rest: Any) -> tuple[Outputs, Launch]:
    law, membrane = Law(*rest[:-1]), rest[-1]
    x = x.expand(law.outputs(x)).contiguous()
    nothing = v.new_empty(0)
    spikes, h = torch.empty_like(x), None if membrane is None else x.new_empty(x.shape, dtype=membrane)
    membrane_is_last = membrane == v.dtype and law.single_step and law.reset not in ("hard", "soft")
    last_v = h if h is not None and membrane_is_last else torch.empty_like(v, memory_format=torch.contiguous_format)
    last_current = None if law.alpha is None else torch.empty_like(last_v)
    inputs = [x, _contiguous(v), None if law.alpha is None else _contiguous(current)]
    launch = _launch("forward_kernel", law, law.plan(x), [*inputs, spikes, h, last_v, last_current])
    outputs = (spikes, h, nothing if membrane_is_last else last_v, last_current)
    return tuple(nothing.clone() if value is None else value for value in outputs), launch


def backward(*arguments: Any) -> Outputs:
    """`snn_lnm::backward` on a GPU: the gradients of x, v, current, and of the five numbers."""
    finish, launch = prepare_backward(*arguments)
    launch(arguments[4].device)
    return finish()


def prepare_backward(
    d_spikes: Tensor | None,
    d_h: Tensor | None,
    d_last_v: Tensor | None,
    d_last_current: Tensor | None,
    x: Tensor,
    v: Tensor,
    current: Tensor | None,
    h: Tensor,
    *rest: Any,
) -> tuple[Callable[[], Outputs], Launch]:
    law, need_state, needs = Law(*rest[:-2]), rest[-2], rest[-1]
    x = x.expand(law.outputs(x))
    geometry, synapse = law.plan(x), law.alpha is not None
    # One sum for each coefficient and each of the other four numbers; -1 where nobody wants it.
    wanted = [*[needs[0]] * (law.degree + 1), *needs[1:4], needs[4] and synapse]
    columns = tuple(sum(wanted[:k]) if want else -1 for k, want in enumerate(wanted))
    d_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    d_v = v.new_empty(v.shape) if need_state else None
    d_current = v.new_empty(v.shape) if need_state and synapse else None
    rows = geometry.programs if geometry.shared else geometry.chunks * geometry.period
    partial = torch.empty((rows, sum(wanted)), dtype=torch.float64, device=x.device) if any(wanted) else None
    needs_currents = synapse and (needs[3] or needs[4])
    currents = x.new_empty(x.shape, dtype=v.dtype) if needs_currents else None
    inputs = [_contiguous(t) for t in (x if needs[3] or needs[4] else None, v, current, h)]
    d_outputs = [_contiguous(t) for t in (d_spikes, d_h, d_last_v, d_last_current)]
    arguments = [*inputs, currents, *d_outputs, d_x, d_v, d_current, partial]
    launch = _launch("backward_kernel", law, geometry, arguments, COLUMNS=columns, WIDTH=sum(wanted), ROWS=ROWS)

    def finish() -> Outputs:
        nothing = v.new_empty(0)
        d_input = d_x.sum(0) if law.held else d_x
        given = tuple(nothing.clone() if value is None else value for value in (d_input, d_v, d_current))
        if partial is None:
            return (*given, *(nothing.clone() for _ in needs))
        sums = partial.view(geometry.chunks, law.groups, -1, partial.shape[-1]).sum((0, 2))
        gradients: list[Tensor] = []
        column = 0
        for number, need, many in zip(law[:5], needs, law.many, strict=True):
            if number is None or not need:
                gradients.append(nothing.clone())
                continue
            width = law.degree + 1 if not gradients else 1
            total = sums[:, column : column + width]
            gradients.append((total if many else total.sum(0)).reshape(number.shape).to(number.dtype))
            column += width
        return (*given, *gradients)

    return finish, launch
