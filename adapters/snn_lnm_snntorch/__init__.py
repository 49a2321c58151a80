"""snn_lnm as native neurons of snnTorch: `LNM` is a `snntorch.Leaky`, `SynapticLNM` a `snntorch.Synaptic`."""

from snn_lnm_snntorch.neurons import LNM, SynapticLNM

__all__ = ["LNM", "SynapticLNM"]
