"""A neuron's kernels as Python modules: printed by the generator, kept in a folder, from which Triton reads them."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from snn_lnm.engines.generator import program
from snn_lnm.engines.generator import triton as emitter
from snn_lnm.engines.generator.evaluate import evaluate
from snn_lnm.law import Law

__all__ = ["backward_kernel", "forward_kernel", "uses"]


@functools.lru_cache(maxsize=1024)
def forward_kernel(law: Law) -> tuple[Any, Any]:
    """The kernel and the :class:`snn_lnm.engines.triton.kernels.Neuron` of ``law``."""
    from snn_lnm.engines.triton.kernels import Neuron

    found = program.forward(law.form)
    module = _module(emitter.forward_source(found))
    functions = (module.prepare, module.center, module.step, module.above, None, None, None)
    return module.forward_kernel, Neuron(_shared(law, found), tuple(found.widths), 0, (), True, *functions)


@functools.lru_cache(maxsize=1024)
def backward_kernel(law: Law, needs: tuple[bool, ...]) -> tuple[Any, Any]:
    """Likewise, with the gradients of the tensors of numbers that are asked for."""
    from snn_lnm.engines.triton.kernels import Neuron

    found = program.backward(law.form, needs)
    module = _module(emitter.backward_source(found))
    functions = (module.prepare, module.center, None, None, module.back, module.recover, module.advance)
    in_back = "x" in found.inputs(node for _, node in found.pieces["back"])
    sizes = (tuple(found.widths), len(found.summed), tuple(found.rerun), in_back)
    return module.backward_kernel, Neuron(_shared(law, found), *sizes, *functions)


def uses(law: Law, operations: set[str]) -> set[str]:
    """Those of the operations that occur in the neuron's forward or backward pass."""
    everything = program.backward(law.form, (True,) * len(law.numbers))
    roots = [node for piece in everything.pieces.values() for _, node in piece]
    return program.operations([*roots, everything.spike, *everything.after]) & operations


def _shared(law: Law, found: program.Forward | program.Backward) -> tuple[float, ...]:
    """What follows from the constants alone: Python's numbers, in double, as in the reference."""
    given = {name: torch.tensor(value, dtype=torch.float64) for name, value in law.constants}
    return tuple(value.item() for value in evaluate([("", node) for node in found.shared], given))


def _module(source: str) -> Any:
    """``source`` as a module. Triton reads its functions' text from its file."""
    name = f"snn_lnm_neuron_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    path = _folder() / f"{name}.py"
    if not path.exists() or path.read_text() != source:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".py", delete=False) as file:
            file.write(source)
        os.replace(file.name, path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _folder() -> Path:
    """Beside Triton's own cache, or, where nothing can be written there, for this process alone."""
    kept = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache") / "snn_lnm"
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _own_folder()
    return kept if os.access(kept, os.W_OK) else _own_folder()


@functools.cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="snn_lnm-"))
