"""snn_lnm as native neurons of Norse: its two-by-two scheme, functional interface and states."""

from snn_lnm_norse.functional import (
    LNMBoxFeedForwardState,
    LNMBoxState,
    LNMFeedForwardState,
    LNMParameters,
    LNMState,
    lnm_feed_forward_step,
    lnm_step,
)
from snn_lnm_norse.modules import LNM, LNMCell, LNMRecurrent, LNMRecurrentCell
from snn_lnm_norse.nir import install as _teach_nir

__all__ = [
    "LNM",
    "LNMBoxFeedForwardState",
    "LNMBoxState",
    "LNMCell",
    "LNMFeedForwardState",
    "LNMParameters",
    "LNMRecurrent",
    "LNMRecurrentCell",
    "LNMState",
    "lnm_feed_forward_step",
    "lnm_step",
]

_teach_nir()
