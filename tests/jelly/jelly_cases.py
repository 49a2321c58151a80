"""Hypothesis strategies and helpers: the host's nodes, what replaces them, and how far gradients may differ."""

import copy
from typing import Any, NamedTuple

import rotation
import torch
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

import snn_lnm

STEP = (2, 3, 4)


def plain_function(u):
    """A user's surrogate that is no module."""
    return surrogate.erf.apply(u, 1.5)


SURROGATES = [
    surrogate.Sigmoid(),
    surrogate.Sigmoid(alpha=1.5),
    surrogate.ATan(),
    surrogate.ATan(alpha=0.7),
    surrogate.PiecewiseQuadratic(alpha=0.3),
    surrogate.Rect(alpha=0.7),
    surrogate.SoftSign(),
    surrogate.SuperSpike(),
    surrogate.SuperSpike(alpha=3.0),  # the rest run as callables
    surrogate.SoftSign(alpha=3.0),
    surrogate.Erf(),
    surrogate.PiecewiseExp(),
    surrogate.LeakyKReLU(),
    plain_function,
]


class Case(NamedTuple):
    native: Any
    dtype: torch.dtype
    x: torch.Tensor
    """`[2, T, *STEP]`: two sequences, the second of which continues the first."""
    degree: int


def swapped(native, degree=3, **options):
    """What `swap` makes of a copy of ``native``."""
    net = nn.Sequential(copy.deepcopy(native))
    report = snn_lnm.swap(net, degree=degree, **options)
    assert not report.skipped, str(report)
    return net[0]


@st.composite
def cases(draw, kinds=(neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode), **fixed):
    """A native node with any options and numbers, and inputs at which some of its neurons fire."""
    kind = draw(st.sampled_from(kinds))
    threshold = draw(st.floats(0.05, 3))
    options = {
        "v_threshold": threshold,
        "v_reset": draw(st.none() | st.floats(-1.5, 0.9).map(lambda ratio: ratio * threshold)),
        "detach_reset": draw(st.booleans()),
        "surrogate_function": draw(st.sampled_from(SURROGATES)),
        "step_mode": draw(st.sampled_from("sm")),
        "store_v_seq": draw(st.booleans()),
    }
    tau = draw(st.floats(1.01, 5) | st.sampled_from([2.0, 4.0]))
    if kind is not neuron.IFNode:
        options["decay_input"] = draw(st.booleans())
        options["init_tau" if kind is neuron.ParametricLIFNode else "tau"] = tau
    options.update(fixed)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn((2, 4, *STEP), generator=generator, dtype=dtype) * 2 * threshold
    return Case(
        kind(**options),
        dtype,
        x * tau if options.get("decay_input") else x,
        draw(st.sampled_from(rotation.some(range(1, 6), 2))),
    )


def run(node, x):
    """Spikes of one sequence, in whichever step mode, and every membrane the node keeps."""
    spikes = node(x) if node.step_mode == "m" else torch.stack([node(x_t) for x_t in x])
    return [spikes, node.v, *([node.v_seq] if node.store_v_seq else [])]


def dyadic(generator, *shape):
    """Small multiples of 1/4: no arithmetic on them rounds in float64."""
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 4).round() / 4


def gradients(node, x, v, seed):
    """Of a scalar that depends on every spike and membrane: by the input, the initial membrane, and ``w``."""
    x, v = x.clone().requires_grad_(), v.clone().requires_grad_()
    node.v = v
    generator = torch.Generator().manual_seed(seed)
    total = sum((out * dyadic(generator, *out.shape).to(x.dtype)).sum() for out in run(node, x))
    leaves = [x, v, *([] if getattr(node, "w", None) is None else [node.w])]
    return torch.autograd.grad(total, leaves, allow_unused=True)
