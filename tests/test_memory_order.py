"""Inputs that are dense in another order of their dimensions: same bits, same gradients, no copy."""

import pytest
import torch
from operators import device_of, inputs_seen, moved
from optional import HAS_TRITON, NO_TRITON

from snn_lnm import functional
from snn_lnm.parameters import Dynamics, Parameters, State

OPTIONS = Dynamics(charge="map", reset="soft_next", domain=(-1.0, 1.0))


def numbers(layout):
    spread = {"layer": (), "channel": (3,), "neuron": (3, 4, 5)}[layout]
    theta = torch.randn(*spread, 4) * 0.1
    theta[..., 1] += 0.8
    return Parameters(theta, 0.5 + torch.rand(spread), torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.5))


def strided(x, kind):
    """The values of ``x``, `[T, B, C, H, W]`, in another layout."""
    return {
        "channels last": lambda: x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
        "batch inside": lambda: x.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3),
        "time last": lambda: x.permute(1, 2, 3, 4, 0).contiguous().permute(4, 0, 1, 2, 3),
        "every other": lambda: x.repeat_interleave(2, dim=-1)[..., ::2],
    }[kind]()


TRITON = pytest.param("triton", marks=pytest.mark.skipif(not HAS_TRITON, reason=NO_TRITON))


@pytest.mark.parametrize("backend", ["cpp", TRITON])
@pytest.mark.parametrize("layout", ["layer", "channel", "neuron"])
@pytest.mark.parametrize("kind", ["channels last", "batch inside", "time last", "every other"])
def test_same_bits_and_gradients(kind, layout, backend):
    """A neuron's own gradient has the same bits in any order; the coefficients' is a sum in another order."""
    values = torch.randn(6, 2, 3, 4, 5), numbers(layout), State(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5))
    x, p, state = (moved(value, device_of(backend)) for value in values)
    weight, found = torch.randn_like(x), []
    for value in (x, strided(x, kind)):
        leaves = [value.detach().requires_grad_(), p.coefficients.clone().requires_grad_()]
        out = functional.run(leaves[0], state, p._replace(coefficients=leaves[1]), OPTIONS, backend=backend)
        loss = (out.spikes * weight).sum() + (out.membrane * weight).sum() + out.state.v.sum()
        found.append((out, torch.autograd.grad(loss, leaves)))
    (law, (d_x, d_theta)), (ours, (our_d_x, our_d_theta)) = found
    assert torch.equal(law.spikes, ours.spikes) and torch.equal(law.membrane, ours.membrane)
    assert all(torch.equal(a, b) for a, b in zip(law.state, ours.state, strict=True))
    assert torch.equal(d_x, our_d_x)
    torch.testing.assert_close(our_d_theta, d_theta)
    step = functional.run(strided(x, kind)[0], state, p, OPTIONS, backend=backend, single_step=True)
    assert torch.equal(step.spikes, law.spikes[0])


def test_channels_last_is_not_copied():
    """The op gets the memory of the input itself, and gives spikes in its order."""
    x = strided(torch.randn(6, 2, 3, 4, 5), "channels last")
    with inputs_seen() as seen:
        out = functional.run(x, None, numbers("channel"), OPTIONS, backend="cpp")
    assert seen[0].is_contiguous() and seen[0].data_ptr() == x.data_ptr()
    assert out.spikes.stride() == x.stride()
