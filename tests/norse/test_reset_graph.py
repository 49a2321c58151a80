"""Norse's functional steps: the reset is in the graph without recurrence, and detached with it."""

import norse.torch as norse
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from norse.torch.functional.lif import lif_feed_forward_step, lif_step
from snn_lnm_norse import adapter, lnm_feed_forward_step, lnm_step

from snn_lnm.plugins import SwapOptions

HOST = norse.LIFParameters(tau_mem_inv=torch.tensor(400.0), v_th=torch.tensor(0.5), v_reset=torch.tensor(0.25))
OURS = adapter.lif(HOST, SwapOptions(degree=3))


@pytest.mark.parametrize("recurrent", [False, True], ids=["feed-forward", "recurrent"])
@given(seed=st.integers(0, 2**31))
def test_the_reset_is_in_the_graph_as_in_the_host(recurrent, seed):
    """Three steps with a loss on the membranes, which only the reset's own gradient tells apart."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(3, 2, 4, generator=generator) * 4
    weights = [torch.randn(4, 4, generator=generator) for _ in range(2)] if recurrent else []
    found = []
    for step, p in ((lif_step, HOST), (lnm_step, OURS)) if recurrent else (
        (lif_feed_forward_step, HOST), (lnm_feed_forward_step, OURS),
    ):  # fmt: skip
        x = inputs.clone().requires_grad_()
        zero = torch.zeros(2, 4)
        state = norse.LIFState(zero, zero, zero) if recurrent else norse.LIFFeedForwardState(zero, zero)
        loss = 0.0
        for x_t in x.unbind(0):
            _, state = step(x_t, state, *weights, p)
            loss = loss + state.v.square().sum()
        found.append(torch.autograd.grad(loss, x)[0])
    # Chains of 3 steps of about 40 operations, products with the weights included, each 2⁻²⁴ of the largest.
    assert (found[0] - found[1]).abs().max() <= 3 * 40 * 2**-23 * (1 + found[0].abs().max())
