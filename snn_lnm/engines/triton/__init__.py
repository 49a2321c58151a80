"""The Triton engine, for NVIDIA and AMD GPUs: obstacles and launches. The law is in law.py.

Triton is imported at the first launch, never before. With ``TRITON_INTERPRET=1`` in the environment before that,
the kernels are interpreted on the CPU: the bits are the same, the speed is for tests.
"""

from __future__ import annotations

import contextlib
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

from snn_lnm.engines.triton.geometry import PROGRAMS, THREADS, Plan, plan
from snn_lnm.parameters import Charge, Extension, Reset, Synapse, check_choice
from snn_lnm.surrogate import BY_NAME, Surrogate

__all__ = ["backward", "forward", "interpreted", "missing", "obstacle", "prepare_backward", "prepare_forward"]

MINIMUM = Version("3.4")  # named tuples inside kernels
STAGES = {"forward_kernel": 8, "backward_kernel": 4}  # steps whose loads are under way at a time: shared memory
ROWS = 16  # steps that a gradient is summed over before the sum goes to float64
_SURROGATES: tuple[type[Surrogate], ...] = tuple(BY_NAME.values())


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
    def numbers(self) -> tuple[Tensor, ...]:
        """Of the law, as the kernels read them; α is never read where there is no synapse."""
        alpha = self.gain if self.alpha is None else self.alpha
        return tuple([t.contiguous() for t in (*self[:4], alpha)])

    def outputs(self, x: Tensor) -> torch.Size:
        """The shape of spikes and membranes."""
        return torch.Size([self.held, *x.shape]) if self.held else x.shape

    def form(self, x: Tensor, v: Tensor, needs: list[bool] | None = None) -> Form:
        """What a launch on ``x`` needs beside its tensors; a backward one with ``needs``."""
        steps, width = self.held or (1 if self.single_step else x.shape[0]), self.coefficients.shape[-1]
        counts = [self.coefficients.numel() // width, *[1 if t is None else t.numel() for t in self[1:5]]]
        neurons = x.numel() if self.held else x.numel() // max(1, steps)
        sizes = (steps, neurons, self.inner, max(counts), x.element_size(), PROGRAMS)
        many, synapse = tuple([count > 1 for count in counts]), self.alpha is not None
        options = tuple([tuple(option) if type(option) is list else option for option in self[8:]])
        wanted = None if needs is None else (*needs[:4], needs[4] and synapse)
        return _form(sizes, many, width - 1, synapse, options, not any(v.stride()), bool(self.held), wanted)


class Form(NamedTuple):
    """Everything of a launch but its tensors: geometry, constants that are compiled in, which numbers vary by group."""

    geometry: Plan
    programs: int
    constants: dict[str, Any]
    sizes: tuple[int, ...]
    many: tuple[bool, ...]
    degree: int
    groups: int
    start_is_one: bool  # one number under every index, as where no start is given: not written out
    width: int  # how many gradients of numbers are wanted
    kernels: dict[tuple[Any, ...], tuple[Callable[..., None], tuple[Any, ...]]]  # compiled, with their constants


@functools.lru_cache(maxsize=1024)
def _form(
    sizes: tuple[int, ...],
    many: tuple[bool, ...],
    degree: int,
    synapse: bool,
    options: tuple[Any, ...],
    start_is_one: bool,
    holds: bool,
    needs: tuple[bool, ...] | None,
) -> Form:
    """A :class:`Form`; the next launch of the same layer finds it here, in a few microseconds."""
    from snn_lnm.engines.triton.law import Options

    charge, reset, kind_of_synapse, surrogate, parameters, domain, extension, *flags = options
    detach_reset, fire_at_threshold, gain_divides, smooth = flags
    check_choice("charge", charge, Charge)
    check_choice("reset", reset, Reset)
    check_choice("synapse", kind_of_synapse, Synapse)
    check_choice("extension", extension, Extension)
    geometry, kind = plan(*sizes), _SURROGATES[int(surrogate)]
    first, second = parameters if len(parameters) == 2 else (*parameters, None)
    law = Options(
        degree=degree,
        charge=charge,
        reset=reset,
        state_is_membrane=reset not in ("hard", "soft"),
        synapse=kind_of_synapse if synapse else "",
        bounded=bool(domain),
        lo=domain[0] if domain else 0.0,
        hi=domain[1] if domain else 0.0,
        line=extension == "line",
        detach_reset=detach_reset,
        fire_at_threshold=fire_at_threshold,
        gain_divides=gain_divides,
        smooth=smooth,
        derivative=_formula(kind, "derivative"),
        primitive=_formula(kind, "primitive") if smooth else None,
        first=first,
        second=second,
    )
    constants = {"D": law, "START_IS_ONE": start_is_one, "HOLDS": holds, "MANY": many}
    constants |= {"SHARED": geometry.shared, "BLOCK": geometry.block, "ALIGN": geometry.align}
    # One sum for each coefficient and each of the other four numbers; -1 where nobody wants it.
    wanted = [] if needs is None else [*[needs[0]] * (degree + 1), *needs[1:]]
    if needs is not None:
        columns = tuple(sum(wanted[:k]) if want else -1 for k, want in enumerate(wanted))
        constants |= {"COLUMNS": columns, "WIDTH": sum(wanted), "ROWS": ROWS}
    groups = sizes[3]
    rest = (geometry.sizes, many, degree, groups, start_is_one, sum(wanted))
    return Form(geometry, geometry.programs, constants, *rest, {})


class Launch(NamedTuple):
    """One kernel call: what to run, in which form, on which tensors."""

    kernel: Any
    form: Form
    tensors: tuple[Tensor | None, ...]
    fuses: bool

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The kernel's, in its order, before the constants."""
        return (*self.tensors, *self.form.sizes)

    def options(self, warp_size: int) -> dict[str, Any]:
        """The compiler's. Fused multiply-adds would change the forward pass's bits; gradients may round less."""
        return {"num_warps": THREADS // warp_size, "enable_fp_fusion": self.fuses}

    def compiled_in(self, warp_size: int) -> dict[str, Any]:
        """The constants for a target. Loads under way are kept in shared memory; AMD's would take registers."""
        on_amd = warp_size == 64 or torch.version.hip is not None
        return {**self.form.constants, "STAGES": 1 if on_amd else STAGES[self.kernel.__name__]}

    def __call__(self, device: torch.device) -> None:
        if self.form.programs == 0:
            return
        elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
        with torch.cuda.device(device) if elsewhere else contextlib.nullcontext():
            self._start(device)

    def _start(self, device: torch.device) -> None:
        """A kernel that was compiled for such tensors is called without Triton's own search for it."""
        known = self.form.kernels
        key = (device, *[t if t is None else (t.dtype, t.data_ptr() % 16 == 0) for t in self.tensors])
        if key in known:
            kernel, constants = known[key]
            kernel(*self.arguments, *constants)
            return
        warp_size, grid = _warp_size(), (self.form.programs, 1, 1)
        constants = self.compiled_in(warp_size)
        kernel = self.kernel[grid](*self.arguments, **constants, **self.options(warp_size))
        if kernel is not None:  # which an interpreter does not give
            names = self.kernel.arg_names[len(self.arguments) :]
            known[key] = kernel[grid], tuple(constants[name] for name in names)


@functools.cache
def _warp_size() -> int:
    if interpreted():
        return 32
    import triton

    target: Any = triton.runtime.driver.active.get_current_target()
    return target.warp_size


def _launch(name: str, law: Law, form: Form, tensors: list[Tensor | None]) -> Launch:
    from snn_lnm.engines.triton import kernels

    return Launch(getattr(kernels, name), form, (*tensors, *law.numbers), name == "backward_kernel")


def _contiguous(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.contiguous()


def _empty_like(value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty_like(value, dtype=dtype, memory_format=torch.contiguous_format)


Outputs = tuple["Tensor | None", ...]


def forward(x: Tensor, v: Tensor, current: Tensor | None, *rest: Any) -> Outputs:
    """`snn_lnm::forward` on a GPU: spikes, h, last v, last current; None for what is not there."""
    outputs, launch = prepare_forward(x, v, current, *rest)
    launch(x.device)
    return outputs


def prepare_forward(x: Tensor, v: Tensor, current: Tensor | None, *rest: Any) -> tuple[Outputs, Launch]:
    law, membrane = Law(*rest[:-1]), rest[-1]
    form = law.form(x, v)
    whole = x.expand(law.outputs(x)) if law.held else x
    spikes, h = _empty_like(whole), None if membrane is None else _empty_like(whole, membrane)
    membrane_is_last = membrane == v.dtype and law.single_step and law.reset not in ("hard", "soft")
    last_v = h if membrane_is_last else _empty_like(v)
    last_current = None if law.alpha is None else _empty_like(v)
    start = [v if form.start_is_one else v.contiguous(), None if law.alpha is None else _contiguous(current)]
    launch = _launch("forward_kernel", law, form, [x.contiguous(), *start, spikes, h, last_v, last_current])
    return (spikes, h, None if membrane_is_last else last_v, last_current), launch


def backward(*arguments: Any) -> Outputs:
    """`snn_lnm::backward` on a GPU: the gradients of x, v, current, and of the five numbers; None for those unasked."""
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
    form, synapse = law.form(x, v, needs), law.alpha is not None
    geometry = form.geometry
    d_x = _empty_like(x)
    d_v = _empty_like(v) if need_state else None
    d_current = _empty_like(v) if need_state and synapse else None
    rows = form.programs if geometry.shared else geometry.chunks * geometry.period
    partial = x.new_empty((rows, form.width), dtype=torch.float64) if form.width else None
    currents = _empty_like(h, v.dtype) if synapse and (needs[3] or needs[4]) else None
    start = [v if form.start_is_one else v.contiguous(), _contiguous(current)]
    inputs = [x.contiguous() if needs[3] or needs[4] else None, *start, h.contiguous()]
    d_outputs = [_contiguous(t) for t in (d_spikes, d_h, d_last_v, d_last_current)]
    launch = _launch("backward_kernel", law, form, [*inputs, currents, *d_outputs, d_x, d_v, d_current, partial])

    def finish() -> Outputs:
        return (d_x, d_v, d_current, *_gradients(law, form, needs, partial))

    return finish, launch


def _gradients(law: Law, form: Form, needs: list[bool], partial: Tensor | None) -> list[Tensor | None]:
    """Of the five numbers, from the programs' sums."""
    if partial is None:
        return [None] * len(needs)
    if form.groups == 1:
        sums = partial.sum(0)
    else:
        geometry = form.geometry
        of_group = geometry.row_blocks if geometry.shared else geometry.inner
        sums = partial.view(geometry.chunks, form.groups, of_group, form.width).sum((0, 2))
    gradients: list[Tensor | None] = []
    column = 0
    for number, need, many in zip(law[:5], needs, form.many, strict=True):
        if number is None or not need:
            gradients.append(None)
            continue
        width = 1 if gradients else form.degree + 1
        total = sums if width == form.width else sums.narrow(-1, column, width)
        total = total if many or form.groups == 1 else total.sum(0)
        gradients.append(total.to(number.dtype).view_as(number))
        column += width
    return gradients
