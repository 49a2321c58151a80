"""Two kernels, forward and backward: time runs inside, the state stays in registers.

A step of the input is `repeats` times a `period` of neurons, `[groups, inner]`, over which the numbers of
the law vary by group (MANY says which of them do). The period is cut into `rows` of `span` neurons, a row into
`row_blocks` blocks. A program owns one block, for all times and for `block_repeats` of the repeats. With SHARED a
row is a group, whose numbers are scalars; without, the period is one row and every lane loads its own. With HOLDS the
input is one step, the same at each, and so is its gradient. Sizes are never compiled in: `neurons`, `period` and `span`
come divided by ALIGN, which tells the compiler what divides them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from snn_lnm.engines.triton.law import (
    Numbers,
    after_reset,
    center_of,
    charge_backward,
    distance_in_bfloat16,
    fire,
    line_slope,
    lowest_slope,
    reset,
    reset_backward,
    step,
    synapse,
    synapse_backward,
)

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


@triton.jit
def load_number(ptr, offset: tl.constexpr, size: tl.constexpr, p, MANY: tl.constexpr, SHARED: tl.constexpr):
    if not MANY:
        return tl.load(ptr + offset)
    elif SHARED:
        return tl.load(ptr + p.group * size + offset)
    else:
        return tl.load(ptr + p.group * size + offset, p.mask, 1.0)


@triton.jit
def load_numbers(p, pointers, MANY: tl.constexpr, SHARED: tl.constexpr, D: tl.constexpr):
    coefficients = ()
    for k in tl.static_range(D.degree + 1):
        coefficients = coefficients + (load_number(pointers[0], k, D.degree + 1, p, MANY[0], SHARED),)
    threshold = load_number(pointers[1], 0, 1, p, MANY[1], SHARED)
    v_reset = load_number(pointers[2], 0, 1, p, MANY[2], SHARED)
    gain = load_number(pointers[3], 0, 1, p, MANY[3], SHARED)
    alpha = gain if D.synapse == "" else load_number(pointers[4], 0, 1, p, MANY[4], SHARED)
    lowest = lowest_slope(gain, D)
    slope = line_slope(coefficients, lowest, D)
    return Numbers(coefficients, threshold, v_reset, gain, alpha, slope, lowest, 1.0 / gain, center_of(threshold))


@triton.jit
def load_start(v_ptr, base, p, START_IS_ONE: tl.constexpr):
    """The state before the first step; one number for all neurons, or one for each."""
    return tl.load(v_ptr + (p.lane * 0 if START_IS_ONE else base + p.lane), p.mask, 0.0)


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    x_ptr, v_ptr, current_ptr, spikes_ptr, h_ptr, last_v_ptr, last_current_ptr,
    coefficients_ptr, threshold_ptr, v_reset_ptr, gain_ptr, alpha_ptr,
    steps: tl.int64, neurons: tl.int64, period: tl.int64, span: tl.int64, inner: tl.int64, repeats: tl.int64,
    block_repeats: tl.int64, rows: tl.int32, row_blocks: tl.int32,
    D: tl.constexpr, MANY: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr,
    STAGES: tl.constexpr, START_IS_ONE: tl.constexpr, HOLDS: tl.constexpr,
):  # fmt: skip
    """Spikes, and where wanted the membrane, of all steps; the last state."""
    tl.assume(steps > 0)
    neurons, period = neurons * ALIGN, period * ALIGN
    p = find_place(span * ALIGN, inner, repeats, block_repeats, rows, row_blocks, SHARED, BLOCK)
    n = load_numbers(p, (coefficients_ptr, threshold_ptr, v_reset_ptr, gain_ptr, alpha_ptr), MANY, SHARED, D)
    for r in range(p.first, p.last):
        base = r * period
        h = load_start(v_ptr, base, p, START_IS_ONE)
        synaptic = h if D.synapse == "" else tl.load(current_ptr + base + p.lane, p.mask, 0.0)
        spike = tl.zeros_like(h)
        entering = h
        if D.state_is_membrane:
            spike = fire(h, n, D)
            entering = after_reset(h, spike, n, D)
        if HOLDS:
            x = tl.load(x_ptr + base + p.lane, p.mask, 0.0).to(h.dtype)
        for t in tl.range(steps, num_stages=STAGES):
            row = base + t * neurons
            if not HOLDS:
                x = tl.load(x_ptr + row + p.lane, p.mask, 0.0).to(h.dtype)
            h, entering, spike, synaptic = step(x, entering, spike, synaptic, n, D)
            tl.store(spikes_ptr + row + p.lane, spike.to(spikes_ptr.dtype.element_ty), p.mask)
            if h_ptr is not None:
                if h_ptr.dtype.element_ty == h.dtype:
                    tl.store(h_ptr + row + p.lane, h, p.mask)
                else:
                    tl.store(h_ptr + row + p.lane, distance_in_bfloat16(h, n, D), p.mask)
        tl.store(last_v_ptr + base + p.lane, h if D.state_is_membrane else entering, p.mask)
        if D.synapse != "":
            tl.store(last_current_ptr + base + p.lane, synaptic, p.mask)


@triton.jit
def recompute_currents(
    x_ptr, current_ptr, currents_ptr, base, steps, neurons, p, n, HOLDS: tl.constexpr, D: tl.constexpr
):
    """The current of every step, which the forward pass does not keep."""
    state = tl.load(current_ptr + base + p.lane, p.mask, 0.0)
    for t in range(steps):
        row = base + t * neurons
        x = tl.load(x_ptr + (base if HOLDS else row) + p.lane, p.mask, 0.0).to(state.dtype)
        current, state = synapse(x, state, n, D)
        tl.store(currents_ptr + row + p.lane, current, p.mask)


@triton.jit
def zeros(zero, COLUMNS: tl.constexpr):
    sums = ()
    for k in tl.static_range(len(COLUMNS)):
        sums = sums + (zero,)
    return sums


@triton.jit
def add(sums, terms, COLUMNS: tl.constexpr):
    """The sums with the terms added, where they are wanted."""
    added = ()
    for k in tl.static_range(len(COLUMNS)):
        added = added + (sums[k] + terms[k] if COLUMNS[k] >= 0 else sums[k],)
    return added


@triton.jit
def add_to_totals(totals, sums, p, COLUMNS: tl.constexpr, SHARED: tl.constexpr):
    """The totals, float64, with the sums added: over the lanes with SHARED, else lane by lane."""
    added = ()
    for k in tl.static_range(len(COLUMNS)):
        if COLUMNS[k] >= 0:
            term = sums[k].to(tl.float64)
            added = added + (totals[k] + (tl.sum(tl.where(p.mask, term, 0.0), 0) if SHARED else term),)
        else:
            added = added + (totals[k],)
    return added


@triton.jit(do_not_specialize=SIZES)
def backward_kernel(
    x_ptr, v_ptr, current_ptr, h_ptr, currents_ptr, d_spikes_ptr, d_h_ptr, d_last_v_ptr, d_last_current_ptr,
    d_x_ptr, d_v_ptr, d_current_ptr, partial_ptr,
    coefficients_ptr, threshold_ptr, v_reset_ptr, gain_ptr, alpha_ptr,
    steps: tl.int64, neurons: tl.int64, period: tl.int64, span: tl.int64, inner: tl.int64, repeats: tl.int64,
    block_repeats: tl.int64, rows: tl.int32, row_blocks: tl.int32,
    D: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, MANY: tl.constexpr, SHARED: tl.constexpr,
    BLOCK: tl.constexpr, ALIGN: tl.constexpr, STAGES: tl.constexpr, START_IS_ONE: tl.constexpr,
    HOLDS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of input and starting state, and this program's partial sums of the parameters' gradients.

    A sum is taken over ROWS steps in the arithmetic type, then in float64.
    COLUMNS says where each of the sums of `[θ_0..θ_D, threshold, v_reset, gain, α]` goes, -1 for nowhere.
    """
    tl.assume(steps > 0)
    neurons, period = neurons * ALIGN, period * ALIGN
    p = find_place(span * ALIGN, inner, repeats, block_repeats, rows, row_blocks, SHARED, BLOCK)
    n = load_numbers(p, (coefficients_ptr, threshold_ptr, v_reset_ptr, gain_ptr, alpha_ptr), MANY, SHARED, D)
    dtype: tl.constexpr = v_ptr.dtype.element_ty
    zero = tl.zeros((BLOCK,), dtype)
    sums = zeros(zero, COLUMNS)
    totals = zeros(tl.zeros((), tl.float64) if SHARED else zero.to(tl.float64), COLUMNS)
    for r in range(p.first, p.last):
        base = r * period
        if currents_ptr is not None:
            recompute_currents(x_ptr, current_ptr, currents_ptr, base, steps, neurons, p, n, HOLDS, D)
        start = load_start(v_ptr, base, p, START_IS_ONE)
        h = tl.load(h_ptr + base + (steps - 1) * neurons + p.lane, p.mask, 0.0).to(dtype)
        if h_ptr.dtype.element_ty != dtype:
            h += n.center
        d_state = zero
        d_synaptic = zero
        d_next = zero
        d_held = zero
        if d_last_v_ptr is not None:
            if not D.state_is_membrane:
                d_state = tl.load(d_last_v_ptr + base + p.lane, p.mask, 0.0)
        if d_last_current_ptr is not None:
            d_synaptic = tl.load(d_last_current_ptr + base + p.lane, p.mask, 0.0)
        for i in tl.range(steps, num_stages=STAGES):
            t = steps - 1 - i
            row = base + t * neurons
            d_s = zero
            if d_spikes_ptr is not None:
                d_s = tl.load(d_spikes_ptr + row + p.lane, p.mask, 0.0).to(dtype)
            before = tl.load(h_ptr + (row - neurons) + p.lane, p.mask & (t > 0), 0.0).to(dtype)
            if h_ptr.dtype.element_ty != dtype:
                before += n.center
            before = tl.where(t > 0, before, start)
            d_membrane, d_threshold, d_v_reset = reset_backward(h, d_s, d_spikes_ptr is not None, d_state, d_next, n, D)
            if d_h_ptr is not None:
                d_membrane += tl.load(d_h_ptr + row + p.lane, p.mask, 0.0)
            if d_last_v_ptr is not None:
                if D.state_is_membrane:
                    d_membrane += tl.load(d_last_v_ptr + base + p.lane, p.mask & (i == 0), 0.0)

            h = before
            if D.reset != "none" and D.reset != "soft_next":
                after = reset(before, fire(before, n, D), n, D)
                before = after if D.state_is_membrane else tl.where(t > 0, after, before)
            current = zero
            earlier = zero
            if COLUMNS[D.degree + 3] >= 0 or COLUMNS[D.degree + 4] >= 0:
                if D.synapse == "":
                    current = tl.load(x_ptr + (base if HOLDS else row) + p.lane, p.mask, 0.0).to(dtype)
                else:
                    current = tl.load(currents_ptr + row + p.lane, p.mask, 0.0)
                    earlier_ptr = tl.where(t > 0, currents_ptr + (row - neurons), current_ptr + base)
                    earlier = tl.load(earlier_ptr + p.lane, p.mask, 0.0)
            d_state, d_current, terms, d_gain = charge_backward(before, current, d_membrane, n, D)
            d_next = d_membrane
            d_x, d_synaptic, d_alpha = synapse_backward(current, earlier, d_current, d_synaptic, n, D)
            if HOLDS:
                d_held += d_x
            else:
                tl.store(d_x_ptr + row + p.lane, d_x.to(d_x_ptr.dtype.element_ty), p.mask)
            sums = add(sums, terms + (d_threshold, d_v_reset, d_gain, d_alpha), COLUMNS)
            if i % ROWS == ROWS - 1:
                totals = add_to_totals(totals, sums, p, COLUMNS, SHARED)
                sums = zeros(zero, COLUMNS)
        if D.state_is_membrane:
            d_state, d_threshold, d_v_reset = reset_backward(h, zero, False, d_state, d_next, n, D)
            none = zeros(zero, COLUMNS)
            sums = add(sums, none[: D.degree + 1] + (d_threshold, d_v_reset, zero, zero), COLUMNS)
        if HOLDS:
            tl.store(d_x_ptr + base + p.lane, d_held.to(d_x_ptr.dtype.element_ty), p.mask)
        if d_v_ptr is not None:
            tl.store(d_v_ptr + base + p.lane, d_state, p.mask)
        if d_current_ptr is not None:
            tl.store(d_current_ptr + base + p.lane, d_synaptic, p.mask)
    store_partial(
        partial_ptr, add_to_totals(totals, sums, p, COLUMNS, SHARED), p, period, block_repeats, COLUMNS, WIDTH, SHARED
    )


@triton.jit
def store_partial(
    partial_ptr, totals, p, period, block_repeats,
    COLUMNS: tl.constexpr, WIDTH: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """`[programs, sums]` with SHARED, else `[chunks of repeats, period, sums]`; float64."""
    for k in tl.static_range(len(COLUMNS)):
        if COLUMNS[k] >= 0:
            if SHARED:
                row = tl.program_id(0).to(tl.int64)
                tl.store(partial_ptr + row * WIDTH + COLUMNS[k], totals[k])
            else:
                row = (p.first // block_repeats) * period + p.lane
                tl.store(partial_ptr + row * WIDTH + COLUMNS[k], totals[k], p.mask)
