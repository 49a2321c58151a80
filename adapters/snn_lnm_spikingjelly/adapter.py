"""What `snn_lnm.swap` and `snn_lnm.fuse_time` need to know of SpikingJelly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.functional import net_config
from torch import Tensor, nn

from snn_lnm.plugins import Adapter, Call, CannotFuse, CannotSwap, SwapOptions
from snn_lnm.surrogate import Surrogate
from snn_lnm_spikingjelly.node import LNMNode, leak

SHARED = ("v_threshold", "v_reset", "surrogate_function", "detach_reset", "step_mode", "store_v_seq")


def _check(node: Any) -> None:
    """Raise CannotSwap for what a new neuron would lose."""
    module: nn.Module = node
    replaced = [name for name in vars(module) if callable(getattr(type(module), name, None))]
    if replaced:
        raise CannotSwap(f"its {replaced[0]} was replaced, and would be lost")
    held = [*node._memories, *node._parameters, *node._buffers, *node._modules]
    extra = [name for name in held if name not in ("v", "w", "coefficients", "surrogate_function")]
    if extra:
        raise CannotSwap(f"it holds {', '.join(extra)}, which would be lost")
    if node._neuron_precision is not None:
        raise CannotSwap(f"its precision {node._neuron_precision} was chosen for the host's kernels")
    for name in ("v_threshold", "v_reset"):
        value = getattr(node, name)
        if not isinstance(value, float) and not (name == "v_reset" and value is None):
            raise CannotSwap(f"its {name} is a {type(value).__name__}, where the host's constructor takes a float")
    if isinstance(node.surrogate_function, Surrogate):
        raise CannotSwap("its surrogate_function is of snn_lnm, and spikes at the threshold in only one of the two")


def _keep(old: Any, new: Any) -> Any:
    """Carry over what a constructor cannot: the live memories, their reset values, the learned ``w``."""
    new._memories, new._memories_rv = dict(old._memories), dict(old._memories_rv)
    new.v_seq, new.lava_s_cale = old.v_seq, old.lava_s_cale
    if old._parameters.get("w") is not None:
        new.w = old.w
    return new


def _build(old: Any, options: SwapOptions, **words: Any) -> Any:
    _check(old)
    words = {"degree": options.degree, "domain": options.domain, **words}
    words |= {name: getattr(old, name) for name in SHARED}
    new = _keep(old, LNMNode(learn_coefficients=options.learn_coefficients, backend=options.backend, **words))
    if new.tau is not None:
        new.tau = old.tau  # set later, it may be what no constructor takes
    homes = [t.device for t in (new.w, new.v) if isinstance(t, Tensor)]  # a node without tensors does not know its own
    return new.to(homes[0]) if homes else new


def from_if(old: Any, options: SwapOptions) -> nn.Module:
    """``v + x``: a map with θ = (0, 1)."""
    return _build(old, options, tau=None)


def from_lif(old: Any, options: SwapOptions) -> nn.Module:
    """``v + (x - (v - v_reset))/τ``: a drift, or residual, with θ = (v_reset, -1)."""
    return _build(old, options, decay_input=old.decay_input)


def from_plif(old: Any, options: SwapOptions) -> nn.Module:
    """As a LIF, with the gain sigmoid(w) for 1/τ."""
    return _build(old, options, learn_tau=True, decay_input=old.decay_input)


def from_qif(old: Any, options: SwapOptions) -> nn.Module:
    """``v + (x + a0·(v - v_rest)·(v - v_c))/τ``: a drift with θ = (a0·v_rest·v_c, -a0·(v_rest + v_c), a0).

    The host multiplies out in another order: the same bits only where arithmetic is exact.
    """
    if options.degree < 2:
        raise CannotSwap(f"a neuron of degree 2 does not fit degree={options.degree}")
    sum_, product = old.v_rest + old.v_c, old.v_rest * old.v_c
    theta = [old.a0 * product, -old.a0 * sum_, old.a0, *[0.0] * (options.degree - 2)]
    domain = None if options.domain == "auto" else options.domain  # the host's own is quadratic everywhere
    new = _build(old, options, coefficients=theta, degree=None, domain=domain)
    new.native_start = theta
    new.native_words = {name: getattr(old, name) for name in ("v_c", "a0", "v_rest")}
    return new


def native(new: Any) -> nn.Module:
    """The host's own neuron that does exactly what ``new`` does."""
    _check(new)
    if new.native_start is None:
        raise CannotSwap("it did not start as a native neuron")
    if not new.is_native:
        raise CannotSwap("its polynomial is no longer that of the native neuron it started as")
    words: dict[str, Any] = {name: getattr(new, name) for name in SHARED}
    if new.native_words:
        if new.domain is not None:
            raise CannotSwap(f"its polynomial ends at the domain {new.domain}, a QIFNode's nowhere")
        kind, words = neuron.QIFNode, words | new.native_words | {"tau": new.tau}
    elif new.native_start != leak(new.degree, new.charge, new.v_reset):
        raise CannotSwap("its v_reset was changed, and θ_0 is no longer equal to it")
    elif new.charge == "map":
        kind = neuron.IFNode
    elif new.w is not None:
        kind, words = neuron.ParametricLIFNode, words | {"decay_input": new.decay_input}
    else:
        kind, words = neuron.LIFNode, words | {"decay_input": new.decay_input, "tau": new.tau}
    old: Any = kind(surrogate_function=words.pop("surrogate_function"))
    for name, value in words.items():
        setattr(old, name, value)
    return _keep(new, old)


def release(old: nn.Module) -> None:
    """Let `reset_net` look again: it remembers the modules of a net, and ``old`` may live on elsewhere."""
    for net, modules in [*getattr(net_config, "_RESET_MODULE_CACHE", {}).items()]:
        if any(module() is old for module in modules):
            functional.invalidate_reset_cache(net)


def _single_step(module: Any) -> None:
    if getattr(module, "step_mode", "s") != "s":
        raise CannotFuse("its step_mode is 'm': it takes the batch for time (set 's' on the whole net first)")


def fuse(node: LNMNode, call: Call) -> Callable[..., Any]:
    """``run(x)`` for `[T, N, ...]`; see :class:`snn_lnm.plugins.Adapter`."""
    _single_step(node)
    if call.states:
        raise CannotFuse("it is called with more than its input")
    if node.store_v_seq:
        raise CannotFuse("store_v_seq asks for its membrane at every step")
    return node.steps_forward


LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(layer, name): getattr(nn, name)
    for name in (
        *(
            f"{kind}{dims}d"
            for kind in ("Conv", "ConvTranspose", "MaxPool", "AvgPool", "BatchNorm")
            for dims in (1, 2, 3)
        ),
        *("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "GroupNorm", "Linear", "Flatten"),
    )
}
"""The host's wrappers, which in a single step are the layers of ``torch.nn``."""


def layer_of(module: nn.Module) -> type[nn.Module] | None:
    kind = LAYERS.get(type(module))
    if kind is not None:
        _single_step(module)
    return kind


adapter = Adapter(
    framework="spikingjelly",
    native=neuron.BaseNode,
    swapped=(LNMNode,),
    replace={
        neuron.IFNode: from_if,
        neuron.LIFNode: from_lif,
        neuron.ParametricLIFNode: from_plif,
        neuron.QIFNode: from_qif,
    },
    restore={LNMNode: native},
    release=release,
    fuse={LNMNode: fuse},
    layer=layer_of,
)
