"""SpikingJelly, where it is installed, imported once with its own warnings silenced."""

import importlib
import importlib.util
import warnings

if importlib.util.find_spec("spikingjelly") is not None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("spikingjelly.activation_based.functional")
