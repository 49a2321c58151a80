"""`torch.ops.snn_lnm.scan` and `.scan_backward`: the one door to the compiled engines, an overload for each.

They take the states before the first step, and the numbers of the neuron, each with one value for the layer or one per
group: neuron `i` of a step (flat index) belongs to group ``(i // inner) % groups``. With ``steps`` = T > 0 the input is
one step, `[B, ...]`, the same at each of T, and so is its gradient. ``law`` is the text of :mod:`snn_lnm.engines.form`.
`scan` gives spikes, the membrane in the dtype ``kept`` (empty for None) and the states after the last step, but for the
one that is the kept membrane of a single step. `run` brings a call into that form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from snn_lnm.engines import cpp, form, triton
from snn_lnm.engines.held import held
from snn_lnm.parameters import STATE_DTYPE, Dynamics, Parameters, State
from snn_lnm.tracing import is_tracing, sizes

__all__ = ["Prepared", "call", "is_forward_mode", "one_step", "prepare", "run", "scan_fake", "watched"]

View = tuple[tuple[int, ...], tuple[int, ...]] | None
"""Of a number's tensor: reshaped so, then expanded so; None: as it is."""
_TENSORS = "Tensor x, Tensor[] states, Tensor[] numbers"
_OPTIONS = "str law, SymInt inner, SymInt groups, SymInt steps, bool single_step"
_SCAN = f"({_TENSORS}, {_OPTIONS}, ScalarType? kept) -> Tensor[]"
_SCAN_BACKWARD = (
    f"(Tensor?[] d_outputs, {_TENSORS}, Tensor h, {_OPTIONS}, bool need_states, bool[] need_numbers) -> Tensor[]"
)
_PLAIN = {Tensor, torch.nn.Parameter, type(None)}
_ENGINES: dict[str, Any] = {"cpp": cpp, "triton": triton}
_BelowAutograd = torch._C._AutoDispatchBelowAutograd  # pyright: ignore[reportPrivateUsage] - torch has no public one

_library = torch.library.Library("snn_lnm", "DEF")
for _engine in _ENGINES:
    _library.define(f"scan.{_engine}{_SCAN}")
    _library.define(f"scan_backward.{_engine}{_SCAN_BACKWARD}")
_SCANS: dict[str, Any] = {name: getattr(torch.ops.snn_lnm.scan, name) for name in _ENGINES}
_BACKWARDS: dict[str, Any] = {name: getattr(torch.ops.snn_lnm.scan_backward, name) for name in _ENGINES}


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


def _call_of(engine: str, x: Tensor, states: int, options: tuple[Any, ...]) -> _Call:
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
    return _differentiable(_call_of(engine, x, len(states), options), x, states, numbers)


def _through_dispatcher(
    engine: str, options: tuple[Any, ...], x: Tensor, states: Sequence[Tensor], numbers: Sequence[Tensor]
) -> Sequence[Tensor]:
    return _SCANS[engine](x, states, numbers, *options)


def _differentiable(call: _Call, x: Tensor, states: Sequence[Tensor], numbers: Sequence[Tensor]) -> Sequence[Tensor]:
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


def _build_first(ops: dict[str, Any], *arguments: Any) -> list[Tensor]:
    """The C++ overloads until their library is there: it registers itself for CPU tensors when loaded."""
    op = ops["cpp"]
    if cpp.has_kernel(op.name()):
        raise NotImplementedError(f"{op.name()} runs on dense CPU tensors only.")
    cpp.load()
    return op(*arguments)


for _name, _ops, _fake in (("scan", _SCANS, scan_fake), ("scan_backward", _BACKWARDS, _backward_fake)):
    _library.impl(f"{_name}.cpp", partial(_build_first, _ops), "CompositeExplicitAutograd")
    for _device in ("CPU", "CUDA"):  # on the CPU: interpreted
        _library.impl(f"{_name}.triton", getattr(triton, _name), _device)
    for _engine in _ENGINES:
        torch.library.register_fake(f"snn_lnm::{_name}.{_engine}", _fake, lib=_library)
for _engine in _ENGINES:
    _library.impl(f"scan.{_engine}", partial(_listed, partial(_scan_autograd, _engine)), "Autograd")
    _library.impl(f"scan_backward.{_engine}", partial(_backward_autograd, _engine), "Autograd")


# ---- calls ---------------------------------------------------------------------------------------


def watched(values: tuple[Any, ...]) -> bool:
    """By a mode (fake tensors, tracing, a user's), or by a tensor's class: who then must see the operator."""
    modes = torch._C._len_torch_dispatch_stack()  # pyright: ignore[reportPrivateUsage] - torch has no public one
    return modes > 0 or not _PLAIN.issuperset(map(type, values))


class Prepared(NamedTuple):
    """What a call of an operator needs besides its tensors: the same for all tensors of the same shapes and dtypes.

    Attributes:
        operator: the function to call, of input, states and numbers.
        views: of the numbers, so that each has one value or G; None: as they are.
        kept_state: the place of the state that is the kept membrane, or -1.
    """

    operator: Callable[[Tensor, list[Tensor], list[Tensor]], Sequence[Tensor]]
    views: tuple[View, ...] | None
    kept_state: int


def _viewed(value: Tensor, view: View) -> Tensor:
    return value if view is None else value.reshape(view[0]).expand(view[1])


def _layout(parameters: Parameters, step: torch.Size) -> tuple[int, int, tuple[View, ...] | None]:
    """``inner``, ``groups`` and the views of the numbers.

    The dimensions along which any number varies, and those between them, form the groups.
    """
    coefficients, *numbers = parameters
    shapes = [sizes(coefficients)[:-1], *[sizes(value) for value in numbers if value is not None]]
    varying = [len(step) - len(shape) + i for shape in shapes for i, size in enumerate(shape) if size > 1]
    if not varying:
        return 1, 1, None
    first, last = min(varying), max(varying)
    groups, width = math.prod(step[first : last + 1]), sizes(coefficients)[-1]
    views: list[View] = []
    for value, trailing in zip(parameters, ((width,), (), (), (), ()), strict=True):
        size = math.prod(trailing)
        if value is None:
            continue
        if sizes(value).numel() in (size, groups * size):
            views.append(None)
            continue
        missing = len(step) + len(trailing) - value.dim()
        inside = (*[1] * missing, *sizes(value))[first : last + 1]  # the other dimensions are 1
        views.append(((*inside, *trailing), (*step[first : last + 1], *trailing)))
    return math.prod(step[last + 1 :]), groups, tuple(views) if any(views) else None


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
    inner, groups, views = _layout(parameters, sizes(x)[0 if single_step or steps else 1 :])
    arithmetic = STATE_DTYPE[x.dtype]
    # What torch.jit traces may learn later, and is traced once more without gradients, to be compared.
    learns = torch.is_grad_enabled() or is_tracing()
    kept = arithmetic if membrane else membrane_dtype if learns else None
    degree = sizes(parameters.coefficients)[-1] - 1
    law = form.text(dynamics, degree, parameters.alpha is not None)
    options = (law, inner, groups, steps, single_step, kept)
    same = 0 if single_step and kept == arithmetic and dynamics.state_is_membrane else -1
    # Compilers and tracers need to see the operator; else the dispatcher's way to Python would only cost time.
    if torch.compiler.is_compiling() or is_tracing():
        return Prepared(partial(_through_dispatcher, engine, options), views, same)
    call = _call_of(engine, x, 1 if parameters.alpha is None else 2, options)
    return Prepared(partial(_differentiable, call), views, same)


def call(prepared: Prepared, x: Tensor, start: State, parameters: Parameters) -> tuple[Tensor, Tensor, State]:
    """Spikes, membrane and last state."""
    operator, views, same = prepared
    states = [value for value in start if value is not None]
    numbers = [value for value in parameters if value is not None]
    if views is not None:
        numbers = [*map(_viewed, numbers, views)]
    spikes, h, *last = operator(x, states, numbers)
    if same >= 0:
        last[same] = h
    return spikes, h, State(*last)


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
