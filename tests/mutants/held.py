"""Mutants of held.py and fuse/max_pool.py: inputs that do not change, and pooling."""

from tests.mutants.mutant import Mutant

CHANGED = "tests/fuse/test_fuse_held.py::test_what_was_held_and_changed_is_read_as_it_is_now"
POOL = "tests/test_max_pool.py::test_"
POOL_REST, POOL_MODES = f"{POOL}the_rest_is_pytorch_s", f"{POOL}transformations_get_operators_that_they_know"
POOL_BITS, POOL_SECOND = f"{POOL}outputs_and_gradients_have_pytorch_s_bits", f"{POOL}second_derivatives_are_pytorch_s"


def once(why: str, inside: str, old: str, new: str, *tests: str, file: str = "held.py") -> Mutant:
    return Mutant(why, f"snn_lnm/{file}", inside, old, new, tests)


def pool(why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, "snn_lnm/fuse/max_pool.py", inside, old, new, tests)


MUTANTS = [
    # ---- held.py, and what engines/calls.py makes of it
    once(
        "a leaf's gradient is lost",
        "held",
        "not x.requires_grad",
        "True",
        "tests/test_held.py::test_every_step_of_a_leaf_has_its_own_gradient",
    ),
    once("a held step was detached", "_is_still_held", "and step.requires_grad", "", CHANGED),
    once(
        "a held sequence was loaded",
        "_is_still_held",
        "and not x.is_leaf",
        "",
        "tests/fuse/test_fuse_held.py::test_the_gradient_of_a_held_leaf",
    ),
    once(
        "an exported program takes its inputs for held",
        "held",
        "_exports() or x.shape[0] < 2",
        "x.shape[0] < 2",
        "tests/fuse/test_fuse_compiled.py::test_an_exported_program_holds_nothing",
    ),
    once(
        "a traced program takes its inputs for held",
        "_exports",
        "is_tracing() or",
        "",
        "tests/test_export.py::test_traced_at_one_input",
    ),
    once(
        "a compiled network holds nothing",
        "_exports",
        "torch.compiler.is_compiling() and exports",
        "torch.compiler.is_compiling() or exports",
        "tests/fuse/test_fuse_compiled.py::test_inputs_that_do_not_change_are_held",
    ),
    once("a held sequence was cut", "_is_still_held", "(step.shape, step", "(x.shape[1:], step", CHANGED),
    once("a held sequence was turned", "_is_still_held", "step.stride()) ==", "x.stride()[1:]) ==", CHANGED),
    once("a held sequence has other data", "_is_still_held", "_address(step) ==", "_address(x) ==", CHANGED),
    once(
        "any sequence is held",
        "held",
        "or x.stride(0) != 0 or",
        "or",
        "tests/test_held.py::test_what_may_differ_from_step_to_step_is_not_held",
    ),
    once(
        "a held input is written out",
        "one_step",
        "step = None if single_step else held(x)",
        "step = None",
        "tests/test_held.py::test_an_input_without_gradient_needs_no_mark",
        file="engines/calls.py",
    ),
    once(
        "outputs come back as one step's",
        "run",
        "_permute(spikes, back, time), h,",
        "_permute(spikes, back, first), h,",
        "tests/test_held.py::test_half_precision_and_other_orders_in_memory",
        file="engines/calls.py",
    ),
    # ---- fuse/max_pool.py
    pool(
        "windows may be of any size",
        "_is_usual",
        "zip(sizes, (2, 2, 0, 1)",
        "zip(sizes, (sizes[0], sizes[0], 0, 1)",
        POOL_REST,
    ),
    pool("strides do not count", "_is_usual", "kernel_size if stride is None else stride", "kernel_size", POOL_REST),
    pool("switches do not count", "_is_usual", "and not switches", "", POOL_REST),
    pool("torch.func gets an operator that it does not know", "_is_usual", "or transformed() or", "or", POOL_MODES),
    pool("forward mode too", "_is_usual", "or is_forward_mode())", ")", POOL_MODES),
    pool("the gradient loses the input's layout", "_MaxPool.forward", "not x.is_contiguous()", "False", POOL_BITS),
    pool("the second derivative mixes rows and columns", "_Unpool.backward", ".transpose(-3, -2)", "", POOL_SECOND),
]
