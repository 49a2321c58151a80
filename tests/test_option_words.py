"""The operators know Python's words for the law's options, and no others; numbers of surrogates follow their order."""

import re
from typing import get_args

import pytest
import torch
from operators import OPTIONS, device_of
from optional import HAS_TRITON, NO_TRITON

from snn_lnm import functional, parameters
from snn_lnm.engines import cpp
from snn_lnm.parameters import Dynamics, Parameters
from snn_lnm.surrogate import BY_NAME

PLACES = {"charge": 0, "reset": 1, "synapse": 2, "extension": 6}
WITHOUT_TRITON = pytest.mark.skipif(not HAS_TRITON, reason=NO_TRITON)
ENGINES = ["cpp", pytest.param("triton", marks=WITHOUT_TRITON)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("option", PLACES)
def test_an_unknown_word_is_refused_by_the_operators(engine, option):
    """`reset='zero'` ran as "soft_next", `charge='euler'` as "residual"."""
    device = device_of(engine)
    x, v, theta, *numbers = (torch.zeros(s, device=device) for s in ((2, 3, 4), (3, 4), (2,), (), (), (), ()))
    words = get_args(getattr(parameters, option.capitalize()))
    for wrong in ("zero", "euler " if option == "synapse" else "euler", "", words[-1].upper()):
        options = [*OPTIONS]
        options[PLACES[option]] = wrong
        message = f"unknown {option} '{wrong}': expected one of {', '.join(map(repr, words))}."
        call = (1, False, 0, *options)
        with pytest.raises(ValueError, match=re.escape(message)):
            getattr(torch.ops.snn_lnm.forward, engine)(x, v, v, theta, *numbers, *call, torch.float32)
        with pytest.raises(ValueError, match=re.escape(message)):
            gradients = (x, None, None, None, x, v, v, x, theta, *numbers, *call, True, [True] * 5)
            getattr(torch.ops.snn_lnm.backward, engine)(*gradients)


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("option", PLACES)
def test_every_word_means_the_same_in_every_engine(backend, option):
    """Each gives the reference's bits, and no two the same ones."""
    torch.manual_seed(0)
    device = device_of(backend)
    x = 2 * torch.randn(6, 2, 9, device=device)
    numbers = Parameters(*(torch.tensor(n, device=device) for n in ([0.1, -0.6, 0.2], 0.8, 0.3, 0.4, 0.7)))
    found = []
    for word in get_args(getattr(parameters, option.capitalize())):
        dynamics = Dynamics(**{"domain": (-0.5, 0.5), option: word})
        ours, law = (functional.run(x, None, numbers, dynamics, backend=name) for name in (backend, "reference"))
        assert torch.equal(ours.membrane, law.membrane) and torch.equal(ours.spikes, law.spikes)
        found.append(torch.cat([law.membrane[-1], law.state.v, law.state.current]))
    assert not any(torch.equal(a, b) for k, a in enumerate(found) for b in found[:k])


def test_kernels_find_surrogates_by_their_names(monkeypatch):
    """In whatever order they are listed."""
    backwards = dict(reversed(BY_NAME.items()))
    for order in (BY_NAME, backwards):
        monkeypatch.setattr(cpp, "BY_NAME", order)
        numbers = dict(re.findall(r"constexpr int k(\w+) = (\d+);", cpp.generated_header()))
        assert [numbers[kind.__name__] for kind in order.values()] == [*map(str, range(len(order)))]
    source = (cpp._HERE / "backward.h").read_text()
    assert "kATan" in source and "kFastSigmoid" in source and not re.search(r"surrogate [!=]= \d", source)
