"""Mutants of what `functional.run` remembers of a call."""

from tests.mutants.mutant import Mutant

PREPARED = "tests/test_prepared.py"


def run(why: str, inside: str, old: str, new: str, file: str = "functional.py") -> Mutant:
    return Mutant(f"a remembered call {why}", f"snn_lnm/{file}", inside, old, new, (PREPARED,))


MUTANTS = [
    run("forgets whether there are gradients", "_key", "(torch.is_grad_enabled(), values[0]", "(values[0]"),
    run("forgets the dtypes", "_key", "(value.shape, value.dtype, value.device)", "(value.shape, value.device)"),
    run("forgets the shapes", "_key", "(value.shape, value.dtype, value.device)", "(value.dtype, value.device)"),
    run("forgets the devices", "_key", "(value.shape, value.dtype, value.device)", "(value.shape, value.dtype)"),
    run("forgets the memory", "_run", "_key(values, memory, steps", "_key(values, steps"),
    run("forgets how long the input is held", "_run", "memory, steps, single_step", "memory, single_step"),
    run(
        "forgets whether the membrane is asked for", "_run", "single_step, membrane, backend)", "single_step, backend)"
    ),
    run("forgets the backend", "_run", "single_step, membrane, backend)", "single_step, membrane)"),
    run("takes any pair for a state", "_run", "and (state is None or given is state)", ""),
    run(
        "ignores modes and classes",
        "_are_plain",
        "engines.transformed() or calls.watched(values)",
        "engines.transformed()",
    ),
    run("ignores transforms", "_are_plain", "engines.transformed() or calls.watched(values)", "calls.watched(values)"),
    run("takes a sparse input", "_are_plain", "and x.layout == torch.strided", ""),
    run("takes a nested input", "_are_plain", "and not x.is_nested", ""),
    run("does not know the memory's type", "_run", "check_memory(memory)", "pass"),
    run("starts at nothing", "_run", "_start(given, parameters, x.shape if", "_start(_NOTHING, parameters, x.shape if"),
    run("is kept for ever", "_remember", "len(dynamics.prepared) >= MOST_PREPARED", "False"),
    run(
        "is made of a recomputed one",
        "_run",
        'name != "reference" and not recomputes',
        'name != "reference"',
    ),
    run("is made where none follows", "_run", "if remembers and", "if"),
    run("goes with a copy", "Dynamics.__getstate__", 'name != "prepared"}', "name}", "parameters.py"),
    run("uses converted numbers", "_run", "and not _converted(values, aligned, start)", ""),
    run("does not view its parameters", "call", "views is not None", "False", "engines/calls.py"),
    run(
        "gives the membrane as if asked for",
        "_run",
        "h if membrane else start.v.new_empty(0), State(*last))\n    check_input",
        "h, State(*last))\ncheck_input",
    ),
]
