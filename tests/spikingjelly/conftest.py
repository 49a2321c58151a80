"""The host, imported once with its own warnings silenced."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import functional, neuron  # noqa: F401
