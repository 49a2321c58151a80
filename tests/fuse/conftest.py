"""SpikingJelly, where it is installed, imported once with its own warnings silenced."""

import importlib
import importlib.util
import warnings

if getattr(importlib.util.find_spec("spikingjelly"), "origin", None):  # a folder of tests has the name, too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("spikingjelly.activation_based.functional")
