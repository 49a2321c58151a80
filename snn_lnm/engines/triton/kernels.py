"""Two loops, forward and backward: time runs inside, the states stay in registers.

They know no neuron: `D`, a :class:`Neuron`, holds its functions, which engines/generator/triton.py prints together with
the kernels' heads. In the forward pass products and sums are rounded one by one (the launcher forbids contraction).

A step of the input is `repeats` times a `period` of neurons, `[groups, inner]`, over which the numbers of
the law vary by group (MANY says which of them do). The period is cut into `rows` of `span` neurons, a row into
`row_blocks` blocks. A program owns one block, for all times and for `block_repeats` of the repeats. With SHARED a
row is a group, whose numbers are scalars; without, the period is one row and every lane loads its own. With HOLDS the
input is one step, the same at each, and so is its gradient. STARTS says which states start as one number under every
index. Sizes are never compiled in: `neurons`, `period` and `span` come divided by ALIGN, which tells the compiler what
divides them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

SIZES = ["steps", "neurons", "period", "span", "inner", "repeats", "block_repeats", "rows", "row_blocks"]


class Place(NamedTuple):
    """Where a program works: its lanes in the period, which of them exist, their group, its repeats."""

    lane: Any
    mask: Any
    group: Any
    first: Any
    last: Any


@triton.jit
def find_place(
    span, inner, repeats, block_repeats, rows, row_blocks, SHARED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    block = tl.program_id(0) % (rows * row_blocks)
    chunk = tl.program_id(0) // (rows * row_blocks)
    row = (block // row_blocks).to(tl.int64)
    within = (block % row_blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    lane = row * span + within
    first = chunk * block_repeats
    return Place(lane, within < span, row if SHARED else lane // inner, first, min(first + block_repeats, repeats))


class Neuron(NamedTuple):
    """What shapes a kernel.

    Attributes:
        shared: what follows from the neuron's constants, as Python's numbers.
        widths: how many numbers come in each tensor.
        sums: how many gradients are summed.
        rerun: the places of the states that the backward pass computes again.
        uses_input: the backward pass looks at the input.
        prepare, center, step, above, back, recover, advance: the neuron's functions; None where a pass needs none.
    """

    shared: tuple[float, ...]
    widths: tuple[int, ...]
    sums: int
    rerun: tuple[int, ...]
    uses_input: bool
    prepare: Any
    center: Any
    step: Any
    above: Any
    back: Any
    recover: Any
    advance: Any


@triton.jit
def divide(a, b):
    """Rounded to nearest: Triton's own `/` is an approximation in float32."""
    return tl.div_rn(a, b) if b.dtype == tl.float32 else a / b


@triton.jit
def load_number(ptr, offset: tl.constexpr, size: tl.constexpr, p, MANY: tl.constexpr, SHARED: tl.constexpr):
    if not MANY:
        return tl.load(ptr + offset)
    elif SHARED:
        return tl.load(ptr + p.group * size + offset)
    else:
        return tl.load(ptr + p.group * size + offset, p.mask, 1.0)


@triton.jit
def load_numbers(p, pointers, MANY: tl.constexpr, SHARED: tl.constexpr, D: tl.constexpr, T: tl.constexpr):
    own = ()
    for i in tl.static_range(len(D.widths)):
        for k in tl.static_range(D.widths[i]):
            own = own + (load_number(pointers[i], k, D.widths[i], p, MANY[i], SHARED),)
    return D.prepare(own, D.shared, T)


@triton.jit
def load_starts(pointers, base, p, STARTS: tl.constexpr):
    """The states before the first step; each one number for all neurons, or one for each."""
    states = ()
    for k in tl.static_range(len(STARTS)):
        states = states + (tl.load(pointers[k] + (p.lane * 0 if STARTS[k] else base + p.lane), p.mask, 0.0),)
    return states


@triton.jit
def store_each(pointers, base, p, values):
    for k in tl.static_range(len(values)):
        if pointers[k] is not None:
            tl.store(pointers[k] + base + p.lane, values[k], p.mask)


@triton.jit
def distance_in_bfloat16(h, before, n, D: tl.constexpr, T: tl.constexpr):
    """The membrane's distance from the center: the nearest that leaves it on its side of the threshold.

    (A bfloat16 is the upper half of a float32.)
    """
    center = D.center(n, D.shared, T)
    distance = h - center
    bits = distance.to(tl.uint32, bitcast=True)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    nearest = tl.where(h == h, nearest, 0x7FC00000)  # rounding must not turn a NaN into infinity
    fires = D.above(h, before, n, D.shared, T)
    away = tl.where(fires == (distance > 0), 0xFFFF, 0)  # rounded so, the magnitude grows
    found = nearest.to(tl.float32, bitcast=True) + center
    upper = tl.where(D.above(found, before, n, D.shared, T) == fires, nearest, bits + away) >> 16
    return upper.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def forward(
    x_ptr, state_ptrs, spikes_ptr, h_ptr, last_ptrs, number_ptrs,
    steps, neurons, period, span, inner, repeats, block_repeats, rows, row_blocks,
    D: tl.constexpr, MANY: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr,
    STAGES: tl.constexpr, STARTS: tl.constexpr, HOLDS: tl.constexpr,
):  # fmt: skip
    """Spikes, and where wanted the membrane, of all steps; the last states."""
    tl.assume(steps > 0)
    neurons, period = neurons * ALIGN, period * ALIGN
    p = find_place(span * ALIGN, inner, repeats, block_repeats, rows, row_blocks, SHARED, BLOCK)
    T: tl.constexpr = state_ptrs[0].dtype.element_ty
    n = load_numbers(p, number_ptrs, MANY, SHARED, D, T)
    for r in range(p.first, p.last):
        base = r * period
        states = load_starts(state_ptrs, base, p, STARTS)
        if HOLDS:
            x = tl.load(x_ptr + base + p.lane, p.mask, 0.0).to(T)
        for t in tl.range(steps, num_stages=STAGES):
            row = base + t * neurons
            if not HOLDS:
                x = tl.load(x_ptr + row + p.lane, p.mask, 0.0).to(T)
            before = states
            states, spike, h = D.step(x, before, n, D.shared, T)
            tl.store(spikes_ptr + row + p.lane, spike.to(spikes_ptr.dtype.element_ty), p.mask)
            if h_ptr is not None:
                if h_ptr.dtype.element_ty == T:
                    tl.store(h_ptr + row + p.lane, h, p.mask)
                else:
                    tl.store(h_ptr + row + p.lane, distance_in_bfloat16(h, before, n, D, T), p.mask)
        store_each(last_ptrs, base, p, states)


@triton.jit
def load_kept(h_ptr, row, p, mask, n, D: tl.constexpr, T: tl.constexpr):
    """The membrane, as close as it was kept."""
    h = tl.load(h_ptr + row + p.lane, mask, 0.0).to(T)
    return h if h_ptr.dtype.element_ty == T else h + D.center(n, D.shared, T)


@triton.jit
def choose(first, states, others):
    """``others`` where ``first``, else ``states``."""
    chosen = ()
    for k in tl.static_range(len(states)):
        chosen = chosen + (tl.where(first, others[k], states[k]),)
    return chosen


@triton.jit
def rerun(
    x_ptr, h_ptr, earlier_ptr, starts, base, steps, neurons, p, n, HOLDS: tl.constexpr, D: tl.constexpr, T: tl.constexpr
):
    """The states before every step that the kept membrane does not tell: from the start, forward in time."""
    states = starts
    for t in range(steps):
        row = base + t * neurons
        for k in tl.static_range(len(D.rerun)):
            tl.store(earlier_ptr + k * steps * neurons + row + p.lane, states[D.rerun[k]], p.mask)
        x = tl.load(x_ptr + (base if HOLDS else row) + p.lane, p.mask, 0.0).to(T)
        h = load_kept(h_ptr, row, p, p.mask, n, D, T)
        states = D.recover(h, D.advance(h, x, states, n, D.shared, T), n, D.shared, T)


@triton.jit
def load_earlier(earlier_ptr, states, row, steps, neurons, p, D: tl.constexpr):
    """``states``, of which those that were computed again are read."""
    found = ()
    for k in tl.static_range(len(states)):
        value = states[k]
        for place in tl.static_range(len(D.rerun)):
            if D.rerun[place] == k:
                value = tl.load(earlier_ptr + place * steps * neurons + row + p.lane, p.mask, 0.0)
        found = found + (value,)
    return found


@triton.jit
def load_gradients(pointers, base, p, zero, COUNT: tl.constexpr):
    """Of the last states; zero where the loss does not reach."""
    found = ()
    for k in tl.static_range(COUNT):
        if pointers[k] is not None:
            found = found + (tl.load(pointers[k] + base + p.lane, p.mask, 0.0),)
        else:
            found = found + (zero,)
    return found


@triton.jit
def zeros(zero, COUNT: tl.constexpr):
    sums = ()
    for k in tl.static_range(COUNT):
        sums = sums + (zero,)
    return sums


@triton.jit
def add(sums, terms):
    added = ()
    for k in tl.static_range(len(sums)):
        added = added + (sums[k] + terms[k],)
    return added


@triton.jit
def add_to_totals(totals, sums, p, SHARED: tl.constexpr):
    """The totals, float64, with the sums added: over the lanes with SHARED, else lane by lane."""
    added = ()
    for k in tl.static_range(len(sums)):
        term = tl.where(p.mask, sums[k], 0.0).to(tl.float64)
        added = added + (totals[k] + (tl.sum(term, 0) if SHARED else term),)
    return added


@triton.jit
def backward(
    x_ptr, state_ptrs, h_ptr, earlier_ptr, d_spikes_ptr, d_h_ptr, d_last_ptrs, d_x_ptr, d_state_ptrs, partial_ptr,
    number_ptrs,
    steps, neurons, period, span, inner, repeats, block_repeats, rows, row_blocks,
    D: tl.constexpr, MANY: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr,
    STAGES: tl.constexpr, STARTS: tl.constexpr, HOLDS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of input and starting states, and this program's partial sums of the values' gradients.

    A sum is taken over ROWS steps in the arithmetic type, then in float64.
    """
    tl.assume(steps > 0)
    neurons, period = neurons * ALIGN, period * ALIGN
    p = find_place(span * ALIGN, inner, repeats, block_repeats, rows, row_blocks, SHARED, BLOCK)
    T: tl.constexpr = state_ptrs[0].dtype.element_ty
    n = load_numbers(p, number_ptrs, MANY, SHARED, D, T)
    zero = tl.zeros((BLOCK,), T)
    sums = zeros(zero, D.sums)
    totals = zeros(tl.zeros((), tl.float64) if SHARED else zero.to(tl.float64), D.sums)
    for r in range(p.first, p.last):
        base = r * period
        starts = load_starts(state_ptrs, base, p, STARTS)
        if len(D.rerun) > 0:
            rerun(x_ptr, h_ptr, earlier_ptr, starts, base, steps, neurons, p, n, HOLDS, D, T)
        h = load_kept(h_ptr, base + (steps - 1) * neurons, p, p.mask, n, D, T)
        d_states = load_gradients(d_last_ptrs, base, p, zero, len(STARTS))
        d_held = zero
        for i in tl.range(steps, num_stages=STAGES):
            t = steps - 1 - i
            row = base + t * neurons
            d_spike = zero
            if d_spikes_ptr is not None:
                d_spike = tl.load(d_spikes_ptr + row + p.lane, p.mask, 0.0).to(T)
            d_membrane = zero
            if d_h_ptr is not None:
                d_membrane = tl.load(d_h_ptr + row + p.lane, p.mask, 0.0)
            earlier = load_kept(h_ptr, row - neurons, p, p.mask & (t > 0), n, D, T)
            before = choose(t > 0, starts, D.recover(earlier, starts, n, D.shared, T))
            before = load_earlier(earlier_ptr, before, row, steps, neurons, p, D)
            x = zero
            if D.uses_input:
                x = tl.load(x_ptr + (base if HOLDS else row) + p.lane, p.mask, 0.0).to(T)
            d_states, d_x, terms = D.back(h, x, before, d_spike, d_membrane, d_states, n, D.shared, T)
            h = earlier
            if HOLDS:
                d_held += d_x
            else:
                tl.store(d_x_ptr + row + p.lane, d_x.to(d_x_ptr.dtype.element_ty), p.mask)
            sums = add(sums, terms)
            if i % ROWS == ROWS - 1:
                totals = add_to_totals(totals, sums, p, SHARED)
                sums = zeros(zero, D.sums)
        if HOLDS:
            tl.store(d_x_ptr + base + p.lane, d_held.to(d_x_ptr.dtype.element_ty), p.mask)
        store_each(d_state_ptrs, base, p, d_states)
    store_partial(partial_ptr, add_to_totals(totals, sums, p, SHARED), p, period, block_repeats, SHARED)


@triton.jit
def store_partial(partial_ptr, totals, p, period, block_repeats, SHARED: tl.constexpr):
    """`[programs, sums]` with SHARED, else `[chunks of repeats, period, sums]`; float64."""
    for k in tl.static_range(len(totals)):
        if SHARED:
            row = tl.program_id(0).to(tl.int64)
            tl.store(partial_ptr + row * len(totals) + k, totals[k])
        else:
            row = (p.first // block_repeats) * period + p.lane
            tl.store(partial_ptr + row * len(totals) + k, totals[k], p.mask)
