"""pytest plugin: Norse's own tests get our neurons in place of its LIF family.

`python -m pytest --pyargs norse.torch.module.test.test_lif -p tests.peers.norse_plugin`
"""

import inspect
import sys
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import norse.torch as norse
    from norse.torch.functional import iaf as iaf_functional
    from norse.torch.functional import lif as lif_functional
    from norse.torch.functional import lif_box as lif_box_functional
    from norse.torch.module import iaf as iaf_module
    from norse.torch.module import lif as lif_module
    from norse.torch.module import lif_box as lif_box_module

from snn_lnm_norse import (
    LNM,
    LNMCell,
    LNMParameters,
    LNMRecurrent,
    LNMRecurrentCell,
    adapter,
    lnm_feed_forward_step,
    lnm_step,
)

from snn_lnm.plugins import SwapOptions


def ours_of(p, translate):
    return p if isinstance(p, LNMParameters) else translate(p, SwapOptions(degree=3))


def pytest_collection_modifyitems(items):
    """Tests that compare the text of a module with that of its parameters make ours."""
    for item in items:
        if item.module.__name__.endswith("test_snn"):
            item.module.LIFParameters = lif_parameters


def lif_parameters(**words):
    return adapter.lif(norse.LIFParameters(**words), SwapOptions(degree=3, domain=(-1.5, 1.5)))


def module(ours, host, translate, default):
    """A class with the host's constructor that builds our neuron of degree 3."""

    class Neuron(ours):
        def __init__(self, *arguments, **words):
            sizes = arguments[:2] if ours in (LNMRecurrentCell, LNMRecurrent) else ()
            rest = arguments[len(sizes) :]
            p = words.pop("p", rest[0] if rest else default)
            super().__init__(*sizes, ours_of(p, translate), *rest[1:], **words)

    Neuron.__name__ = host.__name__
    return Neuron


def step(ours, translate, default):
    signature = inspect.signature(ours)

    def run(*arguments, **words):
        found = signature.bind(*arguments, **words).arguments
        return ours(**{**found, "p": ours_of(found.get("p", default), translate)})

    return run


LIF, BOX, IAF = norse.LIFParameters(), norse.LIFBoxParameters(), norse.IAFParameters()
REPLACED = {
    (lif_module, "LIFCell"): module(LNMCell, norse.LIFCell, adapter.lif, LIF),
    (lif_module, "LIF"): module(LNM, norse.LIF, adapter.lif, LIF),
    (lif_module, "LIFRecurrentCell"): module(LNMRecurrentCell, norse.LIFRecurrentCell, adapter.lif, LIF),
    (lif_module, "LIFRecurrent"): module(LNMRecurrent, norse.LIFRecurrent, adapter.lif, LIF),
    (lif_box_module, "LIFBoxCell"): module(LNMCell, norse.LIFBoxCell, adapter.lif_box, BOX),
    (iaf_module, "IAFCell"): module(LNMCell, iaf_module.IAFCell, adapter.iaf, IAF),
    (iaf_module, "IAF"): module(LNM, iaf_module.IAF, adapter.iaf, IAF),
    (lif_functional, "lif_feed_forward_step"): step(lnm_feed_forward_step, adapter.lif, LIF),
    (lif_functional, "lif_step"): step(lnm_step, adapter.lif, LIF),
    (lif_box_functional, "lif_box_feed_forward_step"): step(lnm_feed_forward_step, adapter.lif_box, BOX),
    (iaf_functional, "iaf_feed_forward_step"): step(lnm_feed_forward_step, adapter.iaf, IAF),
}
for (place, name), new in REPLACED.items():
    old = getattr(place, name)
    for imported in [*sys.modules.values()]:  # norse.torch and its models hold the same names
        if getattr(imported, "__name__", "").startswith("norse") and getattr(imported, name, None) is old:
            setattr(imported, name, new)
