"""The host, imported once with its own warnings silenced."""

import importlib
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    importlib.import_module("spikingjelly.activation_based.functional")
