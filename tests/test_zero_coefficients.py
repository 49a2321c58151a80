"""A polynomial filled up with zeros is the same neuron: how a lower degree goes into a higher one.

One exception: a line's slope is held to its range everywhere, that of a polynomial only outside the domain.
"""

from dataclasses import replace

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from snn_lnm import functional, reference
from snn_lnm.checks import align
from snn_lnm.testing import identical, problems


def of_every_neuron(problem):
    """The problem with numbers that broadcast, and with coefficients of each neuron's own."""
    step = problem.x.shape[1:]
    numbers = problem.parameters._asdict()
    numbers = {
        name: value if value is None else align(name, value, step, name == "coefficients")
        for name, value in numbers.items()
    }
    numbers["coefficients"] = numbers["coefficients"].expand(*step[1:], -1)
    return problem._replace(parameters=problem.parameters._replace(**numbers))


def is_the_same_line(problem):
    """Whether a line stays one if it becomes a polynomial: its slope is not held back."""
    theta, dynamics = problem.parameters.coefficients, problem.dynamics
    if theta.shape[-1] != 2 or dynamics.domain is None or dynamics.extension == "constant":
        return True
    slope = theta[..., 1]
    return torch.equal(reference.line_slope(problem.parameters, dynamics).expand_as(slope), slope)


def filled_up(problem, padding):
    theta = problem.parameters.coefficients
    return torch.cat([theta, theta.new_zeros(*theta.shape[:-1], padding)], -1)


@given(problems(max_degree=7))
def test_they_change_nothing(problem):
    assume(is_the_same_line(of_every_neuron(problem)))
    expected = functional.run(*problem, backend="cpp").membrane
    assume(bool(expected.isfinite().all()))  # a membrane that ran away, times 0, is none
    numbers = problem.parameters._replace(coefficients=filled_up(problem, 1))
    assert identical(
        functional.run(problem.x, problem.state, numbers, problem.dynamics, backend="cpp").membrane, expected
    )


def gradients(problem):
    x, theta = problem.x.clone().requires_grad_(), problem.parameters.coefficients.clone().requires_grad_()
    numbers = problem.parameters._replace(coefficients=theta)
    out = functional.run(x, problem.state, numbers, problem.dynamics, backend="reference")
    return torch.autograd.grad(out.membrane.sum(), (x, theta))


@given(problems(max_degree=7, dyadic=False), st.booleans())
def test_they_leave_the_gradients(problem, has_an_outside):
    """Those of all else; the new coefficient's own is that of ``v^D``, not zero: it can learn.

    To the bit where the same terms are summed in the same order: from degree 1 on, and with numbers of each neuron's
    own. Outside the domain a polynomial's coefficients have terms that cancel, where a line's have none.
    """
    if not has_an_outside and problem.dynamics.domain is not None:
        problem = problem._replace(dynamics=replace(problem.dynamics, domain=(-1e300, 1e300)))
    problem = of_every_neuron(problem)
    degrees = problem.parameters.coefficients.shape[-1]
    assume(degrees > 1 and is_the_same_line(problem))
    d_x, d_theta = gradients(problem)
    assume(d_x.isfinite().all() and d_theta.isfinite().all())
    filled = problem._replace(parameters=problem.parameters._replace(coefficients=filled_up(problem, 1)))
    same_x, same_theta = gradients(filled)
    assert torch.equal(same_x, d_x)
    if not has_an_outside:
        assert torch.equal(same_theta[..., :degrees], d_theta)
