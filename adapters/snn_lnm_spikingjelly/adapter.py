"""What `snn_lnm.swap` and `snn_lnm.fuse_time` need to know of SpikingJelly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spikingjelly.activation_based import base, functional, lava_exchange, layer, lynxi_exchange, neuron, rnn
from spikingjelly.activation_based.functional import net_config
from torch import Tensor, nn

from snn_lnm.adapting import Adapter, Call, CannotFuse, CannotSwap, Surrogate, SwapOptions
from snn_lnm_spikingjelly.node import LNMNode, leak

SHARED = ("v_threshold", "v_reset", "surrogate_function", "detach_reset", "step_mode", "store_v_seq")


def _check(node: Any) -> None:
    """Raise CannotSwap for what a new neuron would lose."""
    extra = [name for name in node._memories if name != "v"]
    if extra:
        raise CannotSwap(f"it has a memory {', '.join(extra)}, which would be lost")
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


def over_time(module: nn.Module) -> bool:
    mode = "m" if isinstance(module, base.MultiStepModule) else "s"  # of the containers that have no attribute
    return isinstance(module, base.StepModule) and getattr(module, "step_mode", mode) == "m"


def fuse(node: LNMNode, call: Call) -> Callable[..., Any]:
    """``run(x)`` for `[T, N, ...]`; see :class:`snn_lnm.plugins.Adapter`."""
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
    return LAYERS.get(type(module))


def _reasons() -> dict[type[nn.Module], str]:
    """Neurons of the host (some of some releases only), and what a membrane with a learned polynomial has not."""
    noise = "it has noise in its currents and voltages, for reinforcement learning"
    layers = "it adds the spikes of its layer to the next step's input, through a convolution of its own"
    few = "it codes a value in a few spikes of different weights by a table, and has no membrane over time"
    parallel = "it has no membrane: its spikes follow from learned weights over the steps of time"
    rates = "it runs the whole sequence at once on rates, and has gradients of its own"
    simple = "it is SpikingJelly's form for teaching: use {}, whose equations are the same"
    reasons = {
        "AdaptBaseNode": "it has an adaptation variable beside its membrane",
        "IzhikevichNode": "it has a recovery variable beside its membrane",
        "EIFNode": "it has an exponential in its charge, which no polynomial is",
        "RAFNode": "it resonates: its membrane rotates with a second state",
        "FlexSN": "its step is a function of the user's own, with states of its own",
        "SimpleIFNode": simple.format("IFNode"),
        "SimpleLIFNode": simple.format("LIFNode"),
        **dict.fromkeys(("FewSpikeNode", "OutlierAwareThresholdNode", "HGNode"), few),
        **dict.fromkeys(("PSN", "MaskedPSN", "SlidingPSN"), parallel),
        **dict.fromkeys(("DSRIFNode", "DSRLIFNode"), rates),
        **dict.fromkeys(("TernaryIFNode", "TernaryLIFNode"), "it fires spikes of both signs"),
        "STBIFNode": "it fires spikes of both signs, and counts what it has fired",
        "ILIFNode": "it fires whole numbers of spikes in one step",
        "HalfThresholdIFNode": "it starts at half its threshold",
        "ActivationAwareIFNode": "it has a threshold and an offset for each channel, measured on activations",
        "GatedLIFNode": "it has learned gates that mix two forms of leak, input and reset",
        "KLIFNode": "it has a learned scale and a ReLU before its threshold",
        "ComplementaryLIFNode": "it has a complementary memory beside its membrane, which deepens the reset",
        "CUBALIFNode": "it has a synaptic current beside its membrane",
        "LIAFNode": "it gives an activation of its membrane, not spikes",
        **dict.fromkeys(("MPBNBaseNode", "MPBNLIFNode"), "it has a batch norm of its membrane before the threshold"),
        **dict.fromkeys(("ILCBaseNode", "ILCIFNode", "ILCLIFNode", "ILCCUBALIFNode"), layers),
        **dict.fromkeys(("NoisyBaseNode", "NoisyCUBALIFNode", "NoisyILCBaseNode", "NoisyILCCUBALIFNode"), noise),
        "OTTTLIFNode": "it learns online: its membrane is detached at every step, and it traces its spikes",
        "SLTTLIFNode": "it learns online: its membrane is detached at every step",
    }
    found: dict[type[nn.Module], str] = {
        getattr(neuron, name): reason for name, reason in reasons.items() if hasattr(neuron, name)
    }
    return {
        **found,
        lava_exchange.CubaLIFNode: "it has a synaptic current, and states quantised as on Loihi",
        lynxi_exchange.BaseNode: "it is a copy of a neuron for Lynxi's chips",
        rnn.SpikingRNNCellBase: "it is a recurrent cell with weights, and gates that spike",
    }


TENSORS = ("surrogate_function", "w")

adapter = Adapter(
    framework="spikingjelly",
    native=(neuron.BaseNode, neuron.SimpleBaseNode),
    swapped=(LNMNode,),
    replace={
        neuron.IFNode: from_if,
        neuron.LIFNode: from_lif,
        neuron.ParametricLIFNode: from_plif,
        neuron.QIFNode: from_qif,
    },
    restore={LNMNode: native},
    reasons=_reasons(),
    readouts=(neuron.NonSpikingBaseNode, neuron.NoisyNonSpikingBaseNode),
    holds={
        **dict.fromkeys((neuron.IFNode, neuron.LIFNode, neuron.QIFNode), ("surrogate_function",)),
        neuron.ParametricLIFNode: TENSORS,
        LNMNode: (*TENSORS, "coefficients", "_cached_dynamics", "_set_in"),
    },
    release=release,
    fuse={LNMNode: fuse},
    layer=layer_of,
    over_time=over_time,
)
