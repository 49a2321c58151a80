"""For tests: Hypothesis strategies for neurons, and the suite that an adapter has to pass.

Import it explicitly; it needs `hypothesis` and `pytest`.
"""

from snn_lnm.testing.conformance import AdapterConformance
from snn_lnm.testing.strategies import Problem, dynamics, identical, problems

__all__ = ["AdapterConformance", "Problem", "dynamics", "identical", "problems"]
