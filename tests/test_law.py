"""Properties of any neuron; `test_oracle_forward.py` holds the law itself, number by number."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_lnm import functional
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.testing import identical, problems


def run(problem, **changes):
    single_step = changes.pop("single_step", False)
    arguments = problem._asdict() | changes
    return functional.run(*arguments.values(), backend="cpp", single_step=single_step)


@given(problems(max_steps=8), st.integers(0, 2**16))
def test_time_can_be_split_anywhere(problem, cut):
    cut %= len(problem.x) + 1
    whole = run(problem)
    first = run(problem, x=problem.x[:cut])
    second = run(problem, x=problem.x[cut:], state=first.state)
    assert identical(torch.cat([first.spikes, second.spikes]), whole.spikes)
    assert identical(torch.cat([first.membrane, second.membrane]), whole.membrane)
    assert identical(second.state.v, whole.state.v)


@given(problems(max_steps=6), st.integers(0, 5))
def test_the_future_does_not_change_the_past(problem, t):
    changed = problem.x.clone()
    changed[t:] += 1
    assert identical(run(problem, x=changed).membrane[:t], run(problem).membrane[:t])


@given(problems())
def test_samples_of_a_batch_do_not_meet(problem):
    state = State(*(None if value is None else value[:1] for value in problem.state))
    one = run(problem, x=problem.x[:, :1], state=state)
    assert identical(one.membrane, run(problem).membrane[:, :1])


@given(problems(layouts=("layer",)), st.randoms())
def test_neurons_can_be_permuted(problem, random):
    order = torch.tensor(random.sample(range(problem.x.shape[2]), problem.x.shape[2]))
    state = State(*(None if value is None else value[:, order] for value in problem.state))
    shuffled = run(problem, x=problem.x[:, :, order], state=state)
    assert identical(shuffled.membrane, run(problem).membrane[:, :, order])


@given(problems(dtype=torch.float32), st.sampled_from([torch.bfloat16, torch.float16]))
def test_half_inputs_are_computed_in_float32(problem, dtype):
    half = run(problem, x=problem.x.to(dtype))
    full = run(problem, x=problem.x.to(dtype).float())
    assert half.spikes.dtype == dtype and half.membrane.dtype == torch.float32
    assert identical(half.spikes.float(), full.spikes) and identical(half.membrane, full.membrane)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_a_half_input_is_not_multiplied_in_half(backend):
    """A number without dimensions would take the input's dtype."""
    x = torch.linspace(-3, 3, 64).view(2, 1, 32).bfloat16()
    half, full = (
        functional.lnm(x, torch.tensor([0.0, 0.9]), gain=0.3, charge="map", backend=backend) for x in (x, x.float())
    )
    assert identical(half.membrane, full.membrane)


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (4, 2, 0)])
@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_empty_sizes(shape, backend):
    x = torch.zeros(shape, requires_grad=True)
    out = functional.lnm(x, torch.tensor([0.0, 0.9]), charge="map", backend=backend)
    assert out.spikes.shape == shape and out.state.v.shape == shape[1:]
    out.membrane.sum().backward()
    assert x.grad is not None and x.grad.shape == shape


@given(problems(shapes=st.just((3, 4))))
def test_strides_do_not_matter(problem):
    time_last = problem.x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    state = State(*(None if value is None else value.T.contiguous().T for value in problem.state))
    out, expected = run(problem, x=time_last, state=state), run(problem)
    assert identical(out.membrane, expected.membrane) and identical(out.spikes, expected.spikes)


@given(problems())
def test_one_step_is_a_sequence_of_one(problem):
    out, expected = run(problem, x=problem.x[0], single_step=True), run(problem, x=problem.x[:1])
    assert identical(out.membrane, expected.membrane[0]) and identical(out.spikes, expected.spikes[0])
    assert identical(out.state.v, expected.state.v)


@given(problems(layouts=("layer",)))
def test_layouts_with_the_same_values_agree(problem):
    step, expected = problem.x.shape[1:], run(problem).membrane
    for layout in (step[1:2], step[1:], (1, *step[1:]), (1, *step[1:2], *[1] * len(step[2:]))):
        spread = Parameters(
            *(None if value is None else value.expand(*layout, *value.shape) for value in problem.parameters)
        )
        assert identical(run(problem, parameters=spread).membrane, expected)
        only_theta = problem.parameters._replace(coefficients=spread.coefficients)
        assert identical(run(problem, parameters=only_theta).membrane, expected)


def test_an_infinite_threshold_integrates():
    x = torch.ones(5, 1, 1, dtype=torch.float64)
    out = functional.lnm(x, torch.tensor([0.0, 1.0], dtype=torch.float64), charge="map", threshold=math.inf)
    assert out.membrane.flatten().tolist() == [1, 2, 3, 4, 5] and not out.spikes.any()


def test_leak_between_spikes_is_geometric():
    x = torch.zeros(6, 1, 1, dtype=torch.float64)
    parameters = Parameters(*(torch.tensor(v, dtype=torch.float64) for v in ([0, 0.5], 10.0, 0.0, 1.0)))
    start = State(torch.full((1, 1), 1.0, dtype=torch.float64))
    out = functional.run(x, start, parameters, Dynamics(charge="map"))
    assert out.membrane.flatten().tolist() == [0.5**k for k in range(1, 7)]


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("at_threshold", [False, True])
def test_a_membrane_on_the_threshold(backend, at_threshold):
    x, theta = torch.full((1, 1, 1), 0.5), torch.tensor([0.0, 1.0])
    out = functional.lnm(x, theta, threshold=0.5, charge="map", fire_at_threshold=at_threshold, backend=backend)
    assert out.membrane.item() == 0.5 and out.spikes.item() == float(at_threshold)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("slope", [-1.0, 1.0])
def test_a_slope_on_its_bound_still_learns(backend, slope):
    """Outside the domain f(v) = θ_1·v + θ_0 here, so its gradient for θ_1 is v."""
    theta = torch.tensor([0.0, slope], requires_grad=True)
    out = functional.lnm(
        torch.zeros(1, 1, 1),
        theta,
        state=State(torch.full((1, 1), 3.0)),
        charge="map",
        reset="none",
        domain=(-1.5, 1.5),
        backend=backend,
    )
    out.membrane.sum().backward()
    assert theta.grad is not None and theta.grad.tolist() == [1.0, 3.0]
