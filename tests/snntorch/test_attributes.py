"""A swapped neuron, asked for its attributes as the host's is: by hasattr, by debuggers, by NIR export."""

import copy
import inspect

import numpy as np
import pytest
import snntorch as snn
import torch
from snn_lnm_snntorch import LNM, SynapticLNM
from snntorch.export_nir import export_to_nir
from torch import nn

import snn_lnm

KINDS = {"Leaky": lambda **o: snn.Leaky(0.9, **o), "Synaptic": lambda **o: snn.Synaptic(0.8, 0.9, **o)}


def swapped(native, degree):
    net = nn.Sequential(copy.deepcopy(native))
    snn_lnm.swap(net, degree=degree)
    return net[0]


def no_leak(neuron, k=0):
    with torch.no_grad():
        neuron.coefficients[..., k] = 0.1
    return neuron


@pytest.mark.parametrize("degree", [1, 2, 3, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_beta_is_there_while_the_polynomial_is_a_leak(kind, degree):
    native = KINDS[kind]()
    neuron = swapped(native, degree)
    assert hasattr(neuron, "beta") and torch.equal(neuron.beta, native.beta)
    for k in [k for k in range(degree + 1) if k != 1]:
        other = no_leak(copy.deepcopy(neuron), k)
        assert not hasattr(other, "beta") and getattr(other, "beta", None) is None
        with pytest.raises(AttributeError, match=rf"degree {degree} is not a leak .*NIR has no polynomial node"):
            _ = other.beta


@pytest.mark.parametrize("make", [
    lambda: LNM(0.9),
    lambda: no_leak(LNM(0.9)),
    lambda: LNM(coefficients=[0.5]),
    lambda: LNM(torch.rand(5), degree=1, init_hidden=True),
    lambda: LNM(coefficients=torch.tensor([[0.0, 0.5], [0.1, 0.5]])),
    lambda: LNM(0.9).to("meta"),
    lambda: LNM(0.9, reset_delay=False, spike_grad="sigmoid"),
    lambda: SynapticLNM(0.8, 0.9),
    lambda: no_leak(SynapticLNM(0.8, 0.9), 3),
])  # fmt: skip
def test_probing_raises_attribute_errors_alone(make):
    neuron = make()
    inspect.getmembers(neuron)
    for name in [*dir(neuron), *dir(snn.Leaky(0.9)), *dir(snn.Synaptic(0.8, 0.9)), "V", "no_such_name"]:
        getattr(neuron, name, None)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = neuron.no_such_name


def test_beta_is_a_view_with_a_gradient():
    neuron = LNM(0.9)
    neuron.beta.backward()
    assert neuron.coefficients.grad.tolist() == [0, 1, 0, 0]
    with torch.no_grad():
        neuron.beta.fill_(0.5)
    assert neuron.coefficients.tolist() == [0, 0.5, 0, 0]


@pytest.mark.parametrize("neuron", [LNM(0.9), no_leak(LNM(0.9))], ids=["leak", "no leak"])
@pytest.mark.parametrize("value", [0.5, torch.tensor(0.5), nn.Parameter(torch.tensor(0.5))])
def test_beta_cannot_be_set_beside_the_coefficients(neuron, value):
    names = [*neuron.state_dict()]
    with pytest.raises(AttributeError, match="write into it in place"):
        neuron.beta = value
    assert [*neuron.state_dict()] == names


def nets(degree):
    """The usual net, and its swapped copy."""
    net = nn.Sequential(
        nn.Linear(4, 3),
        snn.Leaky(torch.tensor([0.9, 0.5, 0.7]), threshold=torch.ones(3), init_hidden=True),
        nn.Linear(3, 2, bias=False),
        snn.Synaptic(torch.full((2,), 0.7), torch.full((2,), 0.8), threshold=torch.ones(2), init_hidden=True),
    )
    other = copy.deepcopy(net)
    snn_lnm.swap(other, degree=degree)
    return net, other


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the host's export uses an older call of nirtorch
@pytest.mark.parametrize("degree", [1, 3])
def test_nir_export_is_the_native_one_or_says_why_not(degree):
    native, ours = nets(degree)
    x = torch.rand(1, 4)
    expected, got = (export_to_nir(net, x, ignore_dims=[0]) for net in (native, ours))
    assert sorted(got.edges) == sorted(expected.edges) and got.nodes.keys() == expected.nodes.keys()
    assert [type(node).__name__ for node in got.nodes.values()].count("CubaLIF") == 1
    for name, node in expected.nodes.items():
        assert type(got.nodes[name]) is type(node)
        for key, value in vars(node).items():
            same = getattr(got.nodes[name], key)
            assert np.array_equal(same, value) if isinstance(value, np.ndarray) else str(same) == str(value), key
    for place in (1, 3):
        other = copy.deepcopy(ours)
        no_leak(other[place])
        with pytest.raises(AttributeError, match="NIR has no polynomial node"):
            export_to_nir(other, x, ignore_dims=[0])


def test_a_neuron_on_the_meta_device_steps_as_the_host_s():
    x, neuron = torch.ones(2, 3), LNM(0.9)
    neuron(x)
    assert all(value.shape == x.shape and value.is_meta for value in neuron.to("meta")(x.to("meta")))
