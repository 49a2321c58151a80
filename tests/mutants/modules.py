"""Mutants of the way to the law: the op and its layouts, the function, the module, `swap`, the C++ engine's start."""

from tests.mutants.mutant import Mutant

GRADIENTS = "tests/test_engines.py::test_same_gradients_to_the_bit_where_arithmetic_is_exact"
MEMORY = "tests/test_memory_options.py::test_"
STARTS = "tests/test_hard_use.py::test_a_start_made_elsewhere_serves_training"
LAYOUTS = "tests/test_oracle_forward.py::test_layouts"


def mutant(file: str, why: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, f"snn_lnm/{file}", old, new, tests)


MUTANTS = [
    # ---- engines/op.py
    mutant(
        "engines/op.py",
        "the layout's inner size is one too far",
        "math.prod(step[last + 1 :])",
        "math.prod(step[last:])",
        LAYOUTS,
    ),
    mutant(
        "engines/op.py",
        "the layout starts at the last dimension",
        "first, last = min(varying), max(varying)",
        "first = last = max(varying)",
        LAYOUTS,
    ),
    mutant(
        "engines/op.py",
        "the fake op gets the shape of the state wrong",
        "nothing.clone() if membrane_is_last else x.new_empty(v.shape, dtype=dtype)",
        "x.new_empty(x.shape, dtype=dtype)",
        "tests/test_engines.py::test_opcheck",
    ),
    mutant(
        "engines/op.py",
        "the fake gradient of the synapse is always there",
        "like(current, need_state)",
        "like(v, need_state)",
        "tests/test_engines.py::test_opcheck",
    ),
    mutant(
        "engines/op.py",
        "surrogates are numbered from 1",
        "_SURROGATES = {kind: index for index, kind in enumerate(BY_NAME.values())}",
        "_SURROGATES = {kind: index for index, kind in enumerate(BY_NAME.values(), 1)}",
        GRADIENTS,
    ),
    # ---- functional.py's start at zero
    mutant(
        "functional.py", "it may belong to inference mode", "inference_mode(mode=False)", "inference_mode()", STARTS
    ),
    mutant("functional.py", "it may be fake", " or op.watched((x,))", "", STARTS),
    mutant(
        "functional.py",
        "it may belong to a transform",
        "engines.transformed() or op.watched((x,))",
        "op.watched((x,))",
        STARTS,
    ),
    mutant(
        "functional.py",
        "it is handed out",
        "value.clone(memory_format=torch.contiguous_format)",
        "value.contiguous()",
        "tests/test_hard_use.py::test_no_step_hands_out_a_start_of_its_own",
    ),
    mutant(
        "functional.py",
        "nobody is computed by a kernel",
        "and x.numel() == 0:",
        "and False:",
        "tests/test_hard_use.py::test_a_layer_of_no_neurons",
    ),
    # ---- engines/__init__.py
    mutant(
        "engines/__init__.py",
        "an explicit request falls back in silence",
        'if backend != "auto":',
        "if False:",
        "tests/test_engines.py::test_without_a_compiler",
    ),
    mutant(
        "engines/__init__.py",
        "a user's surrogate gets another derivative",
        "if type(dynamics.surrogate) not in _COMPILED:",
        "if False:",
        "tests/test_engines.py::test_a_user_s_surrogate_runs_on_the_reference",
    ),
    mutant(
        "engines/__init__.py",
        "a slow choice is not said",
        "warnings.warn(f",
        "str(f",
        "tests/test_engines.py::test_without_a_compiler",
    ),
    # ---- functional.py
    mutant(
        "functional.py",
        "a given state is ignored",
        "return State(zeros(step, x) if v is None else v, current)",
        "return State(zeros(step, x), current)",
        "tests/test_law.py::test_time_can_be_split_anywhere",
    ),
    mutant(
        "functional.py",
        "a given current is ignored",
        "if current is None and parameters.alpha is not None:",
        "if parameters.alpha is not None:",
        "tests/test_law.py::test_time_can_be_split_anywhere",
    ),
    mutant(
        "functional.py",
        "no steps lose the state",
        "x.to(STATE_DTYPE[x.dtype], copy=True), start)",
        "x.to(STATE_DTYPE[x.dtype], copy=True), State(torch.zeros_like(v), current))",
        "tests/test_law.py::test_time_can_be_split_anywhere",
    ),
    mutant(
        "functional.py",
        "a current without a synapse is taken",
        "if current is not None and parameters.alpha is None:",
        "if False:",
        "tests/test_bad_input.py::test_error",
    ),
    # ---- neuron.py
    mutant(
        "neuron.py",
        "checkpoints forget the domain",
        "cast(Any, self).domain = None if math.isinf(hi) else (lo, hi)",
        "pass",
        "tests/test_neuron.py::test_checkpoints_carry_the_domain",
    ),
    mutant(
        "neuron.py",
        "no domain is saved as the widest",
        "None if math.isinf(hi) else (lo, hi)",
        "(lo, hi)",
        "tests/test_neuron.py::test_checkpoints_carry_the_domain",
    ),
    mutant(
        "neuron.py",
        "the leak of lif is the constant term",
        "theta[..., 1] = beta",
        "theta[..., 0] = beta",
        "tests/test_neuron.py::test_lif_and_if",
    ),
    mutant(
        "neuron.py",
        "qif has u1 + u2 with the wrong sign",
        "1 - a * (u1 + u2), a]",
        "1 + a * (u1 + u2), a]",
        "tests/test_neuron.py::test_qif_on_dyadic_rationals",
    ),
    mutant(
        "neuron.py",
        "one step is a sequence",
        "return self._run(x, state, return_membrane, single_step=True)",
        "return self._run(x, state, return_membrane, single_step=False)",
        "tests/test_neuron.py::test_steps_are_the_sequence",
    ),
    mutant(
        "neuron.py",
        "numbers given as tensors stay the caller's",
        "check_finite(name, value.detach().clone())",
        "check_finite(name, value.detach())",
        "tests/test_properties_module.py::test_a_neuron_owns_its_numbers",
    ),
    # ---- swapping
    mutant(
        "swapping/exchange.py",
        "shared neurons are seen once",
        "model.named_modules(remove_duplicate=False)",
        "model.named_modules()",
        "tests/test_swap.py::test_outputs_are_the_same_and_then_learn",
    ),
    mutant(
        "swapping/counterpart.py",
        "the training mode is lost",
        "new.train(module.training)",
        "pass",
        "tests/test_swap.py::test_outputs_are_the_same_and_then_learn",
    ),
    mutant(
        "swapping/counterpart.py",
        "hooks are lost",
        "new.__dict__[hooks] = module.__dict__[hooks]",
        "pass",
        "tests/test_swap.py::test_hooks_survive",
    ),
    mutant(
        "swapping/exchange.py",
        "strict changes the model first",
        "if strict and (refused or held):",
        "if False:",
        "tests/test_swap.py::test_what_it_leaves",
    ),
    mutant(
        "swapping/counterpart.py",
        "subclasses are swapped",
        "if changes:",
        "if False:",
        "tests/test_swap.py::test_what_it_leaves",
    ),
    mutant(
        "swapping/counterpart.py",
        "attributes of the user are lost",
        "new.__dict__.update(own)",
        "pass",
        "tests/test_swap_kept.py::test_attributes_of_the_user_come_along_and_no_others",
    ),
    mutant(
        "swapping/counterpart.py",
        "a patched method is lost",
        "if callable(value) and callable(getattr(kind, name, None)):",
        "if False:",
        "tests/test_swap_kept.py::test_what_would_be_lost_is_a_reason_to_stay",
    ),
    mutant(
        "swapping/holders.py",
        "closures hold nothing",
        "strict=True):\n        for inner in gc.get_referents(cell):",
        "strict=True):\n        for inner in ():",
        "tests/test_swap_kept.py::test_holders_are_named_warned_of_and_fail_strict",
    ),
    mutant(
        "swapping/optimizer.py",
        "the leak decays",
        'group["weight_decay"] = 0.0',
        "pass",
        "tests/test_swap_choice.py::test_the_new_parameters_train_and_the_old_ones_are_gone",
    ),
    mutant(
        "swapping/optimizer.py",
        "replaced parameters keep their state",
        "del optimizer.state[parameter]",
        "pass",
        "tests/test_swap_choice.py::test_the_new_parameters_train_and_the_old_ones_are_gone",
    ),
    mutant(
        "swapping/choice.py",
        "the first of two entries wins",
        "options = replace(options, **changes)",
        "options = replace(self.options, **changes)",
        "tests/test_swap_choice.py::test_layers_have_options_of_their_own_and_the_later_wins",
    ),
    # ---- engines/cpp/__init__.py
    mutant(
        "engines/cpp/__init__.py",
        "an incomplete library is in its place",
        "(Path(build) / library.name).replace(library)",
        "shutil.copy(Path(build) / 'surrogates.h', library)",
        "tests/test_processes.py::test_three_start_together_after_a_kill",
    ),
    mutant(
        "engines/cpp/__init__.py",
        "the name of the library forgets the flags",
        'identity = "\\n".join([*sources, header, *flags,',
        'identity = "\\n".join([*sources, header,',
        "tests/test_hard_starts.py::test_the_name_of_the_library_holds_all_that_shapes_it",
    ),
    # ---- memory.py
    mutant(
        "memory.py",
        "a part is one step too long",
        "x.split(every)",
        "x.split(every + 1)",
        MEMORY + "one_more_forward_and_none_without_gradients",
    ),
    mutant(
        "memory.py",
        "every part starts where the first did",
        "s, _, state = torch",
        "s, _, _ = torch",
        MEMORY + "same_bits",
    ),
    mutant(
        "functional.py",
        "a step is rounded, too",
        "membrane_dtype(x, FULL if single_step else memory)",
        "membrane_dtype(x, memory)",
        MEMORY + "one_step_is_kept_as_without_options",
    ),
    mutant(
        "memory.py",
        "the state is that of the end",
        "start, numbers = State(*tensors[:2])",
        "start, numbers = State(state.v, state.current)",
        MEMORY + "same_gradients_to_the_bit_where_arithmetic_is_exact",
    ),
]
