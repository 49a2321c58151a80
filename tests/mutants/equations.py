"""Mutants of neurons of a user's own."""

from tests.mutants.mutant import Mutant

TESTS = "tests/test_equations.py::test_"
RESET, STARTS = "a_reset_is_detached_unless_asked", "a_step_that_starts_elsewhere"
TEXTS, AGREE, BAD = "two_surrogates_are_two_neurons", "engines_agree", "bad_input"


def mutant(why: str, inside: str, old: str, new: str, test: str) -> Mutant:
    return Mutant(f"equations: {why}", "snn_lnm/equations.py", inside, old, new, (TESTS + test,))


MUTANTS = [
    mutant(
        "a reset is never detached",
        "_Step.__call__",
        "spikes.detach() if self.detach_reset",
        "spikes if True",
        RESET,
    ),
    mutant("zero subtracts", "_Step.__call__", "(1 - s) * h", "h - s * threshold", "reset_mechanisms"),
    mutant("a lost state is none", "_complete", "!= {*said.states}", "!= {*cast('Values', given)}", BAD),
    mutant(
        "every state starts at zero",
        "EquationNeuron._states",
        "if checked is None and start",
        "if False",
        STARTS,
    ),
    mutant("an empty sequence has steps", "EquationNeuron._run", "x.shape[0] == 0", "False", STARTS),
    mutant("all that is smooth spikes", "_Step.__call__", "if self.smooth", "if False", "gradients_are_true"),
    mutant(
        "two surrogates are one text",
        "_neuron_of",
        "(nodes, roots, constants)",
        "(nodes, roots)",
        TEXTS,
    ),
    mutant("two laws are one text", "_neuron_of", "(nodes, roots, constants)", "(constants,)", AGREE),
    mutant(
        "a pickle knows no equations", "EquationNeuron.__getstate__", 'name != "_neuron"', "True", "copies_and_pickles"
    ),
    mutant("a refusal has no line", "_with_line", "if frames", "if False", BAD),
    mutant(
        "any number is one",
        "EquationNeuron.__init__",
        "unknown := sorted(given - known)",
        "unknown := None",
        BAD,
    ),
]
