"""Where engines run, `torch.library.opcheck` of both operators of one, and what they are called with."""

from contextlib import contextmanager
from itertools import product

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from snn_lnm.parameters import Dynamics

STEPS = 3
OPTIONS = ("map", "hard", "decay", 0, [2.0], [-1.5, 1.5], "line", True, False, False, False)


def device_of(backend):
    """Triton's is the GPU; on a machine without one its kernels are interpreted on the CPU."""
    return "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"


def moved(value, device):
    """``value``, a tensor or a tuple that holds tensors, on ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Dynamics) or not isinstance(value, tuple):
        return value
    return type(value)(*(moved(part, device) for part in value))


def check_operators(engine, device):
    """Schema, fake tensors, registration and dispatch; with a synapse and without, for sequences and a held step."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape):
        return torch.randn(shape, device=device, generator=generator)

    v, current, d_spikes = random(2, 5), random(2, 5), random(STEPS, 2, 5)
    theta, *numbers, alpha = (torch.tensor(n, device=device) for n in ([0.01, 0.9, 0.02], 0.8, 0.0, 1.0, 0.5))
    forward, backward = (getattr(getattr(torch.ops.snn_lnm, name), engine) for name in ("forward", "backward"))
    for (synapse, state), held in product(((None, None), (alpha, current)), (0, STEPS)):
        options = (1, False, held, *OPTIONS)
        x = random(2, 5) if held else random(STEPS, 2, 5)
        leaves = x.clone().requires_grad_(), v, state, theta.clone().requires_grad_(), *numbers, synapse
        torch.library.opcheck(forward, (*leaves, *options, torch.float32))
        h = forward(x, v, state, theta, *numbers, synapse, *options, torch.float32)[1]
        for d_outputs in ((d_spikes, None, None, None), (None, d_spikes, v, None if state is None else state)):
            for needs in ((True, [True] * 5), (False, [False] * 5)):
                given = (*d_outputs, x, v, state, h, theta, *numbers, synapse, *options, *needs)
                torch.library.opcheck(backward, given)


@contextmanager
def inputs_seen():
    """Yields a list of the inputs that the C++ engine's forward operator gets meanwhile."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.snn_lnm.forward.cpp:
                seen.append(args[0])
            return func(*args, **(kwargs or {}))

    with Watch():
        yield seen
