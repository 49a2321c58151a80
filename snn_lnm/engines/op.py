"""`torch.ops.snn_lnm.forward` and `.backward`: the one door to the compiled engines, named by ``engine``.

Both take the parameters flat: one value for the layer or one per group, where neuron `i` of a step
(flat index) belongs to group ``(i // inner) % groups``. `run` brings the law's arguments into that form.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from snn_lnm.engines import cpp, triton
from snn_lnm.parameters import STATE_DTYPE, Dynamics, Parameters, State
from snn_lnm.surrogate import _BY_NAME, Surrogate

__all__ = ["run"]

_STATE = "Tensor x, Tensor v, Tensor? current"
_PARAMETERS = "Tensor coefficients, Tensor threshold, Tensor v_reset, Tensor gain, Tensor? alpha"
_OPTIONS = (
    "int inner, bool single_step, str charge, str reset, str synapse, int surrogate, "
    "float[] surrogate_parameters, float[] domain, str extension, bool detach_reset, "
    "bool fire_at_threshold, bool gain_divides, bool smooth"
)
_FORWARD = f"({_STATE}, {_PARAMETERS}, {_OPTIONS}, bool membrane%s) -> (Tensor, Tensor, Tensor, Tensor)"
_BACKWARD = (
    "(Tensor? d_spikes, Tensor? d_h, Tensor? d_last_v, Tensor? d_last_current, "
    f"{_STATE}, Tensor h, {_PARAMETERS}, {_OPTIONS}, bool need_state, %s) "
    "-> (" + ", ".join(["Tensor"] * 8) + ")"
)
_INPUTS, _GAIN = 8, 6  # tensors of the forward op; the last two are gain and α
_SURROGATES = {kind: index for index, kind in enumerate(_BY_NAME.values())}

_library = torch.library.Library("snn_lnm", "DEF")
_library.define("forward" + _FORWARD % ", str engine")
_library.define("backward" + _BACKWARD % "bool[] need_parameters, str engine")
_cpp_library = torch.library.Library("snn_lnm_cpp", "DEF")
_cpp_library.define("forward" + _FORWARD % "")
_cpp_library.define("backward" + _BACKWARD % "bool need_parameters, bool need_currents")


def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    given, engine = arguments[:-1], arguments[-1]
    if engine == "triton":
        return triton.forward(*given)
    cpp.load()
    return torch.ops.snn_lnm_cpp.forward.default(*given)


def _backward(*arguments: Any) -> tuple[Tensor, ...]:
    given, needs, engine = arguments[:-2], arguments[-2], arguments[-1]
    if engine == "triton":
        return triton.backward(*given, needs)
    cpp.load()
    # The gradients of gain and alpha are sums over the currents.
    return torch.ops.snn_lnm_cpp.backward.default(*given, any(needs), needs[3] or needs[4])


for _device in ("CPU", "CUDA"):
    _library.impl("forward", _forward, _device)
    _library.impl("backward", _backward, _device)


@torch.library.register_fake("snn_lnm::forward", lib=_library)
def _forward_fake(x: Tensor, v: Tensor, current: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    alpha, single_step, reset, membrane = rest[4], rest[6], rest[8], rest[-2]
    dtype = STATE_DTYPE[x.dtype]
    nothing = x.new_empty(0, dtype=dtype)
    membrane_is_last = membrane and single_step and reset not in ("hard", "soft")
    return (
        x.new_empty(x.shape),
        x.new_empty(x.shape, dtype=dtype) if membrane else nothing,
        nothing.clone() if membrane_is_last else x.new_empty(v.shape, dtype=dtype),
        x.new_empty(0 if alpha is None else v.shape, dtype=dtype),
    )


@torch.library.register_fake("snn_lnm::backward", lib=_library)
def _backward_fake(
    d_spikes: Any, d_h: Any, d_last_v: Any, d_last_current: Any, x: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    parameters, (need_state, needs, engine) = rest[2:7], rest[-3:]
    dtype = STATE_DTYPE[x.dtype]

    def like(value: Tensor | None, needed: bool) -> Tensor:
        return x.new_empty(value.shape if needed and value is not None else 0, dtype=dtype)

    return (
        x.new_empty(x.shape),
        like(v, need_state),
        like(v if parameters[4] is not None else None, need_state),
        *(
            like(value, need if engine == "triton" else any(needs))
            for value, need in zip(parameters, needs, strict=True)
        ),
    )


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            outputs: tuple[Tensor, ...] = torch.ops.snn_lnm.forward.default(*arguments)
        ctx.set_materialize_grads(False)
        x, *others = arguments[:_INPUTS]
        # Of the input only gain and α need the values; for the rest its shape and dtype are kept, in one number.
        if not any(ctx.needs_input_grad[_GAIN:_INPUTS]):
            x = x.new_empty(()).expand(x.shape)
        ctx.save_for_backward(x, *others, outputs[1])
        *ctx.options, _, ctx.engine = arguments[_INPUTS:]
        return outputs

    @staticmethod
    def backward(ctx: Any, *d_outputs: Any) -> tuple[Any, ...]:
        x, v, current, *parameters, h = ctx.saved_tensors
        needs = ctx.needs_input_grad
        d_h, d_last_v = d_outputs[1], d_outputs[2]
        arguments = (
            d_outputs[0],
            d_h,
            None if d_last_v is None or d_last_v.shape != v.shape else d_last_v,
            None if current is None else d_outputs[3],
            *(x, v, current, h, *parameters, *ctx.options),
            needs[1] or needs[2],
            list(needs[3:_INPUTS]),
            ctx.engine,
        )
        gradients = _backward_autograd(*arguments) if torch.is_grad_enabled() else _backward_op(*arguments)
        wanted = (gradient if need else None for gradient, need in zip(gradients, needs, strict=False))
        return (*wanted, *[None] * (len(needs) - _INPUTS))


def _forward_autograd(*arguments: Any) -> tuple[Tensor, ...]:
    return _Scan.apply(*arguments)


def _backward_op(*arguments: Any) -> tuple[Tensor, ...]:
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.snn_lnm.backward.default(*arguments)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        return _backward_op(*arguments)

    @staticmethod
    def backward(ctx: Any, *d_outputs: Any) -> Any:
        raise NotImplementedError(
            "snn_lnm's compiled engines have no second derivative: use backend='reference' for it."
        )


def _backward_autograd(*arguments: Any) -> tuple[Tensor, ...]:
    return _Once.apply(*arguments)


_library.impl("forward", _forward_autograd, "Autograd")
_library.impl("backward", _backward_autograd, "Autograd")


def _layout(parameters: Parameters, step: torch.Size) -> tuple[int, list[Tensor | None]]:
    """``inner`` and the parameters as `[]`/`[G]` (coefficients `[D+1]`/`[G, D+1]`) tensors.

    The dimensions along which any parameter varies, and those between them, form the groups.
    """
    coefficients, *numbers = parameters
    shapes = [coefficients.shape[:-1], *(value.shape for value in numbers if value is not None)]
    varying = [len(step) - len(shape) + i for shape in shapes for i, size in enumerate(shape) if size > 1]
    if not varying:
        return 1, list(parameters)
    first, last = min(varying), max(varying)
    inner = math.prod(step[last + 1 :])
    flat: list[Tensor | None] = []
    for name, value in zip(Parameters._fields, parameters, strict=True):
        trailing = [coefficients.shape[-1]] if name == "coefficients" else []
        if value is None or value.numel() == math.prod(trailing):
            flat.append(value)
            continue
        # Drop the dimensions outside first..last (all of size 1), then spread over the groups.
        spread = value.expand(*step[:first], *step[first:], *trailing) if value.dim() == 0 else value
        missing = len(step) + len(trailing) - spread.dim()
        spread = spread.reshape(*[1] * missing, *spread.shape)
        inside = spread.shape[first : last + 1]
        spread = spread.reshape(*inside, *trailing).expand(*step[first : last + 1], *trailing)
        flat.append(spread.reshape(-1, *trailing))
    return inner, flat


def _order_in_memory(x: Tensor, single_step: bool) -> list[int] | None:
    """The order of a step's dimensions in which a permuted ``x``, channels-last for example, is contiguous.

    None if ``x`` is contiguous as it is, or in no order with time outermost.
    """
    if x.is_contiguous():
        return None
    first = 0 if single_step else 1
    order = sorted(range(x.dim() - first), key=lambda i: -x.stride(i + first))
    return order if x.permute(*range(first), *(i + first for i in order)).is_contiguous() else None


def run(
    engine: str,
    x: Tensor,
    state: State,
    parameters: Parameters,
    dynamics: Dynamics,
    single_step: bool,
    membrane: bool,
) -> tuple[Tensor, Tensor, State]:
    """The law through a compiled engine, ``"cpp"`` or ``"triton"``; same contract as `reference.scan`.

    Neurons do not see each other, so an input that is dense in another order of its dimensions is
    computed in that order, without a copy.
    """
    order = _order_in_memory(x, single_step)
    if order is None:
        return _run(engine, x, state, parameters, dynamics, single_step, membrane)
    first, dims = 0 if single_step else 1, len(order)

    def permute(value: Tensor | None, order: list[int], leading: int, trailing: int = 0) -> Any:
        if value is None:
            return None
        missing = leading + dims + trailing - value.dim()
        spread = value.reshape(*[1] * missing, *value.shape)
        last = range(leading + dims, leading + dims + trailing)
        return spread.permute(*range(leading), *(i + leading for i in order), *last)

    numbers = [
        value if value is None or value.numel() == 1 else permute(value, order, 0, int(k == 0))
        for k, value in enumerate(parameters)
    ]
    numbers = Parameters(*cast("list[Tensor]", numbers))
    start = State(*(permute(value, order, 0) for value in state))
    spikes, h, last = _run(engine, permute(x, order, first), start, numbers, dynamics, single_step, membrane)
    back = sorted(range(dims), key=lambda i: order[i])
    h = permute(h, back, first) if h.dim() == x.dim() else h
    last = State(*(permute(value, back, 0) for value in last))
    return permute(spikes, back, first), h, last


def _run(
    engine: str,
    x: Tensor,
    state: State,
    parameters: Parameters,
    dynamics: Dynamics,
    single_step: bool,
    membrane: bool,
) -> tuple[Tensor, Tensor, State]:
    surrogate = dynamics.surrogate
    assert isinstance(surrogate, Surrogate)
    step = x.shape if single_step else x.shape[1:]
    inner, flat = _layout(parameters, step)
    save = membrane or torch.is_grad_enabled()
    spikes, h, last_v, last_current = torch.ops.snn_lnm.forward.default(
        x,
        state.v,
        state.current,
        *flat,
        inner,
        single_step,
        dynamics.charge,
        dynamics.reset,
        dynamics.synapse,
        _SURROGATES[type(surrogate)],
        surrogate.parameters,
        list(dynamics.domain or ()),
        dynamics.extension,
        dynamics.detach_reset,
        dynamics.fire_at_threshold,
        dynamics.gain_divides,
        dynamics.smooth,
        save,
        engine,
    )
    if save and single_step and dynamics.state_is_membrane:
        last_v = h
    return spikes, h, State(last_v, None if state.current is None else last_current)
