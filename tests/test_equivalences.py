"""Different words for the same neuron give the same bits; a simple neuron is its closed form."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_lnm import functional
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.testing import identical, problems

RESETS = ["hard", "soft", "none", "hard_next", "soft_next"]
BACKENDS = ["reference", "cpp"]
eighths = st.integers(-16, 16).map(lambda n: n / 8)


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def parameters(theta, threshold=1.0, v_reset=0.0, gain=1.0):
    return Parameters(tensor(theta), *map(tensor, (threshold, v_reset, gain)))


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    reset=st.sampled_from(RESETS),
    theta=st.lists(eighths, min_size=2, max_size=4),
    gain=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    v_reset=eighths,
    at_threshold=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_drift_residual_and_map_are_one_neuron(backend, reset, theta, gain, v_reset, at_threshold, seed):
    """``f_map(v) = v + g·f_drift(v)``, and a residual takes g·x; here no operation rounds (two steps of degree 3)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-16, 17, (2, 2, 3), generator=generator).double() / 8
    state = State(torch.randint(-12, 13, (2, 3), generator=generator).double() / 8)
    as_map = [gain * coefficient for coefficient in theta]
    as_map[1] += 1
    words = {"reset": reset, "fire_at_threshold": at_threshold}
    found = [
        functional.run(current, state, parameters(f, 0.75, v_reset, g), Dynamics(charge, **words), backend=backend)
        for charge, f, g, current in (
            ("drift", theta, gain, x),
            ("residual", theta, gain, gain * x),
            ("map", as_map, gain, x),
            ("map", as_map, 1.0, gain * x),
        )
    ]
    for other in found[1:]:
        assert torch.equal(other.membrane, found[0].membrane) and torch.equal(other.spikes, found[0].spikes)


@pytest.mark.parametrize("backend", BACKENDS)
@given(problems(gain_divides=False, dyadic=True))
def test_dividing_by_a_power_of_two_is_multiplying_by_its_inverse(backend, problem):
    inverse = problem.parameters._replace(gain=1 / problem.parameters.gain)
    divided = replace(problem.dynamics, gain_divides=True)
    ours = functional.run(problem.x, problem.state, inverse, divided, backend=backend)
    assert identical(ours.membrane, functional.run(*problem, backend=backend).membrane)


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    beta=st.sampled_from([0.25, 0.5, 0.75, 1.0, -0.5]),
    reset=st.sampled_from(RESETS),
    seed=st.integers(0, 2**31),
    steps=st.integers(1, 12),
)
def test_between_spikes_degree_one_is_its_closed_form(backend, beta, reset, seed, steps):
    """``h[t] = β^t·v[0] + Σ β^(t-k)·x[k]`` until the first spike, on numbers whose sums are exact."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-8, 9, (steps, 1, 4), generator=generator).double() / 8
    start = torch.randint(-8, 4, (1, 4), generator=generator).double() / 8
    out = functional.run(x, State(start), parameters([0.0, beta]), Dynamics("map", reset), backend=backend)
    quiet = torch.cat([torch.zeros_like(out.spikes[:1]), out.spikes]).cumsum(0)[:-1] == 0
    for t in range(steps):
        closed = beta ** (t + 1) * start + sum(beta ** (t - k) * x[k] for k in range(t + 1))
        assert torch.equal(out.membrane[t][quiet[t]], closed[quiet[t]])
        assert torch.equal(out.spikes[t][quiet[t]], (closed > 1).double()[quiet[t]])


@pytest.mark.parametrize("backend", BACKENDS)
@given(problem=problems(dtype=torch.float32, max_degree=3))
def test_an_infinite_threshold_is_the_neuron_without_a_reset(backend, problem):
    """It never fires; of a finite membrane nothing is subtracted (v - 0·inf would be NaN: "soft" is excluded)."""
    silenced = problem.dynamics
    if silenced.reset.startswith("soft"):
        silenced = replace(silenced, reset="hard")
    never = problem.parameters._replace(threshold=torch.tensor(math.inf))
    silent = functional.run(problem.x, problem.state, never, silenced, backend=backend)
    free = functional.run(problem.x, problem.state, never, replace(silenced, reset="none"), backend=backend)
    assert not silent.spikes.any()
    known = free.membrane.isfinite()  # after infinity the arithmetic of the reset gives NaN
    assert torch.equal(silent.membrane[known], free.membrane[known])


@pytest.mark.parametrize("backend", BACKENDS)
@given(x=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), start=st.floats(-10, 10))
def test_a_pure_integrator_is_the_running_sum(backend, x, start):
    state, numbers = State(tensor([[start]])), parameters([0.0, 1.0], math.inf)
    out = functional.run(tensor(x).reshape(-1, 1, 1), state, numbers, Dynamics("map"), backend=backend)
    v = start
    for x_t, h in zip(x, out.membrane.flatten().tolist(), strict=True):
        v = v + x_t
        assert h == v


@pytest.mark.parametrize("backend", BACKENDS)
@given(problem=problems(), random=st.randoms())
def test_neurons_move_with_their_numbers(backend, problem, random):
    """Any layout: permuting the channels of the input, of the state and of every number permutes the outputs."""
    channels = problem.x.shape[2]
    order = torch.tensor(random.sample(range(channels), channels))
    state = State(*(None if value is None else value[:, order] for value in problem.state))

    def moved(value, trailing):
        return value if value is None or value.dim() == trailing else value[order]

    numbers = Parameters(*(moved(value, k == 0) for k, value in enumerate(problem.parameters)))
    ours = functional.run(problem.x[:, :, order], state, numbers, problem.dynamics, backend=backend)
    law = functional.run(*problem, backend=backend)
    assert identical(ours.membrane, law.membrane[:, :, order]) and identical(ours.spikes, law.spikes[:, :, order])
    assert identical(ours.state.v, law.state.v[:, order])
