"""What `snn_lnm.swap` and `snn_lnm.fuse_time` need to know of Norse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import norse.torch as norse
import torch
from norse.torch.functional.iaf import iaf_feed_forward_step
from norse.torch.functional.izhikevich import izhikevich_feed_forward_step
from norse.torch.functional.lif import lif_feed_forward_step, lif_step
from norse.torch.functional.lif_box import lif_box_feed_forward_step
from norse.torch.functional.reset import reset_subtract, reset_value
from norse.torch.module.iaf import IAF, IAFCell
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import Tensor, nn

from snn_lnm.adapting import Adapter, Call, CannotFuse, CannotSwap, SwapOptions, pick
from snn_lnm_norse.functional import LNMParameters, advance
from snn_lnm_norse.modules import LNM, LNMCell, LNMRecurrent, LNMRecurrentCell, RegisteredNeuron

RESETS: dict[Any, Any] = {reset_value: "hard", reset_subtract: "soft"}
COUNTERPARTS = {SNNCell: LNMCell, SNN: LNM, SNNRecurrentCell: LNMRecurrentCell, SNNRecurrent: LNMRecurrent}


# ---- the host's parameters as ours


def _coefficients(options: SwapOptions, *lowest: Any) -> Tensor:
    """θ that starts with ``lowest``, the rest zero; each a number or a tensor of any layout."""
    if options.degree < len(lowest) - 1:
        raise CannotSwap(f"a neuron of degree {len(lowest) - 1} does not fit degree={options.degree}")
    tensors = (torch.as_tensor(value).detach() for value in lowest)
    values = cast("tuple[Tensor, ...]", torch.broadcast_tensors(*tensors))
    theta = torch.stack(values, -1)
    return torch.cat([theta, theta.new_zeros(*theta.shape[:-1], options.degree + 1 - len(lowest))], -1)


def _value(number: Any) -> Any:
    """Of a number that is learned elsewhere: where membranes start is not learned."""
    return number.detach() if isinstance(number, Tensor) else number


def _words(p: Any) -> dict[str, Any]:
    return {name: getattr(p, name) for name in ("v_th", "v_reset", "method", "alpha")}


def lif(p: Any, options: SwapOptions) -> LNMParameters:
    """``v + a·((v_leak - v) + i)``: a drift with θ = (v_leak, -1)."""
    theta = _coefficients(options, p.v_leak, torch.full_like(torch.as_tensor(p.v_leak), -1))
    return LNMParameters(
        theta, p.tau_syn_inv, p.tau_mem_inv, v_start=_value(p.v_leak), domain=options.domain, **_words(p)
    )


def lif_box(p: Any, options: SwapOptions) -> LNMParameters:
    """``v + a·((x + v_leak) - v)``: a drift with θ = (0, -1), v_leak added to the input."""
    if p.reset_method not in RESETS:
        raise CannotSwap(f"its reset_method {p.reset_method!r} is neither reset_value nor reset_subtract")
    bias = p.v_leak if bool(torch.as_tensor(p.v_leak).any()) else None
    words: dict[str, Any] = {"bias": bias, "v_start": _value(p.v_leak), "reset": RESETS[p.reset_method], **_words(p)}
    return LNMParameters(_coefficients(options, 0.0, -1.0), None, p.tau_mem_inv, domain=options.domain, **words)


def iaf(p: Any, options: SwapOptions) -> LNMParameters:
    """``v + x``: a map with θ = (0, 1)."""
    words: dict[str, Any] = {"v_start": _value(p.v_reset), "charge": "map", **_words(p)}
    return LNMParameters(_coefficients(options, 0.0, 1.0), None, 1.0, domain=options.domain, **words)


def izhikevich(p: Any, options: SwapOptions, v_start: Any = 0.0) -> LNMParameters:
    """``v + a·(sq·v² + mn·v + bias + x)``: a drift with θ = (bias, mn, sq), the recovery variable off.

    The host evaluates the polynomial in another order: the same bits only where arithmetic is exact.
    """
    theta = _coefficients(options, p.bias, p.mn, p.sq).float()
    domain = None if options.domain == "auto" else options.domain  # the host's own is quadratic everywhere
    words = {"v_th": p.v_th, "v_reset": p.c, "v_start": v_start, "method": p.method, "alpha": p.alpha}
    return LNMParameters(theta, None, p.tau_inv, domain=domain, **words)


PARAMETERS: dict[Any, Callable[..., LNMParameters]] = {
    lif_feed_forward_step: lif,
    lif_step: lif,
    lif_box_feed_forward_step: lif_box,
    iaf_feed_forward_step: iaf,
}


# ---- the modules


def learnable(old: Any, options: SwapOptions) -> nn.Module:
    """The neuron of this package that starts as ``old``."""
    if old.activation is izhikevich_feed_forward_step:
        p = _inert(old, options)
    elif old.activation in PARAMETERS:
        p = PARAMETERS[old.activation](old.p, options)
    else:
        raise CannotSwap(f"its activation {getattr(old.activation, '__name__', old.activation)!r} has no counterpart")
    kind = next(ours for theirs, ours in COUNTERPARTS.items() if isinstance(old, theirs))
    new = _build(kind, p, old, learn_coefficients=options.learn_coefficients, backend=options.backend)
    if old.state_fallback != old.initial_state:
        new.state_fallback = old.state_fallback
    new.native = next(kind for kind in type(old).__mro__ if kind in REPLACED)
    return new


def _inert(old: Any, options: SwapOptions) -> LNMParameters:
    p, start = old.p, old.spiking_method.s
    if p.a or p.b or p.d or bool(torch.as_tensor(start.u).any()):
        raise CannotSwap("its recovery variable is alive (a, b, d and u are not all zero): a polynomial has none")
    return izhikevich(p, options, start.v)


def _build(kind: type[nn.Module], p: Any, old: Any, **options: Any) -> Any:
    """``kind`` with the recording, sizes and very weights of ``old``."""
    if isinstance(old, (SNNRecurrentCell, SNNRecurrent)):
        for name in ("input_size", "hidden_size"):
            options[name] = int(getattr(old, name))
        for name in ("input_weights", "recurrent_weights", "autapses"):
            options[name] = getattr(old, name)
    new: Any = kind(p=p, dt=old.dt, **options)
    if hasattr(old, "record_states"):
        new.record_states = old.record_states
    return new


def native(new: nn.Module) -> nn.Module:
    """The host's own neuron that does exactly what ``new`` does."""
    assert isinstance(new, RegisteredNeuron)
    kind: Any = getattr(new, "native", None)
    if kind not in RESTORED:
        raise CannotSwap("it was not swapped from a neuron that can be restored")
    p = RESTORED[kind](new.p)
    old = _build(kind, p, new)
    if new.state_fallback != new.initial_state:
        old.state_fallback = new.state_fallback
    return old


def _lowest(p: LNMParameters, *wanted: float | None) -> list[Tensor]:
    """θ_0, θ_1, ..., if they are the numbers ``wanted`` (None: any) and all above are zero."""
    theta = p.coefficients.detach().unbind(-1)
    for k, value in enumerate(theta):
        target = wanted[k] if k < len(wanted) else 0.0
        if target is not None and bool((value != target).any()):
            raise CannotSwap(f"θ_{k} has left {target:g}, where the native neuron has it")
    return [*theta]


def _same_start(p: LNMParameters, value: Any) -> None:
    if bool((torch.as_tensor(p.v_start) != torch.as_tensor(value)).any()):
        raise CannotSwap("its membranes do not start where the native neuron's do, at the leak potential")


def _lif_back(p: LNMParameters) -> Any:
    v_leak = _lowest(p, None, -1.0)[0].clone()
    _same_start(p, v_leak)
    return norse.LIFParameters(tau_syn_inv=p.tau_syn_inv, tau_mem_inv=p.tau_mem_inv, v_leak=v_leak, **_words(p))


def _lif_box_back(p: LNMParameters) -> Any:
    _lowest(p, 0.0, -1.0)
    v_leak = torch.zeros(()) if p.bias is None else p.bias
    _same_start(p, v_leak)
    (reset,) = (method for method, name in RESETS.items() if name == p.reset)
    return norse.LIFBoxParameters(tau_mem_inv=p.tau_mem_inv, v_leak=v_leak, reset_method=reset, **_words(p))


def _iaf_back(p: LNMParameters) -> Any:
    _lowest(p, 0.0, 1.0)
    _same_start(p, p.v_reset)
    return norse.IAFParameters(**_words(p))


LIFS = (norse.LIFCell, norse.LIF, norse.LIFRecurrentCell, norse.LIFRecurrent)
RESTORED: dict[Any, Callable[[LNMParameters], Any]] = {
    **dict.fromkeys(LIFS, _lif_back),
    norse.LIFBoxCell: _lif_box_back,
    IAFCell: _iaf_back,
    IAF: _iaf_back,
}

REPLACED = (*RESTORED, norse.IzhikevichCell)

REASONS = {
    **dict.fromkeys(
        ("IzhikevichRecurrentCell", "IzhikevichRecurrent", "Izhikevich"),
        "it has a recovery variable beside its membrane",
    ),
    **dict.fromkeys(
        ("LIFAdExCell", "LIFAdExRecurrentCell", "LIFAdEx", "LIFAdExRecurrent"),
        "it has an exponential in its charge, and an adaptation current",
    ),
    **dict.fromkeys(
        ("LIFAdExRefracCell", "LIFAdExRefracRecurrentCell", "LIFAdExRefracRecurrent"),
        "it has an exponential in its charge, an adaptation current, and a refractory time",
    ),
    **dict.fromkeys(
        ("LIFExCell", "LIFExRecurrentCell", "LIFEx", "LIFExRecurrent"),
        "it has an exponential in its charge, which no polynomial is",
    ),
    **dict.fromkeys(
        ("LIFRefracCell", "LIFRefracRecurrentCell", "LIFRefracRecurrent"),
        "it has a refractory time, a counter beside its membrane",
    ),
    **dict.fromkeys(
        ("LSNNCell", "LSNNRecurrentCell", "LSNN", "LSNNRecurrent"),
        "its threshold adapts to its spikes, a state beside its membrane",
    ),
    "LIFMCRecurrentCell": "it has several compartments, whose membranes are coupled by conductances",
    "LIFMCRefracRecurrentCell": "it has several compartments, coupled by conductances, and a refractory time",
    "CobaLIFCell": "it has conductances for inputs, which are multiplied with its membrane",
    "LIFCorrelation": "it records correlations of its spikes, and is given its weights at every call",
}
"""Neurons of the host, and what a membrane with a learned polynomial has not."""

READOUTS = (norse.LICell, norse.LI, norse.LILinearCell, norse.LIBoxCell)
WEIGHTS = ("input_weights", "recurrent_weights")
NUMBERS = ("coefficients", "tau_syn_inv", "tau_mem_inv", "v_th", "v_reset", "v_start", "bias", "native")

# ---- over time


def fuse(cell: LNMCell, call: Call) -> Callable[..., Any]:
    """``run(x, state)`` for `[T, B, ...]`; see :class:`snn_lnm.plugins.Adapter`."""
    if not call.carried:
        raise CannotFuse("it is called without a state of the step's, so it starts anew at every step")
    if call.used:
        raise CannotFuse("its state is used at every step, not only returned")

    def run(x: Tensor, state: Any, *, lengths: Any = None) -> Any:
        start = cell.start_state(x[0], state)
        words: dict[str, Any] = {"memory": cell.memory, "lengths": lengths, "path": cell.path}
        return advance(x, start, cell.p, cell.dt, cell.dynamics, cell.backend, **words)

    return run


def sequential_step(container: Any, input_tensor: Any, state: Any = None) -> Any:
    """`SequentialState.forward`, as ``torch.fx`` can follow it: the states are not written into a list."""
    following: list[Any] = []
    hidden: list[Any] = []
    for index, module in enumerate(container):
        if container.stateful_layers[index]:
            input_tensor, new = module(input_tensor, pick(state, index))
        else:
            input_tensor, new = module(input_tensor), pick(state, index)
        following.append(new)
        hidden.append(input_tensor)
    return (hidden if container.return_hidden else input_tensor), following


OVER_TIME = (
    *(SNN, SNNRecurrent, norse.Lift, norse.LConv2d, norse.ConstantCurrentLIFEncoder, norse.PoissonEncoder),
    *(norse.SignedPoissonEncoder, norse.SpikeLatencyEncoder, norse.SpikeLatencyLIFEncoder, norse.SpikesToTimesDecoder),
)
"""They take whole sequences, or make them."""


def over_time(module: nn.Module) -> bool:
    return isinstance(module, OVER_TIME)


adapter = Adapter(
    framework="norse",
    native=(SNNCell, SNN, SNNRecurrentCell, SNNRecurrent),
    swapped=(LNMCell, LNM, LNMRecurrentCell, LNMRecurrent),
    replace=dict.fromkeys(REPLACED, learnable),
    restore=dict.fromkeys((LNMCell, LNM, LNMRecurrentCell, LNMRecurrent), native),
    reasons={getattr(norse, name): reason for name, reason in REASONS.items() if hasattr(norse, name)},
    readouts=READOUTS,
    holds={
        **{kind: WEIGHTS if issubclass(kind, (SNNRecurrentCell, SNNRecurrent)) else () for kind in REPLACED},
        **dict.fromkeys((LNMCell, LNM), NUMBERS),
        **dict.fromkeys((LNMRecurrentCell, LNMRecurrent), (*NUMBERS, *WEIGHTS)),
    },
    fuse={LNMCell: fuse},
    step={norse.SequentialState: sequential_step},
    over_time=over_time,
)
