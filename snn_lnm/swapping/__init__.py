"""The parts of :func:`snn_lnm.swap`: which neurons, what becomes of each, who else holds it, and the report."""
