"""Mutants of whole networks over time: the graph of a step, what folds, blocks of time and the states between."""

from tests.mutants.mutant import Mutant

EXACT = "tests/fuse/test_fuse_exact.py::test_"
LAYERS = "tests/fuse/test_fuse_layers.py::test_"
MODELS = "tests/fuse/test_fuse_models.py::test_"
EXPLICIT = f"{MODELS}explicit_states_go_in_and_come_back_over_time"
POOLING = f"{LAYERS}max_pooling_is_the_engine_s"
WATCHED = f"{LAYERS}a_pooling_layer_that_is_watched_or_patched_is_called"
POOL = "tests/test_max_pool.py::test_"
POOL_REST, POOL_MODES = f"{POOL}the_rest_is_pytorch_s", f"{POOL}transformations_get_operators_that_they_know"
POOL_BITS, POOL_SECOND = f"{POOL}outputs_and_gradients_have_pytorch_s_bits", f"{POOL}second_derivatives_are_pytorch_s"
HELD = "tests/fuse/test_fuse_held.py::test_"
ONCE, OVER_TIME = f"{HELD}layers_before_the_first_neuron_are_called_once", f"{HELD}what_a_step_returns_comes_over_time"
BLOCKS = f"{MODELS}steps_that_go_through_the_network_together"


def mutant(file: str, why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, f"snn_lnm/fuse/{file}", old, new, tests)


def pool(why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, "snn_lnm/engines/max_pool.py", old, new, tests)


def once(why: str, old: str, new: str, *tests: str, file: str = "held.py") -> Mutant:
    return Mutant(why, f"snn_lnm/engines/{file}", old, new, tests)


CHANGED = "tests/fuse/test_fuse_held.py::test_what_was_held_and_changed_is_read_as_it_is_now"

MUTANTS = [
    # ---- engines/held.py, and what op.py makes of it
    once(
        "a leaf's gradient is lost",
        "    if not x.requires_grad:\n        return x[0]",
        "    if True:\n        return x[0]",
        "tests/test_held.py::test_every_step_of_a_leaf_has_its_own_gradient",
    ),
    once("a held step was detached", " and step.requires_grad", "", CHANGED),
    once(
        "a held sequence was loaded",
        " and not x.is_leaf",
        "",
        "tests/fuse/test_fuse_held.py::test_the_gradient_of_a_held_leaf",
    ),
    once(
        "an exported program takes its inputs for held",
        "x.shape[0] < 2 or _exports()",
        "x.shape[0] < 2",
        "tests/fuse/test_fuse_compiled.py::test_an_exported_program_holds_nothing",
    ),
    once(
        "a compiled network holds nothing",
        "return torch.compiler.is_compiling() and (",
        "return torch.compiler.is_compiling() or (",
        "tests/fuse/test_fuse_compiled.py::test_inputs_that_do_not_change_are_held",
    ),
    once("a held sequence was cut", "(step.shape, step", "(x.shape[1:], step", CHANGED),
    once("a held sequence was turned", "step.stride()) ==", "x.stride()[1:]) ==", CHANGED),
    once("a held sequence has other data", "_address(step) ==", "_address(x) ==", CHANGED),
    once(
        "any sequence is held",
        " or x.stride(0) != 0 or",
        " or",
        "tests/test_held.py::test_what_may_differ_from_step_to_step_is_not_held",
    ),
    once(
        "a held input is written out",
        "step = None if single_step else held(x)",
        "step = None",
        "tests/test_held.py::test_an_input_without_gradient_needs_no_mark",
        file="op.py",
    ),
    once(
        "outputs come back as one step's",
        "return _permute(spikes, back, time), h,",
        "return _permute(spikes, back, first), h,",
        "tests/test_held.py::test_half_precision_and_other_orders_in_memory",
        file="op.py",
    ),
    # ---- fuse/runner.py
    mutant("runner.py", "an unchanging input is not noticed", "if (step := held(x)) is not None:", "if False:", ONCE),
    mutant(
        "runner.py",
        "each block computes again what does not change",
        "if is_new and not _over_time(value):",
        "if False:",
        ONCE,
        OVER_TIME,
    ),
    mutant(
        "runner.py",
        "a value that does not change is returned for one step",
        "if source not in self.same or source in self.step.attributes:",
        "if True:",
        OVER_TIME,
    ),
    mutant(
        "runner.py",
        "an attribute is returned over time",
        "if source not in self.same or source in self.step.attributes:",
        "if source not in self.same:",
        OVER_TIME,
    ),
    mutant(
        "runner.py",
        "exact=True repeats what runs once",
        "    if same:\n",
        "    if same and not exact:\n",
        f"{HELD}networks_whose_arithmetic_is_exact",
    ),
    mutant(
        "runner.py",
        "layers that draw run once",
        "    if reason := folding.reason_to_step(kind, module, dims):",
        "    if not same and (reason := folding.reason_to_step(kind, module, dims)):",
        f"{HELD}what_depends_on_time_runs_at_every_step",
    ),
    mutant("runner.py", "each block starts from the first states", "if name in self.states:", "if False:", EXPLICIT),
    mutant(
        "runner.py",
        "a block starts from the state of the first step",
        "return _aligned(value.tensor[-1])",
        "return _aligned(value.tensor[0])",
        EXPLICIT,
    ),
    mutant(
        "runner.py",
        "a tuple of states is the first step's",
        "        return value.values[-1]\n    return type(value)(map(_last",
        "        return value.values[0]\n    return type(value)(map(_last",
        f"{EXACT}native_networks_run_their_neurons_step_by_step",
    ),
    mutant(
        "runner.py",
        "only the first two blocks come back",
        "for part in (first, *later)",
        "for part in (first, *later[:1])",
        BLOCKS,
    ),
    mutant(
        "runner.py",
        "the largest tensor is not noticed",
        "self.largest = max(self.largest, *map(",
        "self.largest = min(self.largest, *map(",
        BLOCKS,
    ),
    mutant(
        "runner.py",
        "blocks are one step longer",
        "yield from _parts(x, steps)",
        "yield from _parts(x, steps + 1)",
        BLOCKS,
    ),
    mutant(
        "runner.py",
        "states by name go in the order of the call",
        "kwargs = _in_order(self.step.called[name], kwargs)",
        "pass",
        f"{MODELS}states_by_name_in_any_order",
    ),
    mutant(
        "graph.py",
        "writing into a state is not noticed",
        "if written:",
        "if False:",
        f"{LAYERS}what_cannot_be_fused_is_left_as_it_was",
    ),
    mutant("blocks.py", "blocks of single steps", "FEWEST = 8", "FEWEST = 1", BLOCKS),
    mutant("runner.py", "blocks on a GPU, too", ' and x.device.type == "cpu":', ":", f"{MODELS}blocks_are_for_cpus"),
    mutant("folding.py", "a dense layer makes what it takes", " * layer.out_features", " * layer.in_features", BLOCKS),
    mutant(
        "blocks.py",
        "a framework's own layers say nothing",
        "folding.kind_of(layer, adapters)",
        "type(layer)",
        "tests/jelly/test_jelly_fuse.py::test_its_linear_layers_say_how_large_what_they_make_is",
    ),
    mutant(
        "blocks.py",
        "a layer that may not run over time breaks the search",
        "except CannotFuse:",
        "except ZeroDivisionError:",
        "tests/jelly/test_jelly_fuse.py::test_its_linear_layers_say_how_large_what_they_make_is",
    ),
    mutant(
        "blocks.py",
        "what runs once counts",
        " if name not in once",
        "",
        f"{HELD}the_first_block_of_a_held_input_is_longer",
    ),
    mutant(
        "blocks.py",
        "what neurons make counts as little as an input that is held",
        "is_once = is_once and not is_neuron",
        "pass",
        f"{HELD}the_first_block_of_a_held_input_is_longer",
    ),
    mutant(
        "blocks.py",
        "a short first block",
        "FIRST_HELD = 16",
        "FIRST_HELD = 8",
        f"{HELD}the_first_block_of_a_held_input_is_longer",
    ),
    mutant(
        "runner.py",
        "a layer that takes more than a tensor forgets its state",
        "(rest, kwargs))):\n            return self._step_by_step(module, args, kwargs, call)",
        "(rest, kwargs))):\n            return self._step_by_step(module, args, kwargs, Call(0, False, True))",
        f"{MODELS}a_layer_with_a_state_may_take_more_than_a_tensor",
    ),
    mutant(
        "runner.py",
        "hooked layers are folded",
        "if has_hooks(module):",
        "if False:",
        f"{LAYERS}a_hooked_layer_sees_every_step",
    ),
    mutant(
        "runner.py",
        "exact=True folds layers that add up",
        "if exact and kind in folding.SUMS:",
        "if exact and not folding.SUMS:",
        f"{MODELS}exact_is_the_loop_whatever_a_blas_does_with_more_rows",
    ),
    mutant(
        "runner.py",
        "exact=True folds functions that add up",
        "self.exact and target in folding.SUMS",
        "self.exact and not folding.SUMS",
        f"{MODELS}exact_is_the_loop_whatever_a_blas_does_with_more_rows",
    ),
    # ---- fuse/folding.py
    mutant(
        "folding.py",
        "batch normalisation is folded in training",
        "if kind in NORMS and (layer.training or",
        "if kind in NORMS and (False or",
        f"{LAYERS}batch_norm_uses_the_statistics_of_each_step_and_is_folded_in_evaluation",
    ),
    mutant(
        "folding.py",
        "dropout is folded in training",
        'return "draws a mask at every step" if layer.training else ""',
        'return ""',
        f"{LAYERS}dropout_draws_the_masks_of_the_loop",
    ),
    mutant(
        "folding.py",
        "a step without a batch is taken for one",
        "dims != least if exact else dims < least",
        "False if exact else dims < least",
        f"{LAYERS}an_unbatched_step_is_not_taken_for_a_batch",
    ),
    # ---- fuse/graph.py
    mutant(
        "graph.py",
        "a changed state is taken for the layer's own",
        "if not set(following) <= set(output.all_input_nodes):",
        "if False:",
        f"{LAYERS}what_cannot_be_fused_is_left_as_it_was",
    ),
    mutant(
        "graph.py",
        "what tracing assigned stays",
        "table.update(old)",
        "pass",
        f"{LAYERS}what_cannot_be_fused_is_left_as_it_was",
    ),
    mutant(
        "graph.py",
        "a layer that is renamed is not noticed",
        "[*known] == [*modules] and ",
        "",
        f"{LAYERS}a_layer_that_is_renamed_is_noticed",
    ),
    mutant(
        "graph.py",
        "no layer is called twice",
        "len({*called.values()}) < len(called)",
        "False",
        f"{LAYERS}a_sum_that_remembers_by_a_hook_is_not_called_twice",
    ),
    mutant(
        "graph.py",
        "a function of one value is a layer",
        'node.op == "call_module" and len(args) == 1',
        "len(args) == 1",
        f"{LAYERS}functions_mean_what_they_mean_in_one_step",
    ),
    # ---- fuse/model.py
    mutant(
        "model.py",
        "a state that is None is guessed",
        "if missing and self._step(root, missing).shape != step.shape:",
        "if False:",
        f"{MODELS}a_state_that_may_be_none_is_not_guessed",
    ),
    mutant(
        "model.py",
        "a layer that is replaced is not noticed",
        "known.has(modules) and ",
        "",
        f"{LAYERS}nested_layers_that_are_replaced_or_switched_are_noticed",
    ),
    mutant(
        "model.py",
        "a graph is kept when the model changes",
        " and known.options == known.options_now():",
        ":",
        f"{LAYERS}an_attribute_that_changes_is_noticed",
    ),
    mutant(
        "model.py",
        "two calls of a sum are taken for a memory",
        " or (type(module) in folding.SUMS and not has_hooks(module))",
        "",
        f"{LAYERS}nested_layers_that_are_replaced_or_switched_are_noticed",
    ),
    mutant(
        "model.py",
        "a sum with a hook has no memory",
        "folding.SUMS and not has_hooks(module)",
        "folding.SUMS",
        f"{LAYERS}a_sum_that_remembers_by_a_hook_is_not_called_twice",
    ),
    mutant(
        "model.py",
        "a part that is switched is not noticed",
        "tuple([module.training for module in modules.values()])",
        "(self.training,)",
        f"{LAYERS}a_step_that_asks_whether_a_part_of_it_is_in_training",
    ),
    # ---- engines/max_pool.py
    pool("windows may be of any size", "zip(sizes, (2, 2, 0, 1)", "zip(sizes, (sizes[0], sizes[0], 0, 1)", POOL_REST),
    pool("strides do not count", "kernel_size if stride is None else stride", "kernel_size", POOL_REST),
    pool("switches do not count", "        and not switches\n", "", POOL_REST),
    pool("torch.func gets an operator that it does not know", "or transformed() or", "or", POOL_MODES),
    pool("forward mode too", " or is_forward_mode())", ")", POOL_MODES),
    pool("the gradient loses the input's layout", "not x.is_contiguous()\n", "False\n", POOL_BITS),
    pool("the second derivative mixes rows and columns", ".transpose(-3, -2)", "", POOL_SECOND),
    mutant(
        "folding.py",
        "a linear layer takes row by row",
        "return function(x, *args, **kwargs)",
        "return torch.stack([torch.stack([function(row) for row in step]) for step in x])",
        f"{LAYERS}a_linear_layer_has_the_bits_of_one_large_batch",
    ),
    mutant(
        "folding.py",
        "a patched linear layer sees a sequence",
        ' and "forward" not in vars(function):',
        ":",
        f"{LAYERS}a_patched_linear_layer_sees_a_batch",
    ),
    mutant("folding.py", "pooling as a layer is PyTorch's", "if kind is not nn.MaxPool2d or", "if True or", POOLING),
    mutant("folding.py", "a patched pooling layer is not called", '"forward" in vars(layer) or ', "", WATCHED),
    mutant("folding.py", "a watched one neither", " or _are_all_modules_watched()", "", WATCHED),
    mutant("folding.py", "pooling as a function is PyTorch's", "if function is F.max_pool2d", "if False", POOLING),
]
