"""Each misuse, the error it raises, and that nothing has changed."""

import copy

import pytest
import torch

import snn_lnm
from snn_lnm import LNM, State, functional

X = torch.zeros(3, 2, 4)
THETA = torch.tensor([0.0, 0.9])
NAN, INF = float("nan"), float("inf")


def fused():
    return snn_lnm.fuse_time(torch.nn.Sequential(torch.nn.Linear(4, 4)))


def nested():
    return torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(1, 4)], layout=torch.jagged)


CALLS = {
    "integer input": (TypeError, "the input is torch.int64", lambda: functional.lnm(X.long(), THETA)),
    "not a tensor": (TypeError, "must be a torch.Tensor, got list", lambda: functional.lnm([1.0], THETA)),
    "sparse input": (TypeError, r"sparse_coo: expected a dense tensor", lambda: functional.lnm(X.to_sparse(), THETA)),
    "nested input": (TypeError, r"a nested tensor: expected a dense", lambda: functional.lnm(nested(), THETA)),
    "sparse input, fused": (TypeError, r"sparse_coo: expected a dense tensor", lambda: fused()(X.to_sparse())),
    "nested input, fused": (TypeError, r"a nested tensor: expected a dense", lambda: fused()(nested())),
    "no dimensions": (ValueError, r"must be \[T, B", lambda: functional.lnm(X[0, 0, 0], THETA)),
    "wrong channels": (ValueError, r"\[4, 2\] \(per channel\)", lambda: functional.lnm(X, torch.zeros(5, 2))),
    "wrong dtype": (TypeError, "coefficients is torch.float64", lambda: functional.lnm(X, THETA.double())),
    "other device": (ValueError, "is on meta", lambda: functional.lnm(X, THETA.to("meta"))),
    "scalar θ": (ValueError, "at least one dimension", lambda: functional.lnm(X, torch.tensor(1.0))),
    "degree 9": (ValueError, "between 0 and 8, got 9", lambda: functional.lnm(X, torch.zeros(10))),
    "θ against degree": (ValueError, "degree=3 contradicts", lambda: LNM(3, coefficients=THETA)),
    "θ against channels": (ValueError, "channels=4 contradicts", lambda: LNM(channels=4, coefficients=THETA)),
    "NaN θ": (ValueError, "coefficients must be finite", lambda: functional.lnm(X, THETA * NAN)),
    "Inf θ, reference": (
        ValueError,
        "coefficients must be finite",
        lambda: functional.lnm(X, THETA * INF, backend="reference"),
    ),
    "surrogate": (ValueError, "unknown surrogate", lambda: functional.lnm(X, THETA, surrogate="step")),
    "reset": (ValueError, "unknown reset 'zero'", lambda: functional.lnm(X, THETA, reset="zero")),
    "charge": (ValueError, "unknown charge", lambda: functional.lnm(X, THETA, charge="euler")),
    "backend": (ValueError, "unknown backend 'cuda'", lambda: functional.lnm(X, THETA, backend="cuda")),
    "option": (TypeError, "unknown option 'tau': expected some of charge", lambda: functional.lnm(X, THETA, tau=2)),
    "domain": (ValueError, "lo < hi", lambda: functional.lnm(X, THETA, domain=(1, -1))),
    "domain type": (TypeError, "domain must be", lambda: functional.lnm(X, THETA, domain=3)),
    "NaN threshold": (
        ValueError,
        "threshold must not be NaN",
        lambda: functional.lnm(X, THETA, threshold=NAN),
    ),
    "stale state": (
        ValueError,
        r"state.v has shape \[9, 4\] and one step of the input \[2, 4\]",
        lambda: functional.lnm(X, THETA, state=State(torch.zeros(9, 4))),
    ),
    "no synapse": (
        ValueError,
        "has no synapse",
        lambda: functional.lnm(X, THETA, state=State(X[0], X[0])),
    ),
    "degree -1": (ValueError, "between 0 and 8, got -1", lambda: LNM(degree=-1)),
    "degree bool": (TypeError, "degree must be an int", lambda: LNM(degree=True)),
    "degree float": (TypeError, "degree must be an int", lambda: LNM(degree=2.0)),
    "channels": (ValueError, "channels must be a positive int", lambda: LNM(channels=0)),
    "module NaN θ": (ValueError, "coefficients must be finite", lambda: LNM(coefficients=THETA * NAN)),
    "module surrogate": (ValueError, "unknown surrogate", lambda: LNM(surrogate="x")),
    "module backend": (ValueError, "unknown backend", lambda: LNM(backend="x")),
    "module domain": (ValueError, "'auto'", lambda: LNM(domain="wide")),
    "callable and >=": (
        ValueError,
        "fire_at_threshold",
        lambda: LNM(surrogate=torch.sigmoid, fire_at_threshold=True),
    ),
    "smooth callable": (
        ValueError,
        "known primitive",
        lambda: functional.lnm(X, THETA, surrogate=torch.sigmoid, smooth=True),
    ),
    "state type": (
        TypeError,
        "state.v must be a tensor or None, got float",
        lambda: functional.lnm(X, THETA, state=State(0.0)),
    ),
    "state dtype": (
        TypeError,
        "state.v is torch.float64 and the input torch.float32",
        lambda: functional.lnm(X, THETA, state=State(X[0].double())),
    ),
    "state device": (
        ValueError,
        "state.v is on meta",
        lambda: functional.lnm(X, THETA, state=State(X[0].to("meta"))),
    ),
    "stale current": (
        ValueError,
        r"state.current has shape \[9, 4\]",
        lambda: functional.lnm(X, THETA, alpha=0.5, state=State(X[0], torch.zeros(9, 4))),
    ),
    "wrong channels of the threshold": (
        ValueError,
        r"threshold has shape \[3\], .*\[4\] \(per channel\)",
        lambda: functional.lnm(X, THETA, threshold=torch.ones(3)),
    ),
    "threshold type": (TypeError, "threshold must be a number", lambda: functional.lnm(X, THETA, threshold="1")),
    "bool gain": (TypeError, "gain must be a number", lambda: functional.lnm(X, THETA, gain=True)),
    "NaN domain": (ValueError, "must be finite", lambda: functional.lnm(X, THETA, domain=(NAN, 1))),
    "synapse": (ValueError, "unknown synapse", lambda: functional.lnm(X, THETA, synapse="exp")),
    "extension": (ValueError, "unknown extension", lambda: functional.lnm(X, THETA, extension="flat")),
    "module reset": (ValueError, "unknown reset", lambda: LNM(reset="zero")),
    "module charge": (ValueError, "unknown charge", lambda: LNM(charge="euler")),
    "module degree 9": (ValueError, "between 0 and 8, got 9", lambda: LNM(degree=9)),
    "module NaN threshold": (ValueError, "threshold must be finite", lambda: LNM(1, threshold=NAN)),
    "module integer θ": (TypeError, "floating-point", lambda: LNM(coefficients=torch.tensor([0, 1]))),
    "negative surrogate": (ValueError, "positive finite", lambda: snn_lnm.surrogate.ATan(-1.0)),
    "swap of no module": (TypeError, "a torch.nn.Module is needed", lambda: snn_lnm.swap(3)),
    "swap degree 0": (ValueError, "at least 1", lambda: snn_lnm.swap(torch.nn.Sequential(), degree=0)),
}


@pytest.mark.parametrize("call", CALLS)
def test_error(call):
    kind, message, run = CALLS[call]
    with pytest.raises(kind, match=message):
        run()


MISUSES = {
    "integers": lambda n: n(X.long()),
    "other dtype": lambda n: n(X.double()),
    "no dimensions": lambda n: n(X[0, 0, 0]),
    "other channels": lambda n: n(torch.zeros(3, 2, 5)),
    "other device": lambda n: n(X.to("meta")),
    "stale state": lambda n: n(X, State(torch.zeros(9, 4))),
    "stale state, one step": lambda n: n.step(X[0], State(torch.zeros(9, 4))),
    "no synapse": lambda n: n(X, State(X[0], X[0])),
    "NaN θ, loaded": lambda n: (n.coefficients.data.fill_(NAN), n(X)),
}


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("misuse", MISUSES)
def test_a_failed_call_leaves_the_module_as_it_was(misuse, backend):
    neuron = LNM(channels=4, learn_threshold=True, backend=backend)
    before, attributes = copy.deepcopy(neuron.state_dict()), dict(vars(neuron))
    state = State(torch.ones(2, 4))
    with pytest.raises((TypeError, ValueError)):
        MISUSES[misuse](neuron)
    if misuse == "NaN θ, loaded":
        neuron.load_state_dict(before)
    assert vars(neuron) == attributes and neuron.coefficients.grad is None
    assert all(torch.equal(value, before[name]) for name, value in neuron.state_dict().items())
    assert torch.equal(neuron(X, state)[0], LNM(channels=4, learn_threshold=True)(X, state)[0])
