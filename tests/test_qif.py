"""The quadratic neuron: its three forms, and the surrogate window made from its own membrane."""

import math

import pytest
import snntorch as snn
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import snn_lnm
from snn_lnm import LNM, QIF, functional
from snn_lnm.analysis import membrane_distribution, surrogate_window
from snn_lnm.parameters import Dynamics, Parameters

quarters = st.integers(-6, 6).map(lambda n: n / 4)


@given(st.integers(1, 4).map(lambda n: n / 4), quarters, quarters, st.integers(0, 2**31))
def test_factors_and_coefficients_are_the_recurrence_on_dyadic_numbers(a, u1, u2, seed):
    """``u + a(u - u_1)(u - u_2) + x`` written out, where float64 arithmetic is exact (two steps)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-8, 9, (2, 3, 5), generator=generator).double() / 4
    words = {"reset": "soft", "domain": None, "backend": "cpp"}
    factored = QIF(*(torch.tensor(value, dtype=torch.float64) for value in (a, u1, u2)), threshold=T, **words)
    coefficients = LNM.qif(a, u1, u2, dtype=torch.float64, threshold=T, **words)
    u, expected = torch.zeros(3, 5, dtype=torch.float64), []
    for x_t in x:
        u = u + a * (u - u1) * (u - u2) + x_t
        expected.append(u)
        u = u - (u > 1).double()
    for neuron in (factored.double(), coefficients.double()):
        assert torch.equal(neuron(x, return_membrane=True)[2], torch.stack(expected))


T = torch.tensor(1.0, dtype=torch.float64)


def test_the_factors_learn():
    neuron = QIF(a=torch.full((4,), 0.25), u1=0.1, u2=0.4)
    assert [name for name, _ in neuron.named_parameters()] == ["a", "u1", "u2"] and neuron.a.shape == (4,)
    neuron(torch.randn(20, 8, 4))[0].sum().backward()
    for value in neuron.parameters():
        assert (value.grad != 0).all()
    copy = QIF(a=torch.zeros(4), learn=False)
    copy.load_state_dict(neuron.state_dict())
    assert torch.equal(copy.coefficients, neuron.coefficients) and not list(copy.parameters())
    with pytest.raises(ValueError, match="u2 must be finite"):
        QIF(u2=math.inf)


def test_swap_to_quadratic_neurons():
    torch.manual_seed(0)
    native = nn.Sequential(snn.Leaky(0.9, init_hidden=True), snn.Synaptic(0.5, 0.8, init_hidden=True))
    torch.manual_seed(0)
    net = nn.Sequential(snn.Leaky(0.9, init_hidden=True), snn.Synaptic(0.5, 0.8, init_hidden=True))
    snn_lnm.swap(net, neuron="qif")
    assert [layer.degree for layer in net] == [2, 2]
    for x in torch.randn(6, 3, 4) * 2:
        assert torch.equal(net(x), native(x))
    for words, message in (({"neuron": "lif"}, "unknown neuron 'lif'"), ({"neuron": "qif", "degree": 3}, "degree 2")):
        with pytest.raises(ValueError, match=message):
            snn_lnm.swap(nn.Sequential(snn.Leaky(0.9)), **words)


NEURONS = {
    "quadratic": ((0.0, 0.875, 0.25), Dynamics("map", "hard", domain=(-1.5, 1.5))),
    "quadratic, soft": ((0.02, 0.7, 0.3), Dynamics("map", "soft", domain=(-1.5, 1.5))),
    "leaky, snnTorch's reset": ((0.0, 0.9), Dynamics("map", "soft_next")),
    "cubic drift": ((0.1, -1.0, 0.3, -0.2), Dynamics("drift", "hard", domain=(-1.5, 1.5))),
}


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.3, 0.5)])
def test_the_distribution_is_that_of_a_simulation(name, mean, std):
    """4·10⁵ neurons: mean, variance and rate within 5 standard errors, plus half a cell of the grid."""
    theta, dynamics = NEURONS[name]
    theta = torch.tensor(theta, dtype=torch.float64)
    gain = 0.5 if dynamics.charge == "drift" else 1.0
    numbers = Parameters(theta, *(torch.tensor(value, dtype=torch.float64) for value in (1.0, 0.0, gain)))
    found = membrane_distribution(numbers, dynamics, mean, std, steps=24)
    n = 400_000
    x = torch.randn(24, 1, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * std + mean
    h = functional.run(x, None, numbers, dynamics).membrane[-1, 0]
    cell = float(found.values[1] - found.values[0]) / 2
    assert abs(h.mean() - found.mean) < 5 * h.std() / math.sqrt(n) + cell
    fourth = ((h - h.mean()) ** 4).mean()
    assert abs(h.var() - found.std**2) < 5 * ((fourth - h.var() ** 2) / n).sqrt() + 2 * cell * h.std()
    rate = float((h > 1).double().mean())
    assert abs(rate - found.rate(1.0)) < 5 * math.sqrt(rate / n) + float(found.probability.max())
    window = surrogate_window(numbers, dynamics, mean, std, steps=24)
    assert window.parameters[0] == 2 * (abs(1 - found.mean) + found.std)
    inside = float(((h - 1).abs() < window.parameters[0] / 2).double().mean())
    expected = float(found.probability[(found.values - 1).abs() < window.parameters[0] / 2].sum())
    assert abs(inside - expected) < 5 * math.sqrt(expected * (1 - expected) / n) + 2 * float(found.probability.max())
    assert expected > 0.8  # docs/qif.md: 84 % if the membrane were normal


def test_the_window_of_a_neuron():
    neuron = QIF(surrogate="window")
    assert neuron.dynamics.surrogate == surrogate_window(neuron.parameters_of_law, neuron.dynamics)
    narrow = surrogate_window(neuron.parameters_of_law, neuron.dynamics, std=0.1).parameters[0]
    assert narrow < neuron.dynamics.surrogate.parameters[0]


@pytest.mark.parametrize("change, message", [
    ({"alpha": torch.tensor(0.5)}, "synapse"), ({"gain": torch.ones(3)}, "one neuron at a time"),
])  # fmt: skip
def test_what_has_no_distribution(change, message):
    numbers = QIF().parameters_of_law._replace(**change)
    with pytest.raises(ValueError, match=message):
        membrane_distribution(numbers, Dynamics("map"))


def test_a_membrane_that_runs_away_is_an_error():
    numbers = Parameters(torch.tensor([0.0, 1.0, 0.5]), *map(torch.tensor, (1.0, 0.0, 1.0)))
    with pytest.raises(ValueError, match="runs away"):
        membrane_distribution(numbers, Dynamics("map", "none"), mean=1.0)
    with pytest.raises(ValueError, match="std must be positive"):
        membrane_distribution(numbers, Dynamics("map"), std=0.0)
