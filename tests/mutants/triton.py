"""Mutants of the Triton engine: its law, its kernels, its launcher. They run in Triton's interpreter."""

from tests.mutants.mutant import Mutant

BITS = "tests/test_triton_bits.py::test_same_bits"
GRADIENTS = "tests/test_triton_gradients.py::test_same_gradients_to_the_bit_where_arithmetic_is_exact"
DETACHED = "tests/test_triton_gradients.py::test_detached_resets_are_the_reference_s"
KEPT = "tests/test_memory_options.py::test_kept_to_nearest_and_on_its_side_of_the_threshold"
KEPT_GRADIENTS = "tests/test_memory_options.py::test_gradients_are_those_at_the_kept_membrane"
ONE = "tests/test_triton_bits.py::test_a_start_of_one_number_is_read_as_it_is"
RUNS = "tests/test_triton_gradients.py::test_gradients_are_the_same_from_run_to_run"


def law(why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"Triton: {why}", "snn_lnm/engines/triton/law.py", "", old, new, tests or (BITS,))


def kernels(why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"Triton: {why}", "snn_lnm/engines/triton/kernels.py", "", old, new, tests or (BITS,))


def launcher(why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"Triton: {why}", "snn_lnm/engines/triton/__init__.py", inside, old, new, tests or (BITS,))


def operator(why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"Triton: {why}", "snn_lnm/engines/op.py", inside, old, new, tests)


HELD = "tests/test_held.py::test_bits_and_gradients"
SAMPLES = "tests/test_held.py::test_samples_of_a_batch_hold_inputs_of_their_own"
SEEN = "tests/test_triton_choice.py::test_a_mode_sees_the_operators"

LAUNCHES = "tests/test_triton_launch.py::test_the_launcher_gets_the_same_again"

MUTANTS = [
    launcher(
        "a kernel for aligned tensors is taken for others",
        "Launch._start",
        "t.data_ptr() % 16 == 0)",
        "True)",
        LAUNCHES,
    ),
    launcher(
        "a kernel for one dtype is taken for others",
        "Launch._start",
        "(t.dtype, t.data_ptr() % 16 == 0)",
        "t.data_ptr() % 16 == 0",
        LAUNCHES,
    ),
    launcher(
        "a kept kernel gets its constants in their own order",
        "Launch._start",
        "tuple(constants[name] for name in names)",
        "tuple(constants.values())",
        LAUNCHES,
    ),
    launcher("no kernel is kept", "Launch._start", "kernel is not None", "kernel is None", LAUNCHES),
    operator("no mode sees the operator", "watched", "modes > 0 or", "", SEEN),
    operator(
        "gradients of the state are not asked for",
        "_Scan.backward",
        "needs[1] or needs[2],",
        "needs[1] and needs[2],",
        GRADIENTS,
    ),
    operator("gradients of θ are not asked for", "_Scan.backward", "needs[3:],", "[False, *needs[4:]],", RUNS),
    operator("the input is not kept for the gain", "_Scan.forward", "[1 + _GAIN :]", "[2 + _GAIN :]", GRADIENTS),
    operator(
        "the gradient of the last membrane is dropped",
        "_Scan.backward",
        "None if d_last_v is None or d_last_v.shape != v.shape else d_last_v",
        "None",
        GRADIENTS,
    ),
    operator(
        "the gradient of the last current is dropped",
        "_Scan.backward",
        "None if current is None else d_last_current",
        "None",
        GRADIENTS,
    ),
    operator(
        "the gradient of the membrane is dropped",
        "_Scan.backward",
        "d_spikes, d_h, d_last_v, d_last_current = d_outputs",
        "d_spikes, d_h, d_last_v, d_last_current = d_outputs[0], None, *d_outputs[2:]",
        GRADIENTS,
    ),
    operator(
        "second derivatives are zero instead of refused",
        "_backward_autograd",
        "_Once.apply(*arguments)",
        "_Once.forward(None, *arguments)",
        "tests/test_triton_choice.py::test_second_derivative_is_refused",
    ),
    kernels(
        "the next sample goes on adding to a held input's gradient",
        "d_held = zero",
        "d_held = zero if r == p.first else d_held",
        SAMPLES,
    ),
    kernels("a held input's gradient is the first step's", "d_held += d_x", "d_held = d_x", HELD),
    kernels(
        "a held input's currents move on",
        "x_ptr + (base if HOLDS else row) + p.lane, p.mask, 0.0).to(state",
        "x_ptr + row + p.lane, p.mask, 0.0).to(state",
        SAMPLES,
    ),
    kernels(
        "the next chunk of repeats holds the first one's input",
        "x = tl.load(x_ptr + base",
        "x = tl.load(x_ptr",
        SAMPLES,
    ),
    law(
        "a NaN membrane has a finite gradient",
        "~((w < v) | (w > v))",
        "w == v",
        "tests/test_triton_gradients.py::test_a_membrane_that_is_nan_has_the_gradient_of_the_law",
    ),
    law("> is >=", "return u >= 0 if D.fire_at_threshold else u > 0", "return u >= 0"),
    law(
        "the kept membrane may cross the threshold",
        "== fires, nearest, bits + away)",
        "== fires, nearest, nearest)",
        KEPT,
    ),
    law("a kept NaN becomes infinity", "tl.where(h == h, nearest, 0x7FC00000)", "nearest", KEPT),
    kernels(
        "the kept membrane starts at zero",
        "            before = tl.where(t > 0, before, start)\n",
        "",
        KEPT_GRADIENTS,
    ),
    kernels("the start of one number is read as many", "p.lane * 0 if START_IS_ONE", "p.lane if START_IS_ONE", ONE),
    law("Horner drops θ_0", "static_range(D.degree - 1, -1, -1)", "static_range(D.degree - 1, 0, -1)"),
    law("a hard reset goes to zero", "(1 - s) * h + s * n.v_reset", "(1 - s) * h"),
    law("a soft reset adds", "return h - s * n.threshold", "return h + s * n.threshold"),
    law("soft_next resets at once", 'return h if D.reset == "soft_next" else reset', "return reset"),
    law("the line leaves out θ_0", "(n.slope * v + n.coefficients[0])", "(n.slope * v)"),
    law("the slope may expand", "return clamp(coefficients[1], lowest, zero)", "return coefficients[1]"),
    law("the synaptic state is stale", "return current, current - n.alpha * current", "return current, state"),
    law("a residual scales its input", "(v + scale(f, n, D)) + current", "(v + scale(f, n, D)) + scale(current, n, D)"),
    law("the attached reset has no gradient", "d_s += d_after * (n.v_reset - h)", "d_s += d_after * 0", GRADIENTS),
    law("the threshold's gradient has the wrong sign", "d_threshold -= d_u", "d_threshold += d_u", GRADIENTS),
    law("the drift forgets itself", "return d_h + d_v, d_f", "return d_v, d_f", GRADIENTS),
    law("α pairs the wrong steps", "n.alpha * d_x, d_x * before", "n.alpha * d_x, d_x * current", GRADIENTS),
    law(
        "the line's own slope is lost",
        "slope = tl.where(inside, n.slope if D.degree == 1 else slope, n.slope)",
        "slope = slope",
        GRADIENTS,
    ),
    law("f' is one power short", "slope = slope * w + p", "slope = slope + p", DETACHED),
    kernels("a block is one lane short", "Place(lane, within < span,", "Place(lane, within < span - 1,"),
    kernels(
        "the last repeat is left out", "min(first + block_repeats, repeats)", "min(first + block_repeats, repeats - 1)"
    ),
    kernels(
        "the start is not reset",
        "entering = after_reset(h, spike, n, D)\n        if HOLDS",
        "entering = h\n        if HOLDS",
    ),
    kernels("the last membrane is that after the reset", "h if D.state_is_membrane else entering", "entering"),
    kernels("the start is taken for a membrane", "tl.where(t > 0, after, before)", "after", GRADIENTS),
    kernels("time runs forward", "t = steps - 1 - i", "t = i", GRADIENTS),
    kernels(
        "sums are thrown away every few rows",
        "totals = add_to_totals(totals, sums, p, COLUMNS, SHARED)\n                sums",
        "sums",
        DETACHED.replace("detached_resets_are_the_reference_s", "same_gradients"),
    ),
    launcher("numbers that vary are taken for one", "Law.form", "count > 1 for count", "count > 99 for count"),
    launcher("every start is taken for one number", "Law.form", "not any(v.stride())", "True"),
    launcher(
        "the sum over groups is forgotten",
        "_gradients",
        "total if many or form.groups == 1 else total.sum(0)",
        "total[:1]",
        GRADIENTS,
    ),
    launcher("another degree finds the same launch", "_form", "many, degree, groups,", "many, 1, groups,", GRADIENTS),
    launcher("partial sums swap their axes", "_gradients", ".sum((0, 2))", ".sum((1, 2))[: form.groups]", GRADIENTS),
    launcher(
        "euler is taken for decay",
        "_form",
        "kind_of_synapse if synapse",
        '"decay" if synapse',
    ),
    launcher("the domain is reversed", "_form", "lo=domain[0]", "lo=-domain[1]"),
]
