"""Numbers of calls: what the C++ engine's operator `again` takes, and how long a number lives."""

import subprocess
import sys

import pytest
import torch
from test_prepared import START, X, numbers, run

from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.testing import identical

SYNAPSE = State(START.v, START.v), numbers()._replace(alpha=torch.tensor(0.5))
TENSORS = ("x", "v", "current", *Parameters._fields)
ODD = {
    "x": [X.double(), X[:, :1], X[:0], X[0], torch.zeros(()), X.transpose(0, 2).contiguous().transpose(0, 2)],
    "v": [START.v.double(), START.v[:1], START.v.to("meta")],
    "current": [START.v.double(), START.v[0], START.v.to_sparse()],
    "coefficients": [torch.zeros(3), torch.zeros(4, dtype=torch.float64), torch.zeros(4, 4)],
    **{name: [torch.ones(3), torch.ones((), dtype=torch.float64)] for name in Parameters._fields[1:]},
}
CASES = [(name, value) for name, values in ODD.items() for value in values]


@pytest.mark.parametrize("name, value", CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_the_operator_takes_nothing_that_does_not_fit(name, value):
    """Whoever calls it: what it reads beyond a tensor would be anything."""
    dynamics, (state, parameters) = Dynamics(), SYNAPSE
    expected = run(X, state, parameters, dynamics)
    (number,) = dynamics.prepared.values()
    tensors = dict(zip(TENSORS, (X, *state, *parameters), strict=True))
    assert identical(torch.ops.snn_lnm.again(*tensors.values(), number)[0], expected.spikes)
    assert torch.ops.snn_lnm.again(*(tensors | {name: value}).values(), number)[0] is None
    assert torch.ops.snn_lnm.again(*(tensors | {"alpha": None, "current": None}).values(), number)[0] is None
    assert torch.ops.snn_lnm.again(*(tensors | {"alpha": None}).values(), number)[0] is None
    assert all(torch.ops.snn_lnm.again(*tensors.values(), other)[0] is None for other in (-1, 10**9))


MANY = """
import torch
from snn_lnm import functional
from snn_lnm.parameters import Dynamics, Parameters

numbers = Parameters(torch.zeros(2), torch.tensor(1.0), torch.tensor(0.0), torch.tensor(1.0))
first = Dynamics()
x = torch.full((1, 1, 1), 2.0, requires_grad=True)
old = [functional.run(x, None, numbers, first, backend="cpp") for _ in range(2)][1]
(expected,) = torch.autograd.grad(old.membrane.sum(), x, retain_graph=True)
for width in range(2, 4200):
    dynamics = Dynamics()
    out = functional.run(torch.full((1, 1, width), 2.0), None, numbers, dynamics, backend="cpp")
    assert out.spikes.all() and [*dynamics.prepared.values()] == [width - 1], width
assert torch.ops.snn_lnm.again(x, None, None, *numbers, 0)[0] is None
assert torch.equal(torch.autograd.grad(old.membrane.sum(), x)[0], expected) and expected.any()
assert functional.run(x, None, numbers, first, backend="cpp").spikes.all() and [*first.prepared.values()] == [4199]
"""


def test_old_numbers_are_forgotten():
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_equal_calls_have_one_number():
    many = [Dynamics("residual", "soft", domain=(-2.0, edge)) for edge in (1.0, 2.0, 1.0)]
    for dynamics in many:
        run(X, None, numbers(), dynamics)
    a, b, c = ([*dynamics.prepared.values()] for dynamics in many)
    assert a == c != b
