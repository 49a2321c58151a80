"""The two neurons over a whole sequence: what `snn_lnm.fuse_time` runs instead of T calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from snn_lnm.adapting import Call, CannotFuse, functional
from snn_lnm_snntorch.neurons import LNM, SynapticLNM

__all__ = ["fuse"]


def fuse(neuron: LNM | SynapticLNM, call: Call) -> Callable[..., Any]:
    """``run(x, *states)`` for `[T, B, ...]`; see :class:`snn_lnm.plugins.Adapter`.

    Raises:
        CannotFuse: the neuron's step is snnTorch's own code, or its states come from the step's graph.
    """
    if not neuron.is_fused():
        raise CannotFuse("its options (see its repr: path=host) or its surrogate run in snnTorch's own step")
    if call.states and not call.carried:
        raise CannotFuse("its state is computed in the step")
    return (_synaptic if isinstance(neuron, SynapticLNM) else _leaky)(neuron)


def _leaky(neuron: Any) -> Callable[..., Any]:
    def run(x: Tensor, mem: Tensor | None = None, *, lengths: Any = None) -> Any:
        x, mem = neuron._check_call(x, mem=mem), neuron._resume("mem", mem)
        silent = neuron.init_hidden and not neuron.output
        out, _ = neuron._fused(x, [mem], single_step=False, membrane=not silent, lengths=lengths)
        neuron.mem = out.state.v
        spikes = neuron._graded(out.spikes)
        return spikes if silent else (spikes, out.membrane)

    return run


def _synaptic(neuron: Any) -> Callable[..., Any]:
    def run(x: Tensor, syn: Tensor | None = None, mem: Tensor | None = None, *, lengths: Any = None) -> Any:
        x = neuron._check_call(x, syn=syn, mem=mem)
        states = [neuron._resume("syn", syn), neuron._resume("mem", mem)]
        silent = neuron.init_hidden and not neuron.output
        alpha = neuron.alpha.clamp(0, 1)
        out, law = neuron._fused(x, states, alpha, single_step=False, membrane=not silent, lengths=lengths)
        neuron.syn, neuron.mem = out.state.current, out.state.v
        spikes = neuron._graded(out.spikes)
        return spikes if silent else (spikes, functional.currents(x, *law), out.membrane)

    return run
