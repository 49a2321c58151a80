"""SpikingJelly, where it is installed, imported once with its own warnings silenced."""

import importlib
import warnings

from optional import HAS_SPIKINGJELLY

if HAS_SPIKINGJELLY:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("spikingjelly.activation_based.functional")
