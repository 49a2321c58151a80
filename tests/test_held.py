"""An input that is the same at every step (`x.expand`): the bits and gradients of the sequence it stands for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import device_of, inputs_seen, moved
from optional import HAS_TRITON, NO_TRITON
from torch.autograd import forward_ad

from snn_lnm import LNM, Memory, functional
from snn_lnm.engines import form, triton
from snn_lnm.engines.triton import launches
from snn_lnm.held import held, hold
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.testing import identical, problems

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")
T = 5
TRITON = pytest.param("triton", marks=pytest.mark.skipif(not HAS_TRITON, reason=NO_TRITON))
SMALL = [(1, 1), (3, 17), (2, 3, 5)]
SHAPES = {"reference": SMALL, "cpp": [*SMALL, (2, 1100), (2, 2, 16, 16)], "triton": [*SMALL, (1, 257)]}
FEW = settings(max_examples=max(1, settings.default.max_examples // 3))


def sequence_of(x):
    """``x`` at every step, in memory of its own."""
    return torch.stack([x] * T)


def same_gradient(ours, theirs):
    """To the bit, where compilers do not contract the one and the other each in its way."""
    if ours is not None and ours.is_cuda:
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        return True
    return ours is theirs is None or identical(ours, theirs)


def run(problem, x, backend, memory):
    """Outputs, and the gradients of the start, of all numbers, and of ``x``."""
    leaf = x if x.is_leaf else held(x)
    starts, numbers = ([None if v is None else v.clone().requires_grad_() for v in part] for part in problem[1:3])
    words = {"membrane": memory == Memory(), "memory": memory, "backend": backend}
    out = functional.run(x, State(*starts), Parameters(*numbers), problem.dynamics, **words)
    found = [out.spikes, out.membrane, *(value for value in out.state if value is not None)]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(value.shape, generator=generator, dtype=value.dtype).to(x.device) for value in found]
    loss = sum((value * weight).sum() for value, weight in zip(found, weights, strict=True))
    leaves = [v for v in (*starts, *numbers) if v is not None]
    *others, d_x = torch.autograd.grad(loss, [*leaves, leaf], allow_unused=True)
    return found, others, d_x


@pytest.mark.parametrize("backend", ["reference", "cpp", TRITON])
@FEW
@given(
    data=st.data(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    memory=st.sampled_from([Memory(), Memory(recompute=2)]),
)
def test_bits_and_gradients(backend, data, dtype, memory):
    problem = data.draw(problems(shapes=st.sampled_from(SHAPES[backend]), max_degree=3, max_steps=1))

    def cast(kind, values):
        return kind(*(None if value is None else value.to(dtype) for value in values))

    problem = problem._replace(state=cast(State, problem.state), parameters=cast(Parameters, problem.parameters))
    problem = moved(problem, device_of(backend))
    x = problem.x[0].to(dtype)
    ours, our_grads, our_d_x = run(problem, hold(x.clone().requires_grad_(), T), backend, memory)
    theirs, their_grads, d_steps = run(problem, sequence_of(x).requires_grad_(), backend, memory)
    assert all(map(identical, ours, theirs))
    assert all(map(same_gradient, our_grads, their_grads))
    d_x = d_steps.sum(0)
    if backend != "reference" and memory == Memory():  # added up on the way back in time
        d_x = torch.zeros_like(x)
        for d_step in d_steps.flip(0):
            d_x += d_step
    if memory == Memory():
        assert same_gradient(our_d_x, d_x)
    elif d_x.isfinite().all():  # the same T numbers, added up in parts
        assert ((our_d_x - d_x).abs() <= 2 * T * torch.finfo(dtype).eps * d_steps.abs().sum(0)).all()


def test_the_gradient_of_a_large_input_is_written_once():
    """Rows that pass the caches are streamed from a buffer, when the sum is whole."""
    lif = Parameters(torch.tensor([0.0, 0.75]), torch.tensor(1.0), torch.tensor(0.0), torch.tensor(1.0))
    dynamics = Dynamics(charge="map", reset="soft")
    x = (torch.arange(2**20 + 2**14) % 1024 / 512).view(2, -1).requires_grad_()
    steps = sequence_of(x.detach()).requires_grad_()
    for values in (hold(x, T), steps):
        functional.run(values, None, lif, dynamics, backend="cpp").spikes.sum().backward()
    d_x = torch.zeros_like(x)
    for d_step in steps.grad.flip(0):
        d_x += d_step
    assert torch.equal(x.grad, d_x) and d_x.all()


@pytest.mark.parametrize(
    "synapse", [{}, {"alpha": 0.5, "learn_alpha": True, "learn_gain": True}], ids=["none", "learned"]
)
@pytest.mark.parametrize("backend", ["cpp", TRITON])
def test_samples_of_a_batch_hold_inputs_of_their_own(backend, synapse, monkeypatch):
    """Here one program goes through all of them: parameters are per channel."""
    monkeypatch.setattr(launches, "PROGRAMS", 1)
    launches._prepared.cache_clear()
    torch.manual_seed(0)
    x, weights = torch.randn(3, 17, device=device_of(backend)), torch.randn(T, 3, 17, device=device_of(backend))
    layer = LNM.lif(torch.linspace(0.5, 0.9, 17), degree=3, backend=backend, **synapse).to(x.device)
    found = []
    for leaf in (x.clone().requires_grad_(), sequence_of(x).requires_grad_()):
        spikes, _, h = layer(leaf if len(leaf) == T else hold(leaf, T), return_membrane=True)
        found.append((spikes, h, *torch.autograd.grad((spikes * weights).sum(), [*layer.parameters(), leaf])))
    (*ours, our_d_x), (*theirs, d_steps) = found
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1]) and ours[0].any()
    assert all(map(same_gradient, ours[2:], theirs[2:]))
    assert ((our_d_x - d_steps.sum(0)).abs() <= 2 * T * torch.finfo(x.dtype).eps * d_steps.abs().sum(0)).all()


HALVES = [("cpp", torch.bfloat16), ("cpp", torch.float16)]
HALVES.append(pytest.param("triton", torch.float16, marks=TRITON.marks))
if not triton.interpreted():  # which cuts bfloat16 off
    HALVES.append(pytest.param("triton", torch.bfloat16, marks=TRITON.marks))


@pytest.mark.parametrize("backend, dtype", HALVES)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
@settings(max_examples=max(1, settings.default.max_examples // 10))
@given(seed=st.integers(0, 99))
def test_half_precision_and_other_orders_in_memory(backend, dtype, order, seed):
    """Gradients of halves are rounded once, after the sum."""
    x = torch.randn(2, 4, 3, 2, generator=torch.Generator().manual_seed(seed))
    x = x.to(device_of(backend), dtype, memory_format=order)
    layer = LNM.lif(torch.linspace(0.5, 0.9, 4), degree=3, backend=backend).to(x.device)
    one, wide = x.clone().requires_grad_(), x.float().requires_grad_()
    spikes, _ = layer(hold(one, 3))
    expected, _ = layer(hold(wide, 3))
    assert spikes.dtype == dtype and torch.equal(spikes.float(), expected) and expected.any()
    assert spikes[0].stride() == x.stride()
    torch.autograd.backward([spikes.float().sum(), expected.sum()])
    assert same_gradient(one.grad, wide.grad.to(dtype))


def test_an_input_without_gradient_needs_no_mark():
    """The operator gets the one step itself."""
    image, layer = torch.randn(3, 4), LNM(degree=3, backend="cpp")
    with inputs_seen() as seen:
        spikes, _ = layer(image.expand(T, 3, 4))
    assert seen[0].shape == image.shape and seen[0].data_ptr() == image.data_ptr()
    assert torch.equal(spikes, layer(sequence_of(image))[0]) and spikes.any()


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_every_step_of_a_leaf_has_its_own_gradient(backend):
    leaf = torch.randn(3, 4).expand(T, 3, 4).requires_grad_()
    assert held(leaf) is None
    layer, weight = LNM(degree=3, backend=backend), torch.rand(T, 1, 1)
    (d_x,) = torch.autograd.grad((layer(leaf)[0] * weight).sum(), leaf)
    (expected,) = torch.autograd.grad((layer(own := leaf.detach().clone().requires_grad_())[0] * weight).sum(), own)
    assert torch.equal(d_x, expected) and not torch.equal(d_x[0], d_x[1])


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_what_may_differ_from_step_to_step_is_not_held():
    image = torch.randn(3, 4)
    assert held(image.expand(T, 3, 4)).data_ptr() == image.data_ptr()
    for other in (image.expand(1, 3, 4), image.repeat(T, 1, 1), torch.ones(()), image.expand(T, 3, 4).to_sparse()):
        assert held(other) is None
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="single memory location"):
        forward_ad.make_dual(image.expand(T, 3, 4), torch.randn(T, 3, 4))  # so no tangent differs from step to step
    asked = []
    torch.func.grad(lambda x: asked.append(held(x)) or x.sum())(image.expand(T, 3, 4))
    assert asked == [None]


@pytest.mark.parametrize("held_for, single_step", [(-1, False), (3, True)])
def test_the_operator_refuses_what_makes_no_sense(held_for, single_step):
    numbers = [torch.tensor(n) for n in ([0.0, 0.9], 1.0, 0.0, 1.0)]
    text = form.neuron(Dynamics(charge="map", domain=None), 1, False).text
    with pytest.raises(ValueError, match=f"steps must be a number of steps, 0 for a single one, got {held_for}"):
        torch.ops.snn_lnm.scan.cpp(
            torch.ones(2, 3), [torch.zeros(2, 3)], numbers, text, 1, 1, held_for, single_step, None
        )
