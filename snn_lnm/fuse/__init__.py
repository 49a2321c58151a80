"""Whole networks fused over time: :func:`fuse_time`."""

from snn_lnm.fuse.model import FusedTime, FuseReport, FuseRow, fuse_time

__all__ = ["FuseReport", "FuseRow", "FusedTime", "fuse_time"]
