"""The swap: which neurons, what becomes of each, who else holds it, and the report."""

from snn_lnm.swapping.report import SwapReport, SwapRow
from snn_lnm.swapping.swaps import swap, swap_back

__all__ = ["SwapReport", "SwapRow", "swap", "swap_back"]
