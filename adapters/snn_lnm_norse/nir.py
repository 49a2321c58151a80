"""`norse.torch.to_nir` of models with neurons of ours: what NIR can hold, node by node as the native model; no silence.

Norse asks one function of its own what to write for a module, which knows modules by their class and takes None for
any other: there is no place to say more. So that function is wrapped, once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from norse.torch.utils import export_nir
from torch import nn

from snn_lnm.adapting import CannotSwap
from snn_lnm_norse.adapter import native
from snn_lnm_norse.modules import LNM, LNMCell, RegisteredNeuron

__all__ = ["install"]

EXTRACT = "_extract_norse_module"


def install() -> None:
    """Teach `norse.torch.to_nir` our neurons. Another call changes nothing."""
    host: Callable[..., Any] | None = getattr(export_nir, EXTRACT, None)
    if host is not None and not hasattr(host, "of_snn_lnm"):  # later versions of Norse may ask in another way
        setattr(export_nir, EXTRACT, _knowing_ours(host))


def _knowing_ours(host: Callable[..., Any]) -> Callable[..., Any]:
    """``host(module, ...)``, asked for the native neuron in place of one of ours.

    Raises:
        ValueError: there is none, or NIR has no node for it.
    """

    @functools.wraps(host)
    def extract(module: nn.Module, *arguments: Any, **words: Any) -> Any:
        if not isinstance(module, RegisteredNeuron):
            return host(module, *arguments, **words)
        name = f"{module.path or 'a layer'} ({type(module).__name__} of degree {module.degree})"
        if not isinstance(module, (LNMCell, LNM)):
            raise ValueError(f"{name} cannot be written to NIR: Norse has no node for a recurrent neuron.")
        try:
            old = native(module)
        except CannotSwap as reason:
            raise ValueError(
                f"{name} cannot be written to NIR, which has no polynomial node: {reason}. Only what "
                "snn_lnm.swap_back(model) makes native again can be written."
            ) from None
        node = host(old, *arguments, **words)
        if node is None:
            raise ValueError(f"{name} cannot be written to NIR: Norse has no node for its {type(old).__name__}.")
        return node

    extract.of_snn_lnm = True  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
    return extract
