"""The module adds nothing to the law and loses nothing of it: ownership, checkpoints, dtypes."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_lnm import LNM, State, functional
from snn_lnm.testing import identical, problems


def module(problem, **words):
    """The `LNM` of the numbers and options of ``problem``."""
    p = problem.parameters
    options = {k: v for k, v in vars(problem.dynamics).items() if k not in ("smooth", "text")}
    numbers = {"threshold": p.threshold, "v_reset": p.v_reset, "gain": p.gain, "alpha": p.alpha}
    return LNM(coefficients=p.coefficients, **numbers, **options, **words)


@given(problems())
def test_the_module_is_the_function(problem):
    spikes, state, membrane = module(problem)(problem.x, problem.state, return_membrane=True)
    law = functional.run(*problem, backend="reference")
    assert identical(spikes.detach(), law.spikes) and identical(membrane.detach(), law.membrane)
    assert all(identical(a.detach(), b) for a, b in zip(state, law.state, strict=True) if b is not None)


@given(problems(max_degree=4), st.booleans())
def test_saved_and_loaded_it_is_the_same(problem, weights_only):
    """Every number and the domain go through the file; what does not (options) is the constructor's."""
    neuron = module(problem)
    file = io.BytesIO()
    torch.save(neuron.state_dict(), file)
    file.seek(0)
    blank = problem._replace(
        parameters=problem.parameters._make(None if v is None else v + 1 for v in problem.parameters),
        dynamics=replace(problem.dynamics, domain=None),
    )
    other = module(blank)
    other.load_state_dict(torch.load(file, weights_only=weights_only))
    ours, law = (n(problem.x, problem.state, return_membrane=True) for n in (other, neuron))
    assert identical(ours[0], law[0]) and identical(ours[2], law[2])


@given(problems(max_degree=4))
def test_a_copy_shares_nothing(problem):
    neuron = module(problem)
    before = neuron(problem.x, problem.state)[0]
    other = copy.deepcopy(neuron)
    with torch.no_grad():
        for value in other.state_dict().values():
            value += 1
    assert identical(neuron(problem.x, problem.state)[0], before)


def test_a_neuron_owns_its_numbers():
    """Changes in place of the tensors it was made of do not reach it."""
    theta, threshold = torch.tensor([0.0, 0.5]), torch.ones(3)
    for learn in (False, True):
        words = {"charge": "map", "learn_coefficients": learn, "learn_threshold": learn}
        neuron = LNM(coefficients=theta.clone(), threshold=threshold.clone(), **words)
        given = LNM(coefficients=theta, threshold=threshold, **words)
        theta.add_(1), threshold.add_(1)
        pairs = zip(given.state_dict().values(), neuron.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        theta.sub_(1), threshold.sub_(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_inputs_are_never_written(dtype):
    x, neuron = torch.randn(6, 2, 3).to(dtype), LNM().to(dtype)
    state = neuron(x)[1]
    kept = [value.clone() for value in (x, state.v)]
    neuron(x, state)
    neuron.step(x[0], state)
    assert torch.equal(x, kept[0]) and torch.equal(state.v, kept[1])


def in_another_order(value):
    """The same numbers, the last two dimensions exchanged in memory."""
    return value.detach().transpose(-1, -2).contiguous().transpose(-1, -2).requires_grad_(value.requires_grad)


@pytest.mark.parametrize("odd", ["x", "v", "current", "gradients", "all"])
@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_gradients_of_any_strides(backend, odd):
    """Inputs, states and incoming gradients may lie in memory in any order, each in its own."""
    found = []
    for exchanged in ((), ("x", "v", "current", "gradients") if odd == "all" else (odd,)):
        torch.manual_seed(3)
        neuron = LNM(coefficients=torch.tensor([0.1, 0.9, -0.2, 0.1]), charge="map", alpha=0.5, backend=backend)
        leaves = {name: torch.randn(shape).requires_grad_() for name, shape in
                  (("x", (4, 2, 3)), ("v", (2, 3)), ("current", (2, 3)))}  # fmt: skip
        leaves = {name: in_another_order(leaf) if name in exchanged else leaf for name, leaf in leaves.items()}
        x, *start = leaves.values()
        spikes, end, h = neuron(x, State(*start), return_membrane=True)
        outputs = [spikes, h, *end]
        weights = [torch.randn(value.shape) for value in outputs]
        weights = [in_another_order(weight) for weight in weights] if "gradients" in exchanged else weights
        found.append(torch.autograd.grad(outputs, [x, *start, neuron.coefficients], weights))
    (*ours, d_theta), (*law, true) = found
    assert all(torch.equal(a, b) for a, b in zip(ours, law, strict=True))
    torch.testing.assert_close(d_theta, true)  # the reference adds in the order of the memory
