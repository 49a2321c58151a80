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

from snn_lnm import reference
from snn_lnm.engines import cpp, op, triton
from snn_lnm.engines.plain import decompositions
from snn_lnm.parameters import Dynamics, Parameters, State, check_finite, check_input
from snn_lnm.surrogate import BY_NAME, ATan
from snn_lnm.tracing import is_tracing

Backend = Literal["auto", "reference", "cpp", "triton"]
_NAMES = get_args(Backend)
_COMPILED = tuple(BY_NAME.values())  # surrogates
Result = tuple[Tensor, Tensor, State]
Engine = Callable[[Tensor, State, Parameters, Dynamics, bool, bool], Result]

__all__ = ["Backend", "Engine", "check_name", "choose", "decompositions", "explain", "get", "instead", "transformed"]

_OF_DEVICE = {"cpu": "cpp", "cuda": "triton"}  # what "auto" prefers; ROCm devices are called cuda too
_MISSING: dict[str, Callable[[], str | None]] = {
    "cpp": lambda: cpp.obstacle(),
    "triton": lambda: triton.missing(),
}  # looked up at each call
_warned: set[str] = set()


def transformed() -> bool:
    """Within `torch.func.grad`, `vmap` and the like, where tensors may have no values to look at."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage] - no public one


def _run_reference(
    x: Tensor, state: State, parameters: Parameters, dynamics: Dynamics, single_step: bool, membrane: bool
) -> Result:
    if parameters.coefficients.device.type == "cpu" and not (
        torch.compiler.is_compiling() or is_tracing() or transformed()
    ):
        check_finite("coefficients", parameters.coefficients)
    if not single_step:
        return reference.scan(x, state, parameters, dynamics)
    spikes, h, last = reference.scan(x.unsqueeze(0), state, parameters, dynamics)
    return spikes.squeeze(0), h.squeeze(0), last


def _obstacle(backend: str, device: torch.device, dynamics: Dynamics) -> str | None:
    """Why ``backend`` cannot run this, in a sentence; None if it can."""
    if backend == "reference":
        return _cannot_be_traced()
    if transformed():
        return "torch.func's transforms (grad, vmap, ...) see through the reference engine only."
    if is_tracing() and torch.onnx.is_in_onnx_export():
        return "torch.onnx.export knows PyTorch's own operators only, unless it is called with dynamo=True."
    if type(dynamics.surrogate) not in _COMPILED:
        return (
            f"the surrogate {dynamics.surrogate!r} is a callable of your own: only the reference engine "
            f"can differentiate it (compiled: {', '.join(BY_NAME)})."
        )
    if backend == "triton":
        # Not the surrogate itself: PyTorch 2.11's compiler cannot hand on an instance of a dataclass.
        return triton.obstacle(device, dynamics.smooth and isinstance(dynamics.surrogate, ATan))
    if device.type != "cpu":
        return f"the cpp engine runs on CPU tensors, the input is on {device}."
    return cpp.obstacle()


def _cannot_be_traced() -> str | None:
    """Why the reference engine cannot run, which it only ever cannot under `torch.jit.trace`."""
    if is_tracing() and torch.is_grad_enabled() and not torch.onnx.is_in_onnx_export():
        return (
            "torch.jit.trace cannot record the surrogate gradient of the reference engine: trace under "
            "torch.no_grad(), or use torch.export."
        )
    return None


def check_name(backend: str) -> None:
    """Raise ValueError if ``backend`` is not a known name."""
    if backend not in _NAMES:
        raise ValueError(f"unknown backend {backend!r}: expected one of auto, reference, cpp (CPUs), triton (GPUs).")


def choose(device: torch.device, dynamics: Dynamics, backend: Backend) -> str:
    """The name of the engine for inputs on ``device``.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: an explicit request that cannot be met.
    """
    check_name(backend)
    name = _OF_DEVICE.get(device.type, "reference") if backend == "auto" else backend
    obstacle = _obstacle(name, device, dynamics)
    if obstacle is None:
        return name
    if backend != "auto":
        raise RuntimeError(f"backend={backend!r} cannot run here: {obstacle} (backend='auto' takes what can.)")
    if obstacle == _MISSING[name]():  # what the machine lacks is worth a word; a surrogate of the user's own is not
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


def instead(backend: Backend, error: cpp.CannotCompile) -> Engine:
    """The engine for a neuron whose kernel does not compile.

    Raises:
        RuntimeError: an explicit request that cannot be met.
    """
    if backend != "auto":
        raise RuntimeError(f"backend={backend!r} cannot run here: {error} (backend='auto' takes what can.)") from error
    _warn(str(error))
    return _run_reference


def get(name: str, membrane_dtype: torch.dtype) -> Engine:
    """The engine of that name; where it keeps only the membrane for its backward pass, in ``membrane_dtype``."""
    return _run_reference if name == "reference" else partial(op.run, name, membrane_dtype)


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
    dynamics = dynamics or Dynamics()
    lines: list[str] = []
    chosen = None
    preferred = _OF_DEVICE.get(x.device.type)
    for name in ("triton", "cpp", "reference"):
        obstacle = _obstacle(name, x.device, dynamics)
        if obstacle is None and chosen is None and name in (preferred, "reference"):
            chosen = name
        lines.append(f"  {name}: {obstacle or ('chosen' if name == chosen else 'could run')}")
    return "\n".join([f"auto -> {chosen}", *lines])
