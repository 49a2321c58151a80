"""`torch.library.opcheck` of both operators of an engine."""

import torch

OPTIONS = (1, False, 0, "map", "hard", "decay", 0, [2.0], [-1.5, 1.5], "line", True, False, False, False)


def check_operators(engine, device):
    """Schema, fake tensors, registration and dispatch, with a synapse and without."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape):
        return torch.randn(shape, device=device, generator=generator)

    x, v, current, d_spikes = random(3, 2, 5), random(2, 5), random(2, 5), random(3, 2, 5)
    theta, *numbers, alpha = (torch.tensor(n, device=device) for n in ([0.01, 0.9, 0.02], 0.8, 0.0, 1.0, 0.5))
    forward, backward = (getattr(getattr(torch.ops.snn_lnm, name), engine) for name in ("forward", "backward"))
    for synapse, state in ((None, None), (alpha, current)):
        leaves = x.clone().requires_grad_(), v, state, theta.clone().requires_grad_(), *numbers, synapse
        torch.library.opcheck(forward, (*leaves, *OPTIONS, torch.float32))
        h = forward(x, v, state, theta, *numbers, synapse, *OPTIONS, torch.float32)[1]
        for d_outputs in ((d_spikes, None, None, None), (None, d_spikes, v, None if state is None else state)):
            for needs in ((True, [True] * 5), (False, [False] * 5)):
                given = (*d_outputs, x, v, state, h, theta, *numbers, synapse, *OPTIONS, *needs)
                torch.library.opcheck(backward, given)
