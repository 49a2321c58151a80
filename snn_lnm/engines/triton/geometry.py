"""How a launch of the Triton engine cuts its neurons."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PROGRAMS", "THREADS", "Plan", "plan"]

THREADS = 64  # of a program; each moves 16 bytes of the membrane at a time
PROGRAMS = 1024  # enough to fill a GPU
ALIGN = 16  # elements; sizes that are multiples of it give vector accesses


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


def plan(steps: int, neurons: int, inner: int, groups: int, itemsize: int, programs: int) -> Plan:
    """The geometry for `[steps, neurons]`, neuron i of a step in group ``(i // inner) % groups``.

    ``programs``: repeats are shared out to no more than about as many.
    """
    block = THREADS * 16 // max(4, itemsize)
    if groups == 1:
        return Plan(steps, neurons, neurons, neurons, 1, 1, 1, True, block)
    period = inner * groups
    repeats = neurons // period
    if inner % block == 0 or inner >= 4 * block:  # few idle lanes at the ends of groups
        return Plan(steps, neurons, period, inner, inner, repeats, 1, True, block)
    blocks = -(-period // block)
    block_repeats = max(1, blocks * repeats // programs)
    return Plan(steps, neurons, period, period, inner, repeats, block_repeats, False, block)
