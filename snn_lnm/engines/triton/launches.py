"""Launches of a neuron's kernels: geometry, constants, tensors."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snn_lnm.checks import STATE_DTYPE
from snn_lnm.engines import form
from snn_lnm.engines.generator import program
from snn_lnm.engines.generator.evaluate import evaluate
from snn_lnm.engines.triton import neurons
from snn_lnm.engines.triton.geometry import PROGRAMS, THREADS, Plan, plan

__all__ = ["Launch", "interpreted", "prepare_backward", "prepare_forward"]

STAGES = {"forward_kernel": 8, "backward_kernel": 4}  # steps whose loads are under way at a time: shared memory
REGISTERS = 168  # of a thread, at most
ROWS = 16  # steps that a gradient is summed over before the sum goes to float64


def interpreted() -> bool:
    """Triton's interpreter was asked for in the environment."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


class Prepared(NamedTuple):
    """Everything of a launch but its tensors: kernel, geometry, constants that are compiled in."""

    kernel: Any
    geometry: Plan
    constants: dict[str, Any]
    kernels: dict[tuple[Any, ...], tuple[Callable[..., None], tuple[Any, ...]]]  # compiled, with their constants


@functools.lru_cache(maxsize=1024)
def _prepared(
    law: str,
    needs: tuple[bool, ...] | None,
    sizes: tuple[int, int, int, int, int],
    many: tuple[bool, ...],
    starts: tuple[bool, ...],
    holds: bool,
) -> Prepared:
    """The next launch of the same layer finds it here, in a few microseconds."""
    neuron = form.parse(law).law
    kernel, functions = neurons.forward_kernel(neuron) if needs is None else neurons.backward_kernel(neuron, needs)
    geometry = plan(*sizes, PROGRAMS)
    constants = {"D": functions, "MANY": many, "STARTS": starts, "HOLDS": holds, "SHARED": geometry.shared}
    constants |= {"BLOCK": geometry.block, "ALIGN": geometry.align}
    return Prepared(kernel, geometry, constants if needs is None else constants | {"ROWS": ROWS}, {})


class Launch(NamedTuple):
    """One kernel call: what to run, on which tensors."""

    prepared: Prepared
    tensors: tuple[Tensor | None, ...]

    @property
    def kernel(self) -> Any:
        return self.prepared.kernel

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The kernel's, in its order, before the constants."""
        return (*self.tensors, *self.prepared.geometry.sizes)

    def options(self, warp_size: int) -> dict[str, Any]:
        """The compiler's. Fused multiply-adds would change the forward pass's bits; gradients may round less."""
        backward = self.kernel.__name__ == "backward_kernel"
        # Left to itself, NVIDIA's assembler spills a few registers to make room for programs that are not there.
        bound = {"maxnreg": REGISTERS} if backward and warp_size == 32 else {}
        return {"num_warps": THREADS // warp_size, "enable_fp_fusion": backward, **bound}

    def compiled_in(self, warp_size: int) -> dict[str, Any]:
        """The constants for a target. Loads under way are kept in shared memory; AMD's would take registers."""
        on_amd = warp_size == 64 or torch.version.hip is not None
        return {**self.prepared.constants, "STAGES": 1 if on_amd else STAGES[self.kernel.__name__]}

    def __call__(self, device: torch.device) -> None:
        if self.prepared.geometry.programs == 0:
            return
        elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
        with torch.cuda.device(device) if elsewhere else contextlib.nullcontext():
            self._start(device)

    def _start(self, device: torch.device) -> None:
        """A kernel that was compiled for such tensors is called without Triton's own search for it."""
        known = self.prepared.kernels
        key = (device, *[t if t is None else (t.dtype, t.data_ptr() % 16 == 0) for t in self.tensors])
        if key in known:
            kernel, constants = known[key]
            kernel(*self.arguments, *constants)
            return
        warp_size, grid = _warp_size(), (self.prepared.geometry.programs, 1, 1)
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


def _contiguous(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.contiguous()


def _empty_like(value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty_like(value, dtype=dtype, memory_format=torch.contiguous_format)


def _prepare(
    x: Tensor, states: list[Tensor], numbers: list[Tensor], law: str, inner: int, groups: int, steps: int,
    single_step: bool, needs: tuple[bool, ...] | None,
) -> tuple[Prepared, list[Tensor], list[Tensor]]:  # fmt: skip
    """With the starts and the numbers as the kernel reads them."""
    widths = [width or 1 for _, width in form.parse(law).law.numbers]
    many = tuple([number.numel() > width for number, width in zip(numbers, widths, strict=True)])
    starts = tuple([not any(state.stride()) for state in states])
    times = steps or (1 if single_step else x.shape[0])
    count = x.numel() if steps else x.numel() // max(1, times)
    found = _prepared(law, needs, (times, count, inner, groups, x.element_size()), many, starts, bool(steps))
    dense = [state if one else state.contiguous() for state, one in zip(states, starts, strict=True)]
    return found, dense, [number.contiguous() for number in numbers]


def prepare_forward(
    x: Tensor, states: list[Tensor], numbers: list[Tensor], law: str, inner: int, groups: int, steps: int,
    single_step: bool, kept: torch.dtype | None,
) -> tuple[list[Tensor], Launch]:  # fmt: skip
    """What the operator gives, and the launch that fills it."""
    found, starts, dense = _prepare(x, states, numbers, law, inner, groups, steps, single_step, None)
    whole = x.expand(steps, *x.shape) if steps else x
    dtype = STATE_DTYPE[x.dtype]
    spikes, h = _empty_like(whole), None if kept is None else _empty_like(whole, kept)
    same = form.parse(law).membrane_state if single_step and kept == dtype else -1
    last = [None if k == same else _empty_like(state, dtype) for k, state in enumerate(states)]
    nothing = [x.new_empty(0, dtype=dtype) if value is None else value for value in (h, *last)]
    return [spikes, *nothing], Launch(found, (x.contiguous(), *starts, spikes, h, *last, *dense))


def prepare_backward(
    d_outputs: list[Tensor | None], x: Tensor, states: list[Tensor], numbers: list[Tensor], h: Tensor, law: str,
    inner: int, groups: int, steps: int, single_step: bool, need_states: bool, need_numbers: list[bool],
) -> tuple[Callable[[], list[Tensor]], Launch]:  # fmt: skip
    """What gives the gradients after the launch, and the launch."""
    said, dtype = form.parse(law), STATE_DTYPE[x.dtype]
    needs = tuple(need_numbers)
    neuron = program.backward(said.law.form, needs)
    found, starts, dense = _prepare(x, states, numbers, law, inner, groups, steps, single_step, needs)
    geometry = found.geometry
    rows = geometry.programs if geometry.shared else geometry.chunks * geometry.period
    partial = x.new_empty((rows, len(neuron.summed)), dtype=torch.float64)
    earlier = x.new_empty((len(neuron.rerun), *h.shape), dtype=dtype) if neuron.rerun else None
    d_x, d_states = _empty_like(x), [_empty_like(state, dtype) if need_states else None for state in states]
    d_spikes, d_h, *d_last = map(_contiguous, d_outputs)
    inputs = [x.contiguous() if neuron.uses_input else None, *starts, h.contiguous(), earlier]
    launch = Launch(found, (*inputs, d_spikes, d_h, *d_last, d_x, *d_states, partial, *dense))

    def finish() -> list[Tensor]:
        found = iter(_gradients(said, neuron, needs, dense, _sums(geometry, groups, partial)))
        d_numbers = [next(found).view_as(n) if need else None for n, need in zip(numbers, needs, strict=True)]
        return [d_x, *[x.new_empty(0, dtype=dtype) if d is None else d for d in (*d_states, *d_numbers)]]

    return finish, launch


def _sums(geometry: Plan, groups: int, partial: Tensor) -> Tensor:
    """`[groups, sums]`, of the programs' ones."""
    if groups == 1:
        return partial.sum(0, keepdim=True)
    of_group = geometry.row_blocks if geometry.shared else geometry.inner
    return partial.view(geometry.chunks, groups, of_group, partial.shape[-1]).sum((0, 2))


def _gradients(
    said: form.Form, neuron: program.Backward, needs: tuple[bool, ...], numbers: list[Tensor], sums: Tensor
) -> list[Tensor]:
    """Of the tensors of numbers that are asked for, from the sums of the gradients of what follows from them."""
    if not any(needs):
        return []
    dtype, piece = numbers[0].dtype, neuron.pieces["finish"]
    used = neuron.inputs(node for _, node in piece)
    given = {name: torch.tensor(value, dtype=dtype) for name, value in said.law.constants if name in used}
    for (name, _), width, number in zip(said.law.numbers, neuron.widths, numbers, strict=True):
        names = [f"number.{name}.{k}" for k in range(width)]
        if not used.isdisjoint(names):
            given |= zip(names, number.view(-1, width).unbind(1), strict=True)
    totals = sums.to(dtype)
    given |= {f"total.{k}": total for k, total in enumerate(totals.unbind(1))}
    found = iter(evaluate(piece, given))
    gradients: list[Tensor] = []
    for known, width, number in zip(needs, neuron.widths, numbers, strict=True):
        if known:
            columns = [value if isinstance(value := next(found), Tensor) else totals.new_zeros(1) for _ in range(width)]
            each = torch.stack([column.expand(len(sums)) for column in columns], -1)
            gradients.append(each if number.numel() > width or len(sums) == 1 else each.sum(0))
    return gradients
