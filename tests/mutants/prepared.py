"""Mutants of what `functional.run` remembers of a call."""

from tests.mutants.mutant import Mutant

PREPARED = "tests/test_prepared.py"


def run(why: str, old: str, new: str, file: str = "functional.py") -> Mutant:
    return Mutant(f"a remembered call {why}", f"snn_lnm/{file}", old, new, (PREPARED,))


MUTANTS = [
    run("forgets whether there are gradients", "(torch.is_grad_enabled(), steps, ", "(steps, "),
    run("forgets how long the input is held", "(torch.is_grad_enabled(), steps, ", "(torch.is_grad_enabled(), "),
    run("forgets the options", "steps, *options, *kinds)", "steps, *kinds)"),
    run("forgets the dtypes", "(value.shape, value.dtype, value.device)", "(value.shape, value.device)"),
    run("forgets the shapes", "(value.shape, value.dtype, value.device)", "(value.dtype, value.device)"),
    run("forgets the devices", "(value.shape, value.dtype, value.device)", "(value.shape, value.dtype)"),
    run("takes any pair for a state", "if state is not None and type(state) is not State:", "if False:"),
    run("ignores modes and classes", "op.watched(values) or not source", "not source"),
    run("ignores transforms", "engines.transformed() or op.watched(values)", "op.watched(values)"),
    run("does not know the memory's type", "    check_memory(memory)\n    engines.check_name(backend)", "    pass"),
    run("starts at nothing", "_start(state or _NOTHING, parameters, step, x)", "_start(_NOTHING, parameters, step, x)"),
    run("is kept for ever", "if len(dynamics.prepared) >= MOST_PREPARED:", "if False:"),
    run("is made of a recomputed one", "    elif key is not None and name", "    if key is not None and name"),
    run("goes with a copy", 'if name != "prepared"}', "if name}", "parameters.py"),
    run("uses converted parameters", "a.dtype == b.dtype for a, b", "True for a, b"),
    run(
        "uses a converted state",
        "(*parameters, *(state or _NOTHING)), (*aligned, *start)",
        "(*parameters,), (*aligned,)",
    ),
    run(
        "does not view its parameters",
        "parameters if views is _AS_THEY_ARE else map(",
        "parameters if True else map(",
        "engines/op.py",
    ),
]
