"""Mutants of the Triton engine: its kernels, their functions, its launcher. They run in Triton's interpreter."""

from tests.mutants.mutant import Mutant

BITS = "tests/test_triton_bits.py::test_same_bits"
LONG = "tests/test_triton_gradients.py::test_gradients_of_many_steps"
GRADIENTS = "tests/test_triton_gradients.py::test_same_gradients_to_the_bit_where_arithmetic_is_exact"
DETACHED = "tests/test_triton_gradients.py::test_detached_resets_are_the_reference_s"
KEPT = "tests/test_memory_options.py::test_kept_to_nearest_and_on_its_side_of_the_threshold"
KEPT_GRADIENTS = "tests/test_memory_options.py::test_gradients_are_those_at_the_kept_membrane"
EQUATIONS = "tests/test_equations.py::test_engines_agree"
ONE = "tests/test_triton_bits.py::test_a_start_of_one_number_is_read_as_it_is"


def printed(why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"Triton: {why}", "snn_lnm/engines/generator/triton.py", inside, old, new, tests or (BITS,))


def kernels(why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"Triton: {why}", "snn_lnm/engines/triton/kernels.py", "", old, new, tests or (BITS,))


def launcher(why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"Triton: {why}", "snn_lnm/engines/triton/launches.py", inside, old, new, tests or (BITS,))


HELD = "tests/test_held.py::test_bits_and_gradients"
SAMPLES = "tests/test_held.py::test_samples_of_a_batch_hold_inputs_of_their_own"

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
    launcher("numbers that vary are taken for one", "_prepare", "number.numel() > width", "False"),
    launcher("every start is taken for one number", "_prepare", "not any(state.stride())", "True"),
    launcher("a held input is a sequence", "_prepare", "starts, bool(steps))", "starts, False)", HELD),
    launcher(
        "the sum over groups is forgotten",
        "_gradients",
        "each if number.numel() > width or len(sums) == 1 else each.sum(0)",
        "each",
        GRADIENTS,
    ),
    launcher("partial sums swap their axes", "_sums", ".sum((0, 2))", ".sum((0, 1))", GRADIENTS),
    launcher(
        "the input is not handed on",
        "prepare_backward",
        "x.contiguous() if neuron.uses_input else None",
        "None",
        GRADIENTS,
    ),
    kernels(
        "the next sample goes on adding to a held input's gradient",
        "d_held = zero",
        "d_held = zero if r == p.first else d_held",
        SAMPLES,
    ),
    kernels("a held input's gradient is the first step's", "d_held += d_x", "d_held = d_x", HELD),
    kernels(
        "the next chunk of repeats holds the first one's input",
        "x = tl.load(x_ptr + base + p.lane",
        "x = tl.load(x_ptr + p.lane",
        SAMPLES,
    ),
    kernels(
        "the start of one number is read as many", "p.lane * 0 if STARTS[k] else base + p.lane", "base + p.lane", ONE
    ),
    kernels(
        "the states of the last sample go on",
        "        states = load_starts(state_ptrs, base, p, STARTS)\n",
        "        states = load_starts(state_ptrs, 0, p, STARTS)\n",
    ),
    kernels(
        "the start is taken for a membrane",
        "choose(t > 0, starts, D.recover",
        "choose(t >= 0, starts, D.recover",
        GRADIENTS,
    ),
    kernels(
        "states that are computed again are not read", "if D.rerun[place] == k:", "if D.rerun[place] < 0:", GRADIENTS
    ),
    kernels(
        "states are computed again without the membrane",
        "states = D.recover(h, D.advance",
        "states = D.recover(h * 0, D.advance",
        EQUATIONS,
    ),
    kernels(
        "sums are thrown away every few rows",
        "                totals = add_to_totals(totals, sums, p, SHARED)\n",
        "",
        LONG,
    ),
    kernels("lanes behind the end count", "tl.where(p.mask, sums[k], 0.0)", "sums[k]", EQUATIONS),
    kernels(
        "the gradient of the last states is not read",
        "found = found + (tl.load(pointers[k] + base",
        "found = found + (0 * tl.load(pointers[k] + base",
        GRADIENTS,
    ),
    kernels("a division is approximate", "tl.div_rn(a, b) if b.dtype == tl.float32 else a / b", "a * (1 / b)"),
    kernels(
        "a membrane in half may cross the threshold",
        "D.above(found, before, n, D.shared, T) == fires",
        "fires == fires",
        KEPT,
    ),
    kernels("the center is forgotten", "h + D.center(n, D.shared, T)", "h", KEPT_GRADIENTS),
    printed(
        "a literal is a float32",
        "_function",
        'f"tl.full((), {_literal(node.value)}, T)"',
        'f"tl.full((), {_literal(node.value)}, tl.float32).to(T)"',
        EQUATIONS,
    ),
    printed(
        "a constant is a float32",
        "_Names.__init__",
        'f"tl.full((), c[{k}], T)"',
        'f"tl.full((), c[{k}], tl.float32).to(T)"',
        EQUATIONS,
    ),
    printed("a spike at the threshold is none", "_expression", "'>=' if node.value[1] else '>'", "'>'"),
    printed(
        "the neuron's states change places", "forward_source", "_tuple(slots[:count])", "_tuple(slots[:count][::-1])"
    ),
    printed("a detached value has a name of its own", "_function", "codes[node.arguments[0].index]\n", "'0.0'\n"),
]
