"""What `snn_lnm.swap` needs to know of snnTorch."""

from __future__ import annotations

from typing import Any

import snntorch
from torch import nn

from snn_lnm.plugins import Adapter, CannotSwap, SwapOptions
from snn_lnm_snntorch import registry
from snn_lnm_snntorch.neurons import LNM, SynapticLNM


def _keep(old: Any, new: LNM | SynapticLNM) -> nn.Module:
    """Carry over what a constructor cannot: the very parameters and the live state."""
    for name in ("threshold", "graded_spikes_factor", *(("alpha",) if isinstance(new, SynapticLNM) else ())):
        kind = new._parameters if name in old._parameters else new._buffers
        kind[name] = getattr(old, name)
    for name in new.STATES:
        setattr(new, name, getattr(old, name))
    return new


def _shared(old: Any, options: SwapOptions) -> dict[str, Any]:
    return {
        "threshold": old.threshold.detach(),
        "spike_grad": old.spike_grad,
        "surrogate_disable": old.surrogate_disable,
        "init_hidden": old.init_hidden,
        "inhibition": old.inhibition,
        "learn_threshold": isinstance(old.threshold, nn.Parameter),
        # The buffer is what a native checkpoint loads; the host's dynamics follow its constructor.
        "reset_mechanism": _constructed_reset(old),
        "state_quant": old.state_quant,
        "output": old.output,
        "reset_delay": old.reset_delay,
        "degree": options.degree,
        "learn_coefficients": options.learn_coefficients,
        "domain": options.domain,
        "backend": options.backend,
    }


def _constructed_reset(old: Any) -> str:
    """The reset that the native neuron really performs: its bound update, not its attribute."""
    updates = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}
    reset = updates.get(getattr(old.state_function, "__name__", ""))
    if reset is None:
        raise CannotSwap("its state_function was replaced, and would be lost")
    if not old.reset_delay and old.reset_dict[reset] != int(old.reset_mechanism_val):
        raise CannotSwap(f"it mixes two resets: {reset!r} in its update, {old.reset_mechanism!r} after the spike")
    return reset


def leaky(old: nn.Module, options: SwapOptions) -> nn.Module:
    assert isinstance(old, snntorch.Leaky)
    graded = {
        "graded_spikes_factor": old.graded_spikes_factor.detach(),
        "learn_graded_spikes_factor": isinstance(old.graded_spikes_factor, nn.Parameter),
    }
    return _keep(old, LNM(old.beta, **_shared(old, options), **graded))


def synaptic(old: nn.Module, options: SwapOptions) -> nn.Module:
    assert isinstance(old, snntorch.Synaptic)
    learn = isinstance(old.alpha, nn.Parameter)
    new = SynapticLNM(old.alpha.detach(), old.beta, learn_alpha=learn, **_shared(old, options))
    return _keep(old, new)


adapter = Adapter(
    framework="snntorch",
    native=snntorch.SpikingNeuron,
    swapped=(LNM, SynapticLNM),
    replace={snntorch.Leaky: leaky, snntorch.Synaptic: synaptic},
    release=registry.hold_weakly,
)
