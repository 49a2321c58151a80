"""Mutants of the swap: which neurons, what becomes of each, who else holds it, and the optimizer."""

from tests.mutants.mutant import Mutant


def mutant(file: str, why: str, inside: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(why, f"snn_lnm/swapping/{file}", inside, old, new, tests)


MUTANTS = [
    mutant(
        "exchange.py",
        "shared neurons are seen once",
        "_find",
        "model.named_modules(remove_duplicate=False)",
        "model.named_modules()",
        "tests/test_swap.py::test_outputs_are_the_same_and_then_learn",
    ),
    mutant(
        "counterpart.py",
        "the training mode is lost",
        "take_over",
        "new.train(module.training)",
        "pass",
        "tests/test_swap.py::test_outputs_are_the_same_and_then_learn",
    ),
    mutant(
        "counterpart.py",
        "hooks are lost",
        "take_over",
        "new.__dict__[hooks] = module.__dict__[hooks]",
        "pass",
        "tests/test_swap.py::test_hooks_survive",
    ),
    mutant(
        "exchange.py",
        "strict changes the model first",
        "exchange",
        "strict and (refused or held)",
        "False",
        "tests/test_swap.py::test_what_it_leaves",
    ),
    mutant(
        "counterpart.py",
        "subclasses are swapped",
        "known_class",
        "if changes:",
        "if False:",
        "tests/test_swap.py::test_what_it_leaves",
    ),
    mutant(
        "counterpart.py",
        "attributes of the user are lost",
        "take_over",
        "new.__dict__.update(own)",
        "pass",
        "tests/test_swap_kept.py::test_attributes_of_the_user_come_along_and_no_others",
    ),
    mutant(
        "counterpart.py",
        "a patched method is lost",
        "check_nothing_is_lost",
        "if callable(value) and callable(getattr(kind, name, None)):",
        "if False:",
        "tests/test_swap_kept.py::test_what_would_be_lost_is_a_reason_to_stay",
    ),
    mutant(
        "holders.py",
        "closures hold nothing",
        "_of_function",
        "gc.get_referents(cell)",
        "()",
        "tests/test_swap_kept.py::test_holders_are_named_warned_of_and_fail_strict",
    ),
    mutant(
        "optimizer.py",
        "the leak decays",
        "update_optimizer",
        'group["weight_decay"] = 0.0',
        "pass",
        "tests/test_swap_choice.py::test_the_new_parameters_train_and_the_old_ones_are_gone",
    ),
    mutant(
        "optimizer.py",
        "replaced parameters keep their state",
        "update_optimizer",
        "del optimizer.state[parameter]",
        "pass",
        "tests/test_swap_choice.py::test_the_new_parameters_train_and_the_old_ones_are_gone",
    ),
    mutant(
        "choice.py",
        "the first of two entries wins",
        "Choice.of",
        "options = replace(options, **changes)",
        "options = replace(self.options, **changes)",
        "tests/test_swap_choice.py::test_layers_have_options_of_their_own_and_the_later_wins",
    ),
]
