"""snn_lnm: the Learnable Neuron Model as a native neuron of spiking-network frameworks."""

from snn_lnm import analysis, functional, surrogate
from snn_lnm.engines import explain as explain_backend
from snn_lnm.equations import neuron_from_equations
from snn_lnm.functional import Output
from snn_lnm.fuse import FusedTime, FuseReport, fuse_time
from snn_lnm.held import hold
from snn_lnm.memory import Memory
from snn_lnm.neuron import LNM
from snn_lnm.parameters import State
from snn_lnm.plugins import available_adapters
from snn_lnm.qif import QIF
from snn_lnm.swapping import SwapReport, swap, swap_back

__all__ = [
    "LNM",
    "QIF",
    "FuseReport",
    "FusedTime",
    "Memory",
    "Output",
    "State",
    "SwapReport",
    "analysis",
    "available_adapters",
    "explain_backend",
    "functional",
    "fuse_time",
    "hold",
    "neuron_from_equations",
    "surrogate",
    "swap",
    "swap_back",
]
