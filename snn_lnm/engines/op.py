"""`torch.ops.snn_lnm.scan` and `.scan_backward`: the one door to the compiled engines, an overload for each.

They take the states before the first step, and the numbers of the neuron, each with one value for the layer or one per
group: neuron `i` of a step (flat index) belongs to group ``(i // inner) % groups``. With ``steps`` = T > 0 the input is
one step, `[B, ...]`, the same at each of T, and so is its gradient. ``law`` is the text of :mod:`snn_lnm.engines.form`.
`scan` gives spikes, the membrane in the dtype ``kept`` (empty for None) and the states after the last step, but for the
one that is the kept membrane of a single step. :mod:`snn_lnm.engines.calls` brings a call into that form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from snn_lnm.checks import STATE_DTYPE
from snn_lnm.engines import cpp, form, triton

__all__ = ["ENGINES", "call_of", "differentiable", "is_forward_mode", "scan_fake", "through_dispatcher"]

ENGINES = {engine.name: engine for engine in (cpp.ENGINE, triton.ENGINE)}
_TENSORS = "Tensor x, Tensor[] states, Tensor[] numbers"
_OPTIONS = "str law, SymInt inner, SymInt groups, SymInt steps, bool single_step"
_SCAN = f"({_TENSORS}, {_OPTIONS}, ScalarType? kept) -> Tensor[]"
_SCAN_BACKWARD = (
    f"(Tensor?[] d_outputs, {_TENSORS}, Tensor h, {_OPTIONS}, bool need_states, bool[] need_numbers) -> Tensor[]"
)
_BelowAutograd = torch._C._AutoDispatchBelowAutograd  # pyright: ignore[reportPrivateUsage] - torch has no public one

_library = torch.library.Library("snn_lnm", "DEF")
for _engine in ENGINES:
    _library.define(f"scan.{_engine}{_SCAN}")
    _library.define(f"scan_backward.{_engine}{_SCAN_BACKWARD}")
_SCANS: dict[str, Any] = {name: getattr(torch.ops.snn_lnm.scan, name) for name in ENGINES}
_BACKWARDS: dict[str, Any] = {name: getattr(torch.ops.snn_lnm.scan_backward, name) for name in ENGINES}


def outputs_shape(x: Tensor, steps: int) -> tuple[int, ...]:
    """Of spikes and membranes."""
    return (steps, *x.shape) if steps else tuple(x.shape)


def kept_state(law: str, single_step: bool, kept: torch.dtype | None, x: Tensor) -> int:
    """The place of the state that the kept membrane of a single step is, so that it is not written twice; or -1."""
    return form.parse(law).membrane_state if single_step and kept == STATE_DTYPE[x.dtype] else -1


def scan_fake(
    x: Tensor, states: list[Tensor], numbers: list[Tensor], law: str, inner: int, groups: int, steps: int,
    single_step: bool, kept: torch.dtype | None,
) -> list[Tensor]:  # fmt: skip
    dtype, shape = STATE_DTYPE[x.dtype], outputs_shape(x, steps)
    h = x.new_empty(0 if kept is None else shape, dtype=kept or dtype)
    last = [x.new_empty(state.shape, dtype=dtype) for state in states]
    if (same := kept_state(law, single_step, kept, x)) >= 0:
        last[same] = x.new_empty(0, dtype=dtype)
    return [x.new_empty(shape), h, *last]


def _backward_fake(
    d_outputs: list[Tensor | None], x: Tensor, states: list[Tensor], numbers: list[Tensor], h: Tensor, law: str,
    inner: int, groups: int, steps: int, single_step: bool, need_states: bool, need_numbers: list[bool],
) -> list[Tensor]:  # fmt: skip
    dtype = STATE_DTYPE[x.dtype]

    def like(value: Tensor, needed: bool) -> Tensor:
        return x.new_empty(value.shape if needed else 0, dtype=dtype)

    d_numbers = [like(value, need) for value, need in zip(numbers, need_numbers, strict=True)]
    return [x.new_empty(x.shape), *[like(value, need_states) for value in states], *d_numbers]


# ---- autograd ------------------------------------------------------------------------------------


class _Call(NamedTuple):
    """An operator and what it takes besides tensors.

    Attributes:
        states: how many there are.
        options: of `scan`: law, inner, groups, steps, single_step, kept.
        kept_state: the place of the state that the kept membrane is, or -1.
        uses_input: by which numbers' gradients are asked for, whether these follow from the input, too.
    """

    engine: str
    states: int
    options: tuple[Any, ...]
    kept_state: int
    uses_input: Callable[[tuple[bool, ...]], bool]


def call_of(engine: str, x: Tensor, states: int, options: tuple[Any, ...]) -> _Call:
    law, *_, single_step, kept = options
    same = kept_state(law, single_step, kept, x)
    return _Call(engine, states, options, same, form.parse(law).uses_input)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *tensors: Tensor) -> Any:
        count = call.states
        with _BelowAutograd():
            outputs = _SCANS[call.engine](x, tensors[:count], tensors[count:], *call.options)
        ctx.set_materialize_grads(False)
        h = outputs[1]
        if not call.uses_input(ctx.needs_input_grad[2 + count :]):
            fits = h.dtype == x.dtype and h.shape == x.shape  # then it keeps nothing more
            x = h if fits else x.new_empty(()).expand(x.shape)
        ctx.save_for_backward(x, *tensors, h)
        ctx.call = call
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *d_outputs: Any) -> Any:
        call: _Call = ctx.call
        if call.options[-1] is None:
            raise ValueError("the operator kept no membrane to go back through: call it with a dtype for kept.")
        x, *tensors, h = ctx.saved_tensors
        count = call.states
        needs = ctx.needs_input_grad[2:]
        given = [*d_outputs]
        if call.kept_state >= 0:
            given[2 + call.kept_state] = None  # of an empty tensor
        states, numbers, options = tensors[:count], tensors[count:], call.options[:-1]
        need_states = True in needs[:count]
        backward = partial(_backward_autograd, call.engine)
        gradients = backward(given, x, states, numbers, h, *options, need_states, [*needs[count:]])
        need_x = ctx.needs_input_grad[1]
        return (None, gradients[0] if need_x else None, *map(_if_needed, gradients[1:], needs))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError("snn_lnm's neurons have no forward-mode derivative: use backward() or autograd.grad.")


def _if_needed(gradient: Tensor, needed: bool) -> Tensor | None:
    return gradient if needed else None


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operator: Any, arguments: tuple[Any, ...], *tensors: Tensor) -> Any:
        with _BelowAutograd():
            return tuple(operator(*arguments))

    @staticmethod
    def backward(ctx: Any, *d_outputs: Any) -> Any:
        raise NotImplementedError(
            "snn_lnm's compiled engines have no second derivative: use backend='reference' for it."
        )


def is_forward_mode() -> bool:
    """Within `torch.autograd.forward_ad.dual_level`."""
    return cast(int, forward_ad._current_level) >= 0  # pyright: ignore[reportPrivateUsage] - no public one


def _differentiated() -> bool:
    """In reverse mode, or in forward mode, which works without gradients being enabled and has to be refused."""
    return torch.is_grad_enabled() or is_forward_mode()


def _scan_autograd(
    engine: str, x: Tensor, states: Sequence[Tensor], numbers: Sequence[Tensor], *options: Any
) -> Sequence[Tensor]:
    return differentiable(call_of(engine, x, len(states), options), x, states, numbers)


def through_dispatcher(
    engine: str, options: tuple[Any, ...], x: Tensor, states: Sequence[Tensor], numbers: Sequence[Tensor]
) -> Sequence[Tensor]:
    return _SCANS[engine](x, states, numbers, *options)


def differentiable(call: _Call, x: Tensor, states: Sequence[Tensor], numbers: Sequence[Tensor]) -> Sequence[Tensor]:
    tensors = (x, *states, *numbers)
    if is_forward_mode() or _wants_gradients(tensors):
        return cast("tuple[Tensor, ...]", _Scan.apply(call, *tensors))
    with _BelowAutograd():
        return _SCANS[call.engine](x, states, numbers, *call.options)


def _backward_autograd(engine: str, *arguments: Any) -> list[Tensor]:
    operator = _BACKWARDS[engine]
    if _differentiated():
        d_outputs, x, states, numbers, kept, *_ = arguments
        tensors = [*(d for d in d_outputs if d is not None), x, *states, *numbers, kept]
        return [*cast("tuple[Tensor, ...]", _Once.apply(operator, arguments, *tensors))]
    with _BelowAutograd():
        return operator(*arguments)


def _wants_gradients(tensors: tuple[Tensor, ...]) -> bool:
    """As PyTorch's own operators see it: an inference tensor has no gradient."""
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return False
    return any([value.requires_grad and not value.is_inference() for value in tensors])


def _listed(function: Callable[..., Sequence[Tensor]], *arguments: Any) -> list[Tensor]:
    """As the dispatcher wants it."""
    return [*function(*arguments)]


for _place, (_name, _fake) in enumerate((("scan", scan_fake), ("scan_backward", _backward_fake))):
    for _engine in ENGINES.values():
        for _key, _functions in _engine.kernels.items():
            _library.impl(f"{_name}.{_engine.name}", _functions[_place], _key)
        torch.library.register_fake(f"snn_lnm::{_name}.{_engine.name}", _fake, lib=_library)
for _engine in ENGINES:
    _library.impl(f"scan.{_engine}", partial(_listed, partial(_scan_autograd, _engine)), "Autograd")
    _library.impl(f"scan_backward.{_engine}", partial(_backward_autograd, _engine), "Autograd")
