"""`torch.ops.snn_lnm.forward` and `.backward`: the one door to the compiled engines, an overload for each.

They take the parameters in any shape: one value for the layer or one per group, where neuron `i` of a step
(flat index) belongs to group ``(i // inner) % groups``. With ``held`` = T > 0 the input is one step, `[B, ...]`, the
same at each of T, and so is its gradient. `run` brings the law's arguments into that form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from snn_lnm.engines import cpp, triton
from snn_lnm.engines.held import held
from snn_lnm.parameters import STATE_DTYPE, Dynamics, Parameters, State
from snn_lnm.surrogate import BY_NAME, Surrogate
from snn_lnm.tracing import is_tracing, sizes

__all__ = [
    "Prepared",
    "again",
    "call",
    "forward_fake",
    "is_forward_mode",
    "one_step",
    "prepare",
    "remember",
    "run",
    "watched",
]

View = tuple[tuple[int, ...], tuple[int, ...]] | None
"""Of a parameter: reshaped so, then expanded so; None: as it is."""
_STATE = "Tensor x, Tensor v, Tensor? current"
_PARAMETERS = "Tensor coefficients, Tensor threshold, Tensor v_reset, Tensor gain, Tensor? alpha"
_OPTIONS = (
    "int inner, bool single_step, int held, str charge, str reset, str synapse, int surrogate, "
    "float[] surrogate_parameters, float[] domain, str extension, bool detach_reset, "
    "bool fire_at_threshold, bool gain_divides, bool smooth"
)
_OF_FORWARD = f"({_STATE}, {_PARAMETERS}, {_OPTIONS}, ScalarType? membrane)"
_FORWARD = f"{_OF_FORWARD} -> (Tensor, Tensor, Tensor, Tensor)"
_AGAIN = f"(Tensor x, Tensor? v, Tensor? current, {_PARAMETERS}, int call) -> (Tensor, Tensor, Tensor, Tensor)"
_BACKWARD = (
    "(Tensor? d_spikes, Tensor? d_h, Tensor? d_last_v, Tensor? d_last_current, "
    f"{_STATE}, Tensor h, {_PARAMETERS}, {_OPTIONS}, bool need_state, bool[5] need_parameters) "
    "-> (" + ", ".join(["Tensor"] * 8) + ")"
)
_INPUTS, _GAIN = 8, 6  # tensors of the forward op; the last two are gain and α
_AS_THEY_ARE: tuple[View, ...] = (None,) * 5
_PLAIN = {Tensor, torch.nn.Parameter, type(None)}
_SURROGATES = {kind: index for index, kind in enumerate(BY_NAME.values())}
_ENGINES = ("cpp", "triton")
_BelowAutograd = torch._C._AutoDispatchBelowAutograd  # pyright: ignore[reportPrivateUsage] - torch has no public one

_library = torch.library.Library("snn_lnm", "DEF")
for _engine in _ENGINES:
    _library.define(f"forward.{_engine}{_FORWARD}")
    _library.define(f"backward.{_engine}{_BACKWARD}")
_library.define(f"remember{_OF_FORWARD} -> int")  # the C++ engine's own, as the next
_library.define(f"again{_AGAIN}")
_FORWARDS: dict[str, Any] = {name: getattr(torch.ops.snn_lnm.forward, name) for name in _ENGINES}
_BACKWARDS: dict[str, Any] = {name: getattr(torch.ops.snn_lnm.backward, name) for name in _ENGINES}
_OPS = {"forward": _FORWARDS, "backward": _BACKWARDS}


def _build_first(ops: dict[str, Any], *arguments: Any) -> tuple[Tensor, ...]:
    """The C++ overloads until their library is there: it registers itself for CPU tensors when loaded."""
    op = ops["cpp"]
    if cpp.has_kernel(op.name()):
        raise NotImplementedError(f"{op.name()} runs on dense CPU tensors only.")
    cpp.load()
    return op(*arguments)


def _load_first(ops: dict[str, Any], *arguments: Any) -> tuple[Tensor, ...]:
    """The derivatives of the C++ overloads until their library is there, which brings its own for CPU tensors.

    Elsewhere there is none: shapes on the meta device, a refusal on others.
    """
    op = ops["cpp"]
    if not cpp.has_kernel(op.name()):
        cpp.load()
        return op(*arguments)
    with _BelowAutograd():
        return op(*arguments)


def forward_fake(x: Tensor, v: Tensor, current: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    law, membrane = triton.Law(*rest[:-1]), rest[-1]
    dtype = STATE_DTYPE[x.dtype]
    nothing = x.new_empty(0, dtype=dtype)
    membrane_is_last = membrane == dtype and law.single_step and law.reset not in ("hard", "soft")
    shape = law.outputs(x)
    return (
        x.new_empty(shape),
        nothing if membrane is None else x.new_empty(shape, dtype=membrane),
        nothing.clone() if membrane_is_last else x.new_empty(v.shape, dtype=dtype),
        x.new_empty(0 if law.alpha is None else v.shape, dtype=dtype),
    )


def _backward_fake(
    d_spikes: Any, d_h: Any, d_last_v: Any, d_last_current: Any, x: Tensor, v: Tensor, current: Any, h: Any, *rest: Any
) -> tuple[Tensor, ...]:
    law, (need_state, needs) = triton.Law(*rest[:-2]), rest[-2:]
    dtype = STATE_DTYPE[x.dtype]

    def like(value: Tensor | None, needed: bool) -> Tensor:
        return x.new_empty(value.shape if needed and value is not None else 0, dtype=dtype)

    return (
        x.new_empty(x.shape),
        like(v, need_state),
        like(current, need_state),
        *(like(value, need) for value, need in zip(law[:5], needs, strict=True)),
    )


def _call(name: str, *arguments: Any) -> tuple[Any, ...]:
    """Triton's operator, below autograd; None may stand for an empty output."""
    with _BelowAutograd():
        if not watched(arguments[:_INPUTS]):
            return getattr(triton, name)(*arguments)  # it is Python: the dispatcher would only cost time
        return _OPS[name]["triton"](*arguments)


def watched(values: tuple[Any, ...]) -> bool:
    """By a mode (fake tensors, tracing, a user's), or by a tensor's class: who then must see the operator."""
    modes = torch._C._len_torch_dispatch_stack()  # pyright: ignore[reportPrivateUsage] - torch has no public one
    return modes > 0 or not _PLAIN.issuperset(map(type, values))


class _Scan(torch.autograd.Function):
    """Triton's; that of the C++ engine is in `cpp/autograd.cpp`."""

    @staticmethod
    def forward(ctx: Any, options: tuple[Any, ...], *inputs: Any) -> tuple[Any, ...]:
        outputs = _call("forward", *inputs, *options)
        ctx.set_materialize_grads(False)
        x, *others = inputs
        h = outputs[1]
        if not any(ctx.needs_input_grad[1 + _GAIN :]):
            # Only gain and α need the input; for the rest anything of its shape and dtype does.
            fits = h is not None and h.dtype == x.dtype and h.shape == x.shape
            x = h if fits else x.new_empty(()).expand(x.shape)
        ctx.save_for_backward(x, *others, h)
        ctx.options = options[:-1]
        return outputs

    @staticmethod
    def backward(ctx: Any, *d_outputs: Any) -> tuple[Any, ...]:
        x, v, current, *parameters, h = ctx.saved_tensors
        if h is None:
            raise ValueError("the operator kept no membrane to go back through: call it with a dtype for membrane.")
        _, *needs = ctx.needs_input_grad
        d_spikes, d_h, d_last_v, d_last_current = d_outputs
        arguments = (
            d_spikes,
            d_h,
            None if d_last_v is None or d_last_v.shape != v.shape else d_last_v,
            None if current is None else d_last_current,
            *(x, v, current, h, *parameters, *ctx.options),
            needs[1] or needs[2],
            needs[3:],
        )
        gradients = _backward_autograd(*arguments)
        wanted = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
        return (None, *wanted)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError("snn_lnm's neurons have no forward-mode derivative: use backward() or autograd.grad.")


def is_forward_mode() -> bool:
    """Within `torch.autograd.forward_ad.dual_level`."""
    return cast(int, forward_ad._current_level) >= 0  # pyright: ignore[reportPrivateUsage] - no public one


def _differentiated() -> bool:
    """In reverse mode, or in forward mode, which works without gradients being enabled and has to be refused."""
    return torch.is_grad_enabled() or is_forward_mode()


def _forward_autograd(*arguments: Any) -> tuple[Any, ...]:
    if _differentiated():
        return _Scan.apply(arguments[_INPUTS:], *arguments[:_INPUTS])
    return _call("forward", *arguments)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Any, ...]:
        return _call("backward", *arguments)

    @staticmethod
    def backward(ctx: Any, *d_outputs: Any) -> Any:
        raise NotImplementedError(
            "snn_lnm's compiled engines have no second derivative: use backend='reference' for it."
        )


def _backward_autograd(*arguments: Any) -> tuple[Any, ...]:
    if _differentiated():
        return _Once.apply(*arguments)
    return _call("backward", *arguments)


def _with_empty(function: Callable[..., tuple[Any, ...]], start: int, *arguments: Any) -> tuple[Tensor, ...]:
    """As the dispatcher wants it: an empty tensor for None, of the dtype of ``arguments[start]``."""
    return tuple(arguments[start].new_empty(0) if value is None else value for value in function(*arguments))


for _name, _ops, _fake, _v in (("forward", _FORWARDS, forward_fake, 1), ("backward", _BACKWARDS, _backward_fake, 5)):
    _library.impl(f"{_name}.cpp", partial(_build_first, _ops), "CompositeExplicitAutograd")
    for _device in ("CPU", "CUDA"):  # on the CPU: interpreted
        _library.impl(f"{_name}.triton", partial(_with_empty, getattr(triton, _name), _v), _device)
    for _engine in _ENGINES:
        torch.library.register_fake(f"snn_lnm::{_name}.{_engine}", _fake, lib=_library)
    _library.impl(f"{_name}.cpp", partial(_load_first, _ops), "Autograd")
_library.impl("forward.triton", partial(_with_empty, _forward_autograd, 1), "Autograd")
_library.impl("backward.triton", partial(_with_empty, _backward_autograd, 5), "Autograd")


class Prepared(NamedTuple):
    """What a call of an operator needs besides its tensors: the same for all tensors of the same shapes and dtypes.

    Attributes:
        operator: the function to call.
        views: of the parameters, so that each has one value or G.
        options: what follows the tensors.
        last_is_membrane: the last state is the membrane of the only step.
    """

    operator: Callable[..., tuple[Any, ...]]
    views: tuple[View, ...]
    options: tuple[Any, ...]
    last_is_membrane: bool


again: Callable[..., tuple[Tensor | None, Tensor, Tensor, Tensor | None]] = torch.ops.snn_lnm.again.default
"""Of the C++ engine: the forward pass of tensors like those of the call of that number; None for spikes if unlike."""


def remember(prepared: Prepared, x: Tensor, start: State, parameters: Parameters, membrane: bool) -> int | None:
    """The number of such a call, for :data:`again`; None where parameters need views."""
    if prepared.views is not _AS_THEY_ARE:
        return None
    wanted = STATE_DTYPE[x.dtype] if membrane else None
    return torch.ops.snn_lnm.remember(x, *start, *parameters, *prepared.options[:-1], wanted)


def _viewed(value: Tensor | None, view: View) -> Tensor | None:
    return value if value is None or view is None else value.reshape(view[0]).expand(view[1])


def _layout(parameters: Parameters, step: torch.Size) -> tuple[int, tuple[View, ...]]:
    """``inner`` and the views of the parameters.

    The dimensions along which any parameter varies, and those between them, form the groups.
    """
    coefficients, *numbers = parameters
    shapes = [sizes(coefficients)[:-1], *[sizes(value) for value in numbers if value is not None]]
    varying = [len(step) - len(shape) + i for shape in shapes for i, size in enumerate(shape) if size > 1]
    if not varying:
        return 1, _AS_THEY_ARE
    first, last = min(varying), max(varying)
    groups, width = math.prod(step[first : last + 1]), sizes(coefficients)[-1]
    views: list[View] = []
    for value, trailing in zip(parameters, ((width,), (), (), (), ()), strict=True):
        size = math.prod(trailing)
        if value is None or sizes(value).numel() in (size, groups * size):
            views.append(None)
            continue
        missing = len(step) + len(trailing) - value.dim()
        inside = (*[1] * missing, *sizes(value))[first : last + 1]  # the other dimensions are 1
        views.append(((*inside, *trailing), (*step[first : last + 1], *trailing)))
    return math.prod(step[last + 1 :]), tuple(views) if any(views) else _AS_THEY_ARE


def _order_in_memory(x: Tensor, first: int) -> list[int] | None:
    """The order of the dimensions from ``first`` on in which a permuted ``x``, say channels-last, is contiguous.

    None if ``x`` is contiguous as it is, or in no such order.
    """
    if x.is_contiguous():
        return None
    order = sorted(range(x.dim() - first), key=lambda i: -x.stride(i + first))
    return order if x.permute(*range(first), *(i + first for i in order)).is_contiguous() else None


def _permute(value: Tensor | None, order: list[int], leading: int, trailing: int = 0) -> Any:
    """``value`` with the dimensions between the first ``leading`` and the last ``trailing`` in ``order``."""
    if value is None:
        return None
    dims = leading + len(order) + trailing
    spread = value.reshape(*[1] * (dims - value.dim()), *value.shape)
    return spread.permute(*range(leading), *(i + leading for i in order), *range(dims - trailing, dims))


def one_step(x: Tensor, single_step: bool) -> tuple[Tensor, int]:
    """The step of which the sequence ``x`` consists, and how often it does; ``x`` and 0 if it does not."""
    step = None if single_step else held(x)
    return (x, 0) if step is None else (step, x.shape[0])


def prepare(
    engine: str,
    membrane_dtype: torch.dtype,
    x: Tensor,
    steps: int,
    parameters: Parameters,
    dynamics: Dynamics,
    single_step: bool,
    membrane: bool,
) -> Prepared:
    """For an ``x`` that is contiguous, with ``steps`` > 0 one step, the same at each of so many."""
    surrogate = dynamics.surrogate
    assert isinstance(surrogate, Surrogate)
    inner, views = _layout(parameters, sizes(x)[0 if single_step or steps else 1 :])
    arithmetic = STATE_DTYPE[x.dtype]
    # What torch.jit traces may learn later, and is traced once more without gradients, to be compared.
    learns = torch.is_grad_enabled() or is_tracing()
    kept = arithmetic if membrane else membrane_dtype if learns else None
    options = (
        inner,
        single_step,
        steps,
        dynamics.charge,
        dynamics.reset,
        dynamics.synapse,
        _SURROGATES[type(surrogate)],
        surrogate.parameters,
        dynamics.domain or (),
        dynamics.extension,
        dynamics.detach_reset,
        dynamics.fire_at_threshold,
        dynamics.gain_divides,
        dynamics.smooth,
        kept,
    )
    # Compilers and tracers need to see the operator; else Triton's is Python, and the dispatcher would only cost time.
    is_python = engine == "triton" and not (torch.compiler.is_compiling() or is_tracing())
    last_is_membrane = kept == arithmetic and single_step and dynamics.state_is_membrane
    return Prepared(_forward_autograd if is_python else _FORWARDS[engine], views, options, last_is_membrane)


def call(prepared: Prepared, x: Tensor, start: State, parameters: Parameters) -> tuple[Tensor, Tensor, State]:
    """Spikes, membrane and last state."""
    v, current = start
    operator, views, options, last_is_membrane = prepared
    numbers = parameters if views is _AS_THEY_ARE else map(_viewed, parameters, views)
    spikes, h, last_v, last_current = operator(x, v, current, *numbers, *options)
    return spikes, h, State(h if last_is_membrane else last_v, None if current is None else last_current)


def run(
    engine: str,
    membrane_dtype: torch.dtype,
    x: Tensor,
    state: State,
    parameters: Parameters,
    dynamics: Dynamics,
    single_step: bool,
    membrane: bool,
) -> tuple[Tensor, Tensor, State]:
    """The law through a compiled engine, ``"cpp"`` or ``"triton"``; same contract as `reference.scan`.

    Unless the ``membrane`` is wanted as an output, it is kept in ``membrane_dtype``, and only for a backward pass.
    Neurons do not see each other, so an input that is dense in another order of its dimensions is
    computed in that order, without a copy.
    """
    time, (x, steps) = 0 if single_step else 1, one_step(x, single_step)
    first = 0 if steps else time
    order = _order_in_memory(x, first)
    if order is not None:
        x, state = _permute(x, order, first), State(*(_permute(value, order, 0) for value in state))
        numbers = [
            value if value is None or value.numel() == 1 else _permute(value, order, 0, int(k == 0))
            for k, value in enumerate(parameters)
        ]
        parameters = Parameters(*cast("list[Tensor]", numbers))
    prepared = prepare(engine, membrane_dtype, x, steps, parameters, dynamics, single_step, membrane)
    spikes, h, last = call(prepared, x, state, parameters)
    if order is None:
        return spikes, h, last
    back = sorted(range(len(order)), key=lambda i: order[i])
    h = _permute(h, back, time) if membrane else h
    return _permute(spikes, back, time), h, State(*(_permute(value, back, 0) for value in last))
