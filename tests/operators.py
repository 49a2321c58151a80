"""Where engines run, `torch.library.opcheck` of both operators of one, and what they are called with."""

from contextlib import contextmanager
from itertools import product

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from snn_lnm.engines import form
from snn_lnm.parameters import Dynamics

STEPS = 3
LAWS = [
    form.neuron(Dynamics(charge="map", reset=reset, domain=(-1.5, 1.5)), 2, synapse).text
    for reset, synapse in (("soft_next", False), ("hard", True))  # in the first the state is the kept membrane
]


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
    """Schema, fakes, registration and dispatch; with a synapse and without, for sequences, a held step and one."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape):
        return torch.randn(shape, device=device, generator=generator)

    v, current, d_spikes = random(2, 5), random(2, 5), random(STEPS, 2, 5)
    theta, *numbers, alpha = (torch.tensor(n, device=device) for n in ([0.01, 0.9, 0.02], 0.8, 0.0, 1.0, 0.5))
    scan, backward = (getattr(getattr(torch.ops.snn_lnm, name), engine) for name in ("scan", "scan_backward"))
    without, with_synapse = (LAWS[0], [v], numbers), (LAWS[1], [v, current], [*numbers, alpha])
    inputs = ((0, False), (STEPS, False), (0, True))
    for (law, states, others), (held, single) in product((without, with_synapse), inputs):
        options = (law, 1, 1, held, single)
        x = random(2, 5) if held or single else random(STEPS, 2, 5)
        d = d_spikes[0] if single else d_spikes
        leaves = x.clone().requires_grad_(), states, [theta.clone().requires_grad_(), *others]
        torch.library.opcheck(scan, (*leaves, *options, torch.float32))
        h = scan(x, states, [theta, *others], *options, torch.float32)[1]
        for d_outputs in ([d, None, *[None] * len(states)], [None, d, *states]):
            for need in (True, False):
                needs = [need] * (1 + len(others))
                torch.library.opcheck(backward, (d_outputs, x, states, [theta, *others], h, *options, need, needs))


@contextmanager
def inputs_seen():
    """Yields a list of the inputs that the C++ engine's forward operator gets meanwhile."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.snn_lnm.scan.cpp:
                seen.append(args[0])
            return func(*args, **(kwargs or {}))

    with Watch():
        yield seen
