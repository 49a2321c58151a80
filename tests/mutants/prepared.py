"""Mutants of what `functional.run` remembers of a call."""

from tests.mutants.mutant import Mutant

PREPARED = "tests/test_prepared.py"


def run(why: str, old: str, new: str, file: str = "functional.py") -> Mutant:
    return Mutant(f"a remembered call {why}", f"snn_lnm/{file}", old, new, (PREPARED,))


MUTANTS = [
    run("forgets whether there are gradients", "(torch.is_grad_enabled(), values[0]", "(values[0]"),
    run("forgets how long the input is held", "(step, x.dtype, steps, *options)", "(step, x.dtype, *options)"),
    run("forgets whether the membrane is asked for", "(step, x.dtype, steps, *options)", "(step, x.dtype, steps)"),
    run("forgets the dtypes", "(value.shape, value.dtype, value.device)", "(value.shape, value.device)"),
    run("forgets the shapes", "(value.shape, value.dtype, value.device)", "(value.dtype, value.device)"),
    run("forgets the devices", "(value.shape, value.dtype, value.device)", "(value.shape, value.dtype)"),
    run("forgets the memory", "_key(values, memory, steps", "_key(values, steps"),
    run("forgets the memory where it has a number", "if memory is FULL and not torch", "if not torch"),
    run("takes any pair for a state", " and (state is None or given is state)", ""),
    run("with a number takes any pair for a state", "not (state is None or type(state) is State)", "False"),
    run(
        "with a number takes anything for an input",
        "not isinstance(x, Tensor) or not x.is_cpu or backend",
        "backend",
    ),
    run("with a number takes anything for a backend", ' or backend not in ("auto", "cpp"):', ":"),
    run("with a number takes a sparse input", " or x.layout != torch.strided", ""),
    run("with a number takes a nested input", "x.is_nested or ", ""),
    run("with a number ignores function modes", "torch._C._len_torch_function_stack()", "False"),
    run("with a number ignores tracing", " or torch._C._is_tracing()", " or False"),
    run(
        "with a number ignores transforms", "        or torch._C._are_functorch_transforms_active()", "        or False"
    ),
    run("with a number ignores modes and classes", "or op.watched((x, *given, *parameters))", "or False"),
    run("ignores modes and classes", "engines.transformed() or op.watched(values)", "engines.transformed()"),
    run("ignores transforms", "engines.transformed() or op.watched(values)", "op.watched(values)"),
    run("does not know the memory's type", "    check_memory(memory)\n    engines.check_name(backend)", "    pass"),
    run("starts at nothing", "_start(given, parameters, step, x)", "_start(_NOTHING, parameters, step, x)"),
    run(
        "with a number starts at nothing",
        "op.again(source, *given, *parameters, number)",
        "op.again(source, None, None, *parameters, number)",
    ),
    run("that does not fit is an output", "None if spikes is None else Output", "Output"),
    run("is kept for ever", "if len(dynamics.prepared) >= MOST_PREPARED:", "if False:"),
    run("is made of a recomputed one", "    elif key is not None and name", "    if key is not None and name"),
    run("is made where none follows", "if remembers and ", "if "),
    run("goes with a copy", 'if name != "prepared"}', "if name}", "parameters.py"),
    run("uses converted numbers", " and not _converted(values, aligned, start):", ":"),
    run(
        "does not view its parameters",
        "parameters if views is _AS_THEY_ARE else map(",
        "parameters if True else map(",
        "engines/op.py",
    ),
    run(
        "with a number does not view them either",
        "if prepared.views is not _AS_THEY_ARE:",
        "if False:",
        "engines/op.py",
    ),
    run(
        "gives the membrane as if asked for",
        "wanted = STATE_DTYPE[x.dtype] if membrane else None",
        "wanted = STATE_DTYPE[x.dtype]",
        "engines/op.py",
    ),
]
