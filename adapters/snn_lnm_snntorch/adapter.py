"""What `snn_lnm.swap` needs to know of snnTorch."""

from __future__ import annotations

from typing import Any, cast

import snntorch
from torch import nn

from snn_lnm.adapting import Adapter, CannotSwap, SwapOptions
from snn_lnm_snntorch import registry
from snn_lnm_snntorch.neurons import LNM, SynapticLNM
from snn_lnm_snntorch.sequence import fuse


def _is_learned(value: object) -> bool:
    return isinstance(value, nn.Parameter)


def _words(neuron: Any, reset: str) -> dict[str, Any]:
    """The constructor words that native and learnable neurons share, as ``neuron`` has them."""
    words = {
        "threshold": neuron.threshold.detach(),
        "spike_grad": neuron.spike_grad,
        "surrogate_disable": neuron.surrogate_disable,
        "init_hidden": neuron.init_hidden,
        "inhibition": neuron.inhibition,
        "learn_threshold": _is_learned(neuron.threshold),
        "reset_mechanism": reset,
        "state_quant": neuron.state_quant,
        "output": neuron.output,
        "reset_delay": neuron.reset_delay,
    }
    if isinstance(neuron, snntorch.Synaptic):
        return words | {"alpha": neuron.alpha.detach(), "learn_alpha": _is_learned(neuron.alpha)}
    learned = _is_learned(neuron.graded_spikes_factor)
    graded = {"graded_spikes_factor": neuron.graded_spikes_factor.detach(), "learn_graded_spikes_factor": learned}
    return words | graded


def _keep(old: Any, new: Any) -> nn.Module:
    """Carry over what a constructor cannot: the very parameters and the live state."""
    for name in ("threshold", "graded_spikes_factor", "alpha"):
        if name in old._parameters:
            new._parameters[name] = old._parameters[name]
        elif name in old._buffers:
            new._buffers[name] = old._buffers[name]
    for name in ("syn", "mem"):
        if hasattr(old, name):
            setattr(new, name, getattr(old, name))
    return new


def _constructed_reset(old: Any) -> str:
    """The reset that the native neuron really performs: its bound update, not its attribute.

    The buffer is what a native checkpoint loads; the host's dynamics follow its constructor.
    """
    updates = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}
    reset = updates.get(getattr(old.state_function, "__name__", ""))
    if reset is None:
        raise CannotSwap("its state_function was replaced, and would be lost")
    if not old.reset_delay and old.reset_dict[reset] != int(old.reset_mechanism_val):
        raise CannotSwap(f"it mixes two resets: {reset!r} in its update, {old.reset_mechanism!r} after the spike")
    return reset


def learnable(old: nn.Module, options: SwapOptions) -> nn.Module:
    """The neuron of this package that starts as ``old``."""
    assert isinstance(old, (snntorch.Leaky, snntorch.Synaptic))
    kind = SynapticLNM if isinstance(old, snntorch.Synaptic) else LNM
    new = kind(
        **_words(old, _constructed_reset(old)),
        beta=old.beta,
        learn_beta=_is_learned(old.beta),
        degree=options.degree,
        learn_coefficients=options.learn_coefficients,
        domain=options.domain,
        backend=options.backend,
    )
    return _keep(old, new)


def native(new: nn.Module) -> nn.Module:
    """The host's own neuron that does exactly what ``new`` does."""
    assert isinstance(new, (LNM, SynapticLNM))
    theta = new.coefficients.detach()
    if bool(theta[..., 0].any() or theta[..., 2:].any()):
        raise CannotSwap("its polynomial is no longer a leak: θ_0 and all above θ_1 would have to be zero")
    beta = theta[..., 1]
    if bool(((beta < 0) | (beta > 1)).any()):
        raise CannotSwap("snnTorch holds beta in [0, 1], and θ_1 has left that range")
    kind = snntorch.Synaptic if isinstance(new, SynapticLNM) else snntorch.Leaky
    words = _words(new, cast(str, new.reset_mechanism))
    return _keep(new, kind(beta=beta.clone(), learn_beta=new.learn_beta, **words))


REASONS = {
    "Alpha": "its membrane is the difference of two synaptic currents",
    "AssociativeLeaky": "it has a matrix for a state, with a decay of each column that follows from the input",
    "DeltaLeaky": "it fires on the change of its membrane, and is not reset",
    "Lapicque": "the scales of its leak and of its input follow from a resistance, a capacitance and a time step",
    "LeakyParallel": "it is a recurrent layer over time, with weights of its own, a ReLU for a membrane, and no reset",
    "LinearLeaky": "it is a linear layer and a convolution over time in one, without a reset",
    "RLeaky": "it feeds its spikes back through a recurrent layer of its own",
    "RSynaptic": "it feeds its spikes back through a recurrent layer of its own",
    "SConv2dLSTM": "it is a convolutional LSTM with gates, whose hidden state is thresholded",
    "SLSTM": "it is an LSTM with gates, whose hidden state is thresholded",
    "StateLeaky": "it is a convolution over time, without a reset",
}
"""Neurons of the host (some of some releases only), and what a membrane with a learned polynomial has not."""

TENSORS = ("threshold", "graded_spikes_factor", "reset_mechanism_val", "spike_grad", "state_quant")
OURS = (*TENSORS, "coefficients", "_v_reset", "_gain", "_cached_dynamics", "_cached_graded", "_set_in", "reset")


def over_time(module: nn.Module) -> bool:
    return isinstance(module, OVER_TIME)


OVER_TIME = tuple(
    getattr(snntorch, name) for name in ("LeakyParallel", "StateLeaky", "AssociativeLeaky") if hasattr(snntorch, name)
)
"""They take whole sequences."""

adapter = Adapter(
    framework="snntorch",
    native=snntorch.SpikingNeuron,
    swapped=(LNM, SynapticLNM),
    replace={snntorch.Leaky: learnable, snntorch.Synaptic: learnable},
    restore={LNM: native, SynapticLNM: native},
    reasons={getattr(snntorch, name): reason for name, reason in REASONS.items() if hasattr(snntorch, name)},
    holds={
        snntorch.Leaky: (*TENSORS, "beta", "mem", "reset"),
        snntorch.Synaptic: (*TENSORS, "alpha", "beta", "mem", "syn", "reset"),
        LNM: OURS,
        SynapticLNM: (*OURS, "alpha"),
    },
    release=registry.hold_weakly,
    fuse={LNM: fuse, SynapticLNM: fuse},
    over_time=over_time,
)
