"""snn_lnm as native neurons of SpikingJelly: `LNMNode` is a `spikingjelly.activation_based.neuron.BaseNode`."""

from snn_lnm_spikingjelly.node import LNMNode

__all__ = ["LNMNode"]
