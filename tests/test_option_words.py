"""The operators know Python's words for the law's options, and no others."""

import re
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operators import device_of
from optional import HAS_TRITON, NO_TRITON

from snn_lnm import functional, parameters, reference
from snn_lnm.checks import MAX_DEGREE
from snn_lnm.engines import form
from snn_lnm.parameters import Dynamics, Parameters
from snn_lnm.testing.strategies import dynamics

OPTIONS = ["charge", "reset", "synapse", "extension"]
ENGINES = ["cpp", *(["triton"] if HAS_TRITON else [])]
WITHOUT_TRITON = pytest.mark.skipif(not HAS_TRITON, reason=NO_TRITON)
TEXT = "degree=1 charge=drift reset=hard extension=line detach_reset surrogate=atan,2.0 synapse=decay domain=-1.5,1.5"
WRONG = {  # in the place of what, what the error says
    "another option": ("detach_reset", "leak=0.5", "do not know leak"),
    "another flag": ("detach_reset", "learns", "do not know learns"),
    "no degree": ("degree=1 ", "", "does not say its degree"),
    "degree 9": ("degree=1", "degree=9", "9"),
    "no surrogate": ("surrogate=atan,2.0", "surrogate=step", "unknown surrogate 'step': expected one of atan,"),
    "a number that is none": ("atan,2.0", "atan,two", "could not convert string to float: 'two'"),
    "another number": ("atan,2.0", "atan,2.0,3.0", "the operators do not understand the neuron"),
    "half a domain": ("domain=-1.5,1.5", "domain=1.0", "domain must be (lo, hi)"),
}


def refused(text, message):
    """By what reads it, and by both operators of each engine."""
    with pytest.raises(ValueError, match=re.escape(message)):
        form.parse(text)
    for engine in ENGINES:
        x, v, theta, *numbers = (
            torch.zeros(s, device=device_of(engine)) for s in ((2, 3, 4), (3, 4), (2,), (), (), ())
        )
        call = (x, [v], [theta, *numbers])
        scan, backward = (getattr(getattr(torch.ops.snn_lnm, name), engine) for name in ("scan", "scan_backward"))
        with pytest.raises(ValueError, match=re.escape(message)):
            scan(*call, text, 1, 1, 0, False, torch.float32)
        with pytest.raises(ValueError, match=re.escape(message)):
            backward([x, None, None], *call, x, text, 1, 1, 0, False, True, [True] * 4)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_unknown_word_is_refused_by_the_operators(option):
    """`reset='zero'` ran as "soft_next", `charge='euler'` as "residual"."""
    words = get_args(getattr(parameters, option.capitalize()))
    for wrong in ("zero", words[-1].upper()):
        text = re.sub(rf"{option}=\w+", f"{option}={wrong}", TEXT)
        refused(text, f"unknown {option} {wrong!r}: expected one of {', '.join(map(repr, words))}.")


@pytest.mark.parametrize("case", WRONG)
def test_a_text_that_says_something_else_is_refused(case):
    old, new, message = WRONG[case]
    assert TEXT.count(old) == 1
    refused(TEXT.replace(old, new), message)


def test_what_is_no_text_of_a_neuron_is_refused():
    assert (
        form.neuron(Dynamics(domain=(-1.5, 1.5)), 1, True)
        .text.replace(" synapse=decay", "")
        .replace("domain", "synapse=decay domain")
        == TEXT
    )
    for text in ("", "drift", "[]", "{}", "3", TEXT[:40]):
        refused(text, "the")


@given(dynamics(), st.integers(0, MAX_DEGREE), st.booleans())
def test_a_text_says_it_all(said, degree, synapse):
    said = said if synapse else replace(said, synapse="decay")
    found = form.parse(form.neuron(said, degree, synapse).text)
    assert found.law == reference.law(said, degree, synapse)


@pytest.mark.parametrize("backend", ["cpp", pytest.param("triton", marks=WITHOUT_TRITON)])
@pytest.mark.parametrize("option", OPTIONS)
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
