"""A neuron's kernels for CPUs: generated, compiled when the operator first asks for them, then found."""

from __future__ import annotations

from pathlib import Path

import torch

from snn_lnm.engines import form
from snn_lnm.engines.cpp.build import HERE, built, compile_library, name_of
from snn_lnm.engines.cpp.remedies import complaint, remedy
from snn_lnm.engines.generator import cpp as emitter
from snn_lnm.engines.generator import program

__all__ = ["CannotCompile", "source"]

_LOOPS = ("backward.h", "forward.h", "halves.h", "neuron.h", "pass.h", "rows.h", "vec.h")
_STORAGE = {
    "Float": "float",
    "Double": "double",
    "BFloat16": "bfloat16",
    "Half": "float16",
}  # PyTorch's names, and ours
_FLAGS = ["-O2", "-fno-math-errno", "-fno-trapping-math"]
# The bits of the forward pass are part of the contract: no contraction into fused multiply-adds there.
_CONTRACTION = {"forward": "-ffp-contract=off", "backward": "-ffp-contract=fast"}


class CannotCompile(RuntimeError):
    """A neuron's kernel does not compile here, or cannot be kept."""


def source(law: str, variant: str) -> str:
    """C++ of the kernel for the neuron ``law`` and a ``variant`` of the operator's."""
    direction, dtype, kept, tiles, *needs = variant.split(" ")
    neuron = form.parse(law).law.form
    arithmetic = "double" if dtype == "Double" else "float"
    options = (arithmetic, _STORAGE[dtype], _STORAGE[kept], tiles == "uniform")
    if direction == "forward":
        return emitter.forward_source(program.forward(neuron), *options)
    return emitter.backward_source(program.backward(neuron, _flags(needs[0])), *options)


def _flags(needs: str) -> tuple[bool, ...]:
    return tuple(need == "1" for need in needs)


def _kernel(law: str, variant: str) -> tuple[str, list[float], int, list[int], int, bool]:
    """For the operator: the library; the neuron's constants; how many states it has; its numbers' widths.

    And which state is the membrane; whether the way back looks at the input.
    """
    said, code, direction = form.parse(law), source(law, variant), variant.split()[0]
    flags = [*_FLAGS, _CONTRACTION[direction]]
    name = name_of("kernel", code, *flags, *(HERE.joinpath(loop).read_text() for loop in _LOOPS))

    def build(library: Path) -> None:
        path = library.with_suffix(".cpp")
        path.write_text(code)
        compile_library([path], flags, library)

    try:
        library = built(name, build)
    except OSError as error:
        cure = "it is kept under TORCH_EXTENSIONS_DIR, set that to a folder that can be written."
        raise CannotCompile(f"a neuron's kernel cannot be written ({error}): {remedy(str(error)) or cure}") from error
    except RuntimeError as error:
        cure = remedy(str(error))
        helps = "" if cure is None else f"\nWhat helps: {cure}"
        raise CannotCompile(f"a neuron's kernel does not compile here: {complaint(str(error))}{helps}") from error
    widths = [width or 0 for _, width in said.law.numbers]
    uses_input = direction == "backward" and said.uses_input(_flags(variant.split(" ")[-1]))
    constants = [value for _, value in said.law.constants]
    return str(library), constants, len(said.law.states), widths, said.membrane_state, uses_input


_library = torch.library.Library("snn_lnm", "FRAGMENT")
_library.define("kernel(str law, str variant) -> (str, float[], int, int[], int, bool)")
_library.impl("kernel", _kernel, "CompositeExplicitAutograd")
