"""Mutants of how `fuse_time` follows a step: the graph, what is refused, and what folds."""

from tests.mutants.mutant import Mutant

LAYERS = "tests/fuse/test_fuse_layers.py::test_"
REFUSALS = "tests/fuse/test_fuse_refusals.py::test_"
STEPPED = "tests/fuse/test_fuse_stepped.py::test_"
OVER = "tests/fuse/test_fuse_over_time.py::test_"
POOLING = f"{LAYERS}max_pooling_is_the_engine_s"
WATCHED = f"{LAYERS}a_pooling_layer_that_is_watched_or_patched_is_called"


def mutant(file: str, why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, f"snn_lnm/fuse/{file}", inside, old, new, tests)


MUTANTS = [
    # ---- fuse/folding.py
    mutant(
        "folding.py",
        "batch normalisation is folded in training",
        "reason_to_step",
        "kind in NORMS and (layer.training or",
        "kind in NORMS and (False or",
        f"{LAYERS}batch_norm_uses_the_statistics_of_each_step_and_is_folded_in_evaluation",
    ),
    mutant(
        "folding.py",
        "dropout is folded in training",
        "reason_to_step",
        '"draws a mask at every step" if layer.training else ""',
        '""',
        f"{LAYERS}dropout_draws_the_masks_of_the_loop",
    ),
    mutant(
        "folding.py",
        "a step without a batch is taken for one",
        "reason_to_step",
        "dims != least if exact else dims < least",
        "False if exact else dims < least",
        f"{LAYERS}an_unbatched_step_is_not_taken_for_a_batch",
    ),
    # ---- fuse/graph.py
    mutant(
        "graph.py",
        "a changed state is taken for the layer's own",
        "_check_states",
        "not set(following) <= set(output.all_input_nodes)",
        "False",
        f"{REFUSALS}states_that_do_not_go_in_and_out",
    ),
    mutant(
        "tracer.py",
        "what tracing assigned stays",
        "untouched",
        "table.update(old)",
        "pass",
        f"{REFUSALS}states_that_do_not_go_in_and_out",
    ),
    mutant(
        "graph.py",
        "a layer that is renamed is not noticed",
        "StepGraph.has",
        "[*known] == [*modules] and",
        "",
        f"{LAYERS}a_layer_that_is_renamed_is_noticed",
    ),
    mutant(
        "graph.py",
        "no layer is called twice",
        "_traced",
        "len({*called.values()}) < len(called)",
        "False",
        f"{LAYERS}a_sum_that_remembers_by_a_hook_is_not_called_twice",
    ),
    mutant(
        "graph.py",
        "a function of one value is a layer",
        "_operations",
        'node.op == "call_module" and len(args) == 1',
        "len(args) == 1",
        f"{LAYERS}functions_mean_what_they_mean_in_one_step",
    ),
    # ---- fuse/tracer.py, fuse/obstacles.py
    mutant(
        "tracer.py",
        "a net that takes time itself is fused",
        "check_one_step",
        "if is_over_time(module, adapters):",
        "if False:",
        f"{OVER}a_net_that_takes_time_itself_is_refused",
    ),
    mutant(
        "tracer.py",
        "writing into a tensor of the step's own is not noticed",
        "IN_PLACE",
        '{"setitem", "__setitem__",',
        '{"setitem",',
        f"{REFUSALS}other_obstacles_have_a_sentence_and_a_line",
    ),
    mutant(
        "graph.py",
        "a loop that unrolls is taken for a step",
        "_traced",
        "if place := tracer.loop(only_indexed=True):",
        "if False and (place := tracer.loop(only_indexed=True)):",
        f"{REFUSALS}a_loop_over_time_is_one_sentence_with_its_line",
    ),
    mutant(
        "graph.py",
        "no layer is left to run step by step",
        "trace",
        "leaves[layer] = obstacle.reason",
        "raise",
        f"{STEPPED}a_layer_that_cannot_be_followed_runs_step_by_step",
    ),
    mutant(
        "obstacles.py",
        "a loop over layers is one over time",
        "_loop",
        "or any(_is_of_layers(node, names) for node in over)",
        "or not over",
        f"{REFUSALS}a_loop_over_layers_is_none_over_time",
    ),
    mutant(
        "runner.py",
        "a layer that writes into its input is not found out",
        "Runner._step_by_step",
        "if any([_is_written(*mark) for mark in marks]):",
        "if False:",
        f"{STEPPED}a_layer_that_writes_into_what_it_is_given_is_found_out",
    ),
    # ---- fuse/folding.py, linear layers and pooling
    mutant(
        "folding.py",
        "a linear layer takes row by row",
        "fold",
        "function(x, *args, **kwargs)",
        "torch.stack([torch.stack([function(row) for row in step]) for step in x])",
        f"{LAYERS}a_linear_layer_has_the_bits_of_one_large_batch",
    ),
    mutant(
        "folding.py",
        "a patched linear layer sees a sequence",
        "fold",
        'and "forward" not in vars(function)',
        "",
        f"{LAYERS}a_patched_linear_layer_sees_a_batch",
    ),
    mutant(
        "folding.py",
        "pooling as a layer is PyTorch's",
        "call_of",
        "kind is not nn.MaxPool2d or",
        "True or",
        POOLING,
    ),
    mutant(
        "folding.py", "a patched pooling layer is not called", "call_of", '"forward" in vars(layer) or', "", WATCHED
    ),
    mutant("folding.py", "a watched one neither", "call_of", "or _are_all_modules_watched()", "", WATCHED),
    mutant("folding.py", "pooling as a function is PyTorch's", "fold", "function is F.max_pool2d", "False", POOLING),
]
