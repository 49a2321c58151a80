"""Mutants of what `functional.run` remembers of a call."""

from tests.mutants.mutant import Mutant

PREPARED = "tests/test_prepared.py"


def run(why: str, inside: str, old: str, new: str, file: str = "functional.py") -> Mutant:
    return Mutant(f"a remembered call {why}", f"snn_lnm/{file}", inside, old, new, (PREPARED,))


MUTANTS = [
    run("forgets whether there are gradients", "_key", "(torch.is_grad_enabled(), values[0]", "(values[0]"),
    run(
        "forgets how long the input is held", "_place", "(step, x.dtype, steps, *options)", "(step, x.dtype, *options)"
    ),
    run(
        "forgets whether the membrane is asked for",
        "_place",
        "(step, x.dtype, steps, *options)",
        "(step, x.dtype, steps)",
    ),
    run("forgets the dtypes", "_key", "(value.shape, value.dtype, value.device)", "(value.shape, value.device)"),
    run("forgets the shapes", "_key", "(value.shape, value.dtype, value.device)", "(value.dtype, value.device)"),
    run("forgets the devices", "_key", "(value.shape, value.dtype, value.device)", "(value.shape, value.dtype)"),
    run("forgets the memory", "_run", "_key(values, memory, steps", "_key(values, steps"),
    run("forgets the memory where it has a number", "_run", "memory is FULL and not torch", "not torch"),
    run("takes any pair for a state", "_run", "and (state is None or given is state)", ""),
    run("with a number takes any pair for a state", "_again", "not (state is None or type(state) is State)", "False"),
    run(
        "with a number takes anything for an input",
        "_again",
        "not isinstance(x, Tensor) or not x.is_cpu or backend",
        "backend",
    ),
    run("with a number takes anything for a backend", "_again", 'or backend not in ("auto", "cpp")', ""),
    run("with a number takes a sparse input", "_again", "or x.layout != torch.strided", ""),
    run("with a number takes a nested input", "_again", "x.is_nested or", ""),
    run("with a number ignores function modes", "_again", "torch._C._len_torch_function_stack()", "False"),
    run("with a number ignores tracing", "_again", "or torch._C._is_tracing()", "or False"),
    run("with a number ignores transforms", "_again", "or torch._C._are_functorch_transforms_active()", "or False"),
    run("with a number ignores modes and classes", "_again", "or op.watched((x, *given, *parameters))", "or False"),
    run(
        "ignores modes and classes",
        "_are_plain",
        "engines.transformed() or op.watched(values)",
        "engines.transformed()",
    ),
    run("ignores transforms", "_are_plain", "engines.transformed() or op.watched(values)", "op.watched(values)"),
    run("does not know the memory's type", "_run", "check_memory(memory) engines.check_name(backend)", "pass"),
    run("starts at nothing", "_run", "_start(given, parameters, step, x)", "_start(_NOTHING, parameters, step, x)"),
    run(
        "with a number starts at nothing",
        "_again",
        "op.again(source, *given, *parameters, number)",
        "op.again(source, None, None, *parameters, number)",
    ),
    run("that does not fit is an output", "_again", "None if spikes is None else Output", "Output"),
    run("is kept for ever", "_remember", "len(dynamics.prepared) >= MOST_PREPARED", "False"),
    run("is made of a recomputed one", "_run", "elif key is not None", "if key is not None"),
    run("is made where none follows", "_run", "if remembers and", "if"),
    run("goes with a copy", "Dynamics.__getstate__", 'name != "prepared"}', "name}", "parameters.py"),
    run("uses converted numbers", "_run", "and not _converted(values, aligned, start)", ""),
    run(
        "does not view its parameters",
        "call",
        "parameters if views is _AS_THEY_ARE else map(",
        "parameters if True else map(",
        "engines/op.py",
    ),
    run(
        "with a number does not view them either",
        "remember",
        "prepared.views is not _AS_THEY_ARE",
        "False",
        "engines/op.py",
    ),
    run(
        "gives the membrane as if asked for",
        "remember",
        "wanted = STATE_DTYPE[x.dtype] if membrane else None",
        "wanted = STATE_DTYPE[x.dtype]",
        "engines/op.py",
    ),
]
