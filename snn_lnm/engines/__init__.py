"""Engines: who computes the law. `reference` always can; `cpp` on CPUs; `triton` on GPUs.

All give the same bits; the choice is about speed. An explicit request that cannot be met fails.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from snn_lnm.checks import check_finite, check_input
from snn_lnm.engines import calls, cpp, form
from snn_lnm.engines.op import ENGINES
from snn_lnm.engines.plain import decompositions
from snn_lnm.law import Neuron, Outputs
from snn_lnm.parameters import Dynamics
from snn_lnm.tracing import is_tracing

Backend = Literal["auto", "reference", "cpp", "triton"]
_NAMES = get_args(Backend)
Run = Callable[[Tensor, list[Tensor], list[Tensor]], Outputs]
"""From an input and the states and numbers of a neuron."""

__all__ = ["Backend", "Run", "check_backend", "choose", "decompositions", "explain", "instead", "runner", "transformed"]

_warned: set[str] = set()


def transformed() -> bool:
    """Within `torch.func.grad`, `vmap` and the like, where tensors may have no values to look at."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage] - no public one


def _run_reference(
    neuron: Neuron, single_step: bool, x: Tensor, states: list[Tensor], numbers: list[Tensor]
) -> Outputs:
    if x.device.type == "cpu" and not (torch.compiler.is_compiling() or is_tracing() or transformed()):
        for value, width in zip(numbers, neuron.widths, strict=True):
            if width is not None:
                check_finite("coefficients", value)
    if not single_step:
        return neuron.scan(x, states, numbers)
    spikes, h, last = neuron.scan(x.unsqueeze(0), states, numbers)
    return spikes.squeeze(0), h.squeeze(0), last


def _obstacle(backend: str, device: torch.device, neuron: Neuron) -> str | None:
    """Why ``backend`` cannot run this, in a sentence; None if it can."""
    if backend == "reference":
        return _cannot_be_traced()
    if transformed():
        return "torch.func's transforms (grad, vmap, ...) see through the reference engine only."
    if is_tracing() and torch.onnx.is_in_onnx_export():
        return "torch.onnx.export knows PyTorch's own operators only, unless it is called with dynamo=True."
    return neuron.own or ENGINES[backend].obstacle(device, neuron.functions)


def _preferred(device: torch.device) -> str:
    for engine in ENGINES.values():
        if engine.device == device.type:
            return engine.name
    return "reference"


def _cannot_be_traced() -> str | None:
    """Why the reference engine cannot run, which it only ever cannot under `torch.jit.trace`."""
    if is_tracing() and torch.is_grad_enabled() and not torch.onnx.is_in_onnx_export():
        return (
            "torch.jit.trace cannot record the surrogate gradient of the reference engine: trace under "
            "torch.no_grad(), or use torch.export."
        )
    return None


def check_backend(backend: str) -> None:
    """Raise ValueError if ``backend`` is not a known name."""
    if backend not in _NAMES:
        raise ValueError(f"unknown backend {backend!r}: expected one of auto, reference, cpp (CPUs), triton (GPUs).")


def choose(device: torch.device, neuron: Neuron, backend: Backend) -> str:
    """The name of the engine for inputs on ``device``.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: an explicit request that cannot be met.
    """
    check_backend(backend)
    name = _preferred(device) if backend == "auto" else backend
    obstacle = _obstacle(name, device, neuron)
    if obstacle is None:
        return name
    if backend != "auto":
        raise RuntimeError(f"backend={backend!r} cannot run here: {obstacle} (backend='auto' takes what can.)")
    if (
        name in ENGINES and obstacle == ENGINES[name].missing()
    ):  # what the machine lacks is worth a word; a surrogate of the user's own is not
        _warn(obstacle)
    if (obstacle := _cannot_be_traced()) is not None:
        raise RuntimeError(obstacle)
    return "reference"


def _warn(obstacle: str) -> None:
    """Once of each."""
    if obstacle in _warned:
        return
    _warned.add(obstacle)
    warnings.warn(
        f"snn_lnm runs on its reference engine: {obstacle} (It gives the same numbers, more slowly.)",
        RuntimeWarning,
        stacklevel=5,
    )


def instead(backend: Backend, error: cpp.CannotCompile, neuron: Neuron, single_step: bool) -> Run:
    """For a neuron whose kernel does not compile.

    Raises:
        RuntimeError: an explicit request that cannot be met.
    """
    if backend != "auto":
        raise RuntimeError(f"backend={backend!r} cannot run here: {error} (backend='auto' takes what can.)") from error
    _warn(str(error))
    return partial(_run_reference, neuron, single_step)


def runner(name: str, neuron: Neuron, membrane_dtype: torch.dtype, single_step: bool, membrane: bool) -> Run:
    """``neuron`` on the engine of that name; see :func:`snn_lnm.engines.calls.run`."""
    if name == "reference":
        return partial(_run_reference, neuron, single_step)
    return partial(calls.run, name, membrane_dtype, neuron, single_step, membrane)


def explain(x: Tensor, dynamics: Dynamics | None = None) -> str:
    """Which engine ``backend="auto"`` takes for the input ``x``, and why not the others.

    Args:
        x: an input, of which only the device counts.
        dynamics: the neuron's (`neuron.dynamics`): a surrogate of your own runs on the reference engine only.

    Raises:
        TypeError: not an input that a neuron takes, or not a :class:`snn_lnm.parameters.Dynamics`.
    """
    check_input(x)
    if not isinstance(cast(object, dynamics), Dynamics | None):
        raise TypeError(
            f"dynamics must be a snn_lnm.parameters.Dynamics (neuron.dynamics), got {type(dynamics).__name__}."
        )
    neuron = form.neuron(dynamics or Dynamics(), 3, False)
    lines: list[str] = []
    chosen = None
    preferred = _preferred(x.device)
    for name in (*reversed(ENGINES), "reference"):
        obstacle = _obstacle(name, x.device, neuron)
        if obstacle is None and chosen is None and name in (preferred, "reference"):
            chosen = name
        lines.append(f"  {name}: {obstacle or ('chosen' if name == chosen else 'could run')}")
    return "\n".join([f"auto -> {chosen}", *lines])
