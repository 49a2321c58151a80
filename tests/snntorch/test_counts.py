"""Events and their counts as inputs: whole numbers, which the host takes as they come."""

import pytest
import snntorch as snn
import torch
from snn_lnm_snntorch import LNM
from torch import nn

import snn_lnm

DTYPES = [torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool]
NEURONS = {
    "Leaky": lambda **o: snn.Leaky(0.9, **o),
    "Synaptic": lambda **o: snn.Synaptic(0.8, 0.9, **o),
    "immediate": lambda **o: snn.Leaky(0.9, reset_delay=False, **o),
}


def net(kind, dtype, swap, **options):
    model = nn.Sequential(NEURONS[kind](**options)).to(dtype)
    if swap:
        snn_lnm.swap(model)
    return model


@pytest.mark.parametrize("kind", NEURONS)
@pytest.mark.parametrize("net_dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_whole_numbers_are_taken_as_the_host_takes_them(kind, net_dtype, dtype):
    """Also by the fused sequence. The spikes are the membrane's dtype; the host's are float32 in double nets too."""
    counts = torch.tensor([[0, 1, 2, 3], [0, 1, 1, 0], [0, 1, 250, 0]]).to(dtype)[:, None]
    host, ours, sequence = (net(kind, net_dtype, swap) for swap in (False, True, True))
    # Of a bool the host cannot subtract a threshold, so it gets numbers.
    expected = [host(x.to(torch.uint8) if dtype is torch.bool else x) for x in counts]
    fused = snn_lnm.fuse_time(sequence)(counts)
    assert any(spikes.any() for spikes, *_ in expected) and not expected[-1][0].all()
    for t, (x, theirs) in enumerate(zip(counts, expected, strict=True)):
        for got in (ours(x), [value[t] for value in fused]):
            assert torch.equal(got[0], theirs[0].to(net_dtype))
            assert all(torch.equal(value, state) for value, state in zip(got[1:], theirs[1:], strict=True))


def test_whole_numbers_and_floats_may_follow_each_other():
    x = torch.tensor([[1, 2, 0]])
    found = []
    for swap in (False, True):
        model = net("Leaky", torch.float32, swap, init_hidden=True, output=True)
        found.append(torch.stack([torch.stack(model(value)) for value in (x, x.float(), x.byte(), x * 0.5)]))
    assert torch.equal(*found)


def test_whole_numbers_train():
    neuron = LNM(0.9)
    neuron(torch.ones(2, 3, dtype=torch.uint8), torch.ones(2, 3))[1].sum().backward()
    assert neuron.coefficients.grad.tolist() == [6, 6, 6, 6]


@pytest.mark.parametrize("delay", [True, False])
def test_graded_spikes_come_in_the_dtype_of_the_input(delay):
    neuron = LNM(0.9, graded_spikes_factor=torch.tensor([0.5, 2.0, 3.0]), reset_delay=delay)
    spikes, _ = neuron(torch.full((2, 3), 4.0, dtype=torch.bfloat16), torch.ones(2, 3))
    assert spikes.dtype == torch.bfloat16 and spikes[0].tolist() == [0.5, 2.0, 3.0]


def test_half_precision_rounds_counts_as_the_host_does():
    counts = torch.tensor([[1, 257, 1000, 3]])
    host, ours = (net("Leaky", torch.bfloat16, swap) for swap in (False, True))
    assert torch.equal(ours(counts)[1].bfloat16(), host(counts)[1]) and ours(counts)[0].dtype == torch.bfloat16
