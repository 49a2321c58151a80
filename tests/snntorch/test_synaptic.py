"""SynapticLNM against Synaptic, every layout; its "zero" differs from Leaky's."""

import rotation
import snntorch as snn
import torch
from hypothesis import given
from hypothesis import strategies as st
from snn_lnm_snntorch import SynapticLNM
from torch import nn

import snn_lnm

STEP = (2, 3, 4, 5)
LAYOUTS = [(), (1,), (5,), (4, 1), (3, 1, 1), (3, 4, 5)]


def run(neuron, x, syn, mem):
    rows = []
    for x_t in x:
        spk, syn, mem = neuron(x_t, syn, mem)
        rows.append(torch.stack([spk.to(x.dtype), syn, mem]))
    return torch.stack(rows)


@given(
    alpha=st.sampled_from(LAYOUTS),
    beta=st.sampled_from(LAYOUTS),
    threshold=st.sampled_from(LAYOUTS),
    learn_alpha=st.booleans(),
    reset=st.sampled_from(["subtract", "zero", "none"]),
    delay=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    degree=st.sampled_from(rotation.some(range(1, 6), 2)),
    seed=st.integers(0, 2**31),
)
def test_every_layout_of_every_parameter(alpha, beta, threshold, learn_alpha, reset, delay, dtype, degree, seed):
    generator = torch.Generator().manual_seed(seed)

    def number(layout, low, high):
        return torch.empty(layout).uniform_(low, high, generator=generator)

    native = snn.Synaptic(
        number(alpha, -0.1, 1.2),
        number(beta, -0.1, 1.2),
        threshold=number(threshold, 0.2, 1.5),
        learn_alpha=learn_alpha,
        learn_threshold=True,
        reset_mechanism=reset,
        reset_delay=delay,
    ).to(dtype)
    x, syn, mem = (torch.randn(shape, generator=generator, dtype=dtype) for shape in ((4, *STEP), STEP, STEP))
    x.requires_grad_()
    expected = run(native, x, syn, mem)
    leaves = [x, native.threshold, *([native.alpha] if learn_alpha else [])]
    weight = torch.randn(expected.shape, generator=generator, dtype=dtype)
    host = torch.autograd.grad((expected * weight).sum(), leaves)
    net = nn.Sequential(native)
    snn_lnm.swap(net, degree=degree)
    ours = net[0]
    assert isinstance(ours, SynapticLNM)
    assert ("path=fused" in repr(ours)) == (delay and reset != "zero")
    got = run(ours, x, syn, mem)
    assert torch.equal(got, expected)
    assert expected[:, 0].any() and not expected[:, 0].all()
    # The very leaves of the native neuron: an optimizer built before the swap keeps them.
    mine = torch.autograd.grad((got * weight).sum(), leaves)
    # Input: chains of at most 4 steps of about 12 roundings; the parameters sum up to n such terms.
    # All at 2⁻²⁴, in float64 too: the host's spikes, and their gradients, are float32.
    for theirs, value, terms in zip(host, mine, [48, *[expected[:, 0].numel()] * 2], strict=False):
        assert torch.allclose(value, theirs, rtol=0, atol=terms * 2**-24 * (1 + float(theirs.abs().max())))


def test_zero_wipes_the_input_too():
    neuron = SynapticLNM(0.5, 0.9, reset_mechanism="zero")
    above = torch.full((1, 1), 2.0)
    assert neuron(above, torch.zeros(1, 1), above)[2] == 0


def test_integers_are_numbers_too():
    native = snn.Synaptic(1, 1, threshold=1)
    x, zeros = torch.randn(5, *STEP), torch.zeros(STEP)
    assert torch.equal(run(SynapticLNM(1, 1, threshold=1), x, zeros, zeros), run(native, x, zeros, zeros))
