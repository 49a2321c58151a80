"""What adapters are written with: they import from here, and from nothing else of this package.

`docs/write-an-adapter.md` makes one from nothing.
"""

from snn_lnm import functional, reference, surrogate
from snn_lnm.checks import (
    STATE_DTYPE,
    check_coefficients,
    check_degree,
    check_finite,
    check_input,
    check_still_finite,
    from_the_right,
)
from snn_lnm.engines import Backend, check_backend
from snn_lnm.fuse.graph import pick
from snn_lnm.lengths import Lengths
from snn_lnm.memory import FULL, Memory
from snn_lnm.neuron import Domain, HasDynamics, LearnableNeuron, recordable
from snn_lnm.parameters import Charge, Dynamics, Extension, Parameters, Reset, State, default_domain
from snn_lnm.plugins import Adapter, Call, CannotFuse, CannotSwap, SwapOptions
from snn_lnm.recomputation import check_kept, recomputation
from snn_lnm.surrogate import Spike, Surrogate
from snn_lnm.tracing import is_tracing, sizes

__all__ = [
    "FULL",
    "STATE_DTYPE",
    "Adapter",
    "Backend",
    "Call",
    "CannotFuse",
    "CannotSwap",
    "Charge",
    "Domain",
    "Dynamics",
    "Extension",
    "HasDynamics",
    "LearnableNeuron",
    "Lengths",
    "Memory",
    "Parameters",
    "Reset",
    "Spike",
    "State",
    "Surrogate",
    "SwapOptions",
    "check_backend",
    "check_coefficients",
    "check_degree",
    "check_finite",
    "check_input",
    "check_kept",
    "check_still_finite",
    "default_domain",
    "from_the_right",
    "functional",
    "is_tracing",
    "pick",
    "recomputation",
    "recordable",
    "reference",
    "sizes",
    "surrogate",
]
