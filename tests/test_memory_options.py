"""`Memory`: every K-th state, or half the bytes of the membrane; what is kept, and what it changes."""

import gc
import math
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import device_of, moved
from optional import HAS_TRITON, NO_TRITON
from torch.utils._python_dispatch import TorchDispatchMode

import snn_lnm
from snn_lnm import LNM, Memory, functional, surrogate
from snn_lnm.checks import align
from snn_lnm.engines import cpp
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.testing import identical, problems

MIB = 1 << 20
# The interpreter computes with numpy, which warns of the infinities and NaNs that the law carries on.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")
fewer = settings(max_examples=max(1, settings.default.max_examples // 6))  # Triton's interpreter is slow


def outputs_and_gradients(problem, backend, **options):
    leaves = [
        None if v is None else v.clone().requires_grad_() for v in (problem.x, *problem.state, *problem.parameters)
    ]
    x, v, current, *numbers = leaves
    words = {"backend": backend, "membrane": False, **options}
    out = functional.run(x, State(v, current), Parameters(*numbers), problem.dynamics, **words)
    values = [value for value in (out.spikes, *out.state) if value is not None]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randint(-4, 5, value.shape, generator=generator).to(value.dtype) / 4 for value in values]
    weights = [weight.to(value.device) for weight, value in zip(weights, values, strict=True)]
    loss = sum((value * weight).sum() for value, weight in zip(values, weights, strict=True))
    given_ = [leaf for leaf in leaves if leaf is not None]
    found = torch.autograd.grad(loss, given_, allow_unused=True)
    return values, [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(given_, found, strict=True)]


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@given(problem=problems(max_steps=9), every=st.integers(1, 10))
def test_same_bits(backend, problem, every):
    plain, _ = outputs_and_gradients(problem, backend)
    ours, _ = outputs_and_gradients(problem, backend, memory=Memory(recompute=every))
    assert all(identical(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@given(st.data())
def test_same_gradients_to_the_bit_where_arithmetic_is_exact(backend, data):
    """Two steps on few dyadic numbers, of which one is computed again: no operation rounds."""
    exact = {"surrogate": surrogate.Rectangle(2.0), "domain": st.sampled_from([None, (-1.5, 1.5)])}
    problem = data.draw(problems(max_steps=2, max_degree=1, dyadic=True, **exact))
    _, plain = outputs_and_gradients(problem, backend)
    _, ours = outputs_and_gradients(problem, backend, memory=Memory(recompute=1))
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def layer(**options):
    numbers = Parameters(*map(torch.tensor, ([0.0, 0.9, 0.01], 1.0, 0.0, 1.0)))
    dynamics = Dynamics(charge="map", reset="soft", domain=(-1.5, 1.5))
    return lambda x: functional.run(x, None, numbers, dynamics, backend="cpp", membrane=False, **options)


def tensors_alive():
    """All that Python holds, among them the arguments of what is to be computed again."""
    return {id(t): t for t in gc.get_objects() if type(t) is torch.Tensor}


def test_what_is_kept():
    """12 steps of 2 MiB: all membranes; or the states after 4 and 8 steps (all start at a zero that is kept anyway)."""
    x, plain, recomputing = torch.randn(12, 512, 1024).requires_grad_(), layer(), layer(memory=Memory(recompute=4))
    cpp.empty_cache()
    out = plain(x)
    assert cpp.memory()[0] == out.spikes.nbytes + x.nbytes
    del out
    before = tensors_alive()
    out = recomputing(x)
    assert cpp.memory()[0] == 0  # no membrane (the spikes are joined in a tensor of PyTorch's own)
    storages = [t.untyped_storage() for key, t in tensors_alive().items() if key not in before]
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.data_ptr() != x.data_ptr()}
    assert sum(kept.values()) == out.spikes.nbytes + out.state.v.nbytes + 2 * 2 * MIB


class Calls(TorchDispatchMode):
    """Counts the fused forward's calls."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.snn_lnm.scan.cpp
        return func(*args, **(kwargs or {}))


def test_one_more_forward_and_none_without_gradients():
    x = torch.randn(10, 3, 4).requires_grad_()
    with Calls() as calls:
        loss = layer(memory=Memory(recompute=4))(x).spikes.sum()
        assert calls.count == 3
        loss.backward()
    assert calls.count == 6
    with Calls() as calls, torch.no_grad():
        layer(memory=Memory(recompute=4))(x)
    assert calls.count == 1


def test_the_membrane_asked_for_is_kept_anyway():
    x = torch.randn(10, 3, 4).requires_grad_()
    spikes, _, membrane = LNM(memory=Memory(recompute=2))(x, return_membrane=True)
    law, _, h = LNM()(x, return_membrane=True)
    assert torch.equal(spikes, law) and torch.equal(membrane, h)


def norse_model():
    return torch.nn.Sequential(pytest.importorskip("norse.torch").LIF())


def spikingjelly_model():
    return torch.nn.Sequential(pytest.importorskip("spikingjelly.activation_based.neuron").LIFNode(step_mode="m"))


def fused_snntorch_model():
    return torch.nn.Sequential(pytest.importorskip("snntorch").Leaky(beta=0.9, init_hidden=True))


@pytest.mark.parametrize("build", [norse_model, spikingjelly_model, fused_snntorch_model])
def test_swap_passes_it_on(build):
    models = build(), build()
    for model, every in zip(models, (None, 4), strict=True):
        snn_lnm.swap(model, backend="cpp", memory=Memory(recompute=every))
    if build is fused_snntorch_model:
        models = [snn_lnm.fuse_time(model) for model in models]
    results = []
    for model, calls in zip(models, (1, 3), strict=True):
        x = (3 * torch.randn(10, 2, 5, generator=torch.Generator().manual_seed(0))).requires_grad_()
        with Calls() as counted:
            spikes = model(x)
        spikes = spikes[0] if isinstance(spikes, tuple) else spikes
        assert counted.count == calls
        (spikes * torch.arange(spikes.numel()).view_as(spikes)).sum().backward()
        results.append([spikes, x.grad])
    assert spikes.any() and torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
def test_one_graph(dynamic):
    neuron = LNM.lif(degree=3, backend="cpp", memory=Memory(recompute=4))
    compiled = torch.compile(neuron, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for steps, batch in ((10, 3), (11, 5)):
        x = torch.randn(steps, batch, 4).requires_grad_()
        (law,) = torch.autograd.grad(neuron(x)[0].sum(), x)
        (ours,) = torch.autograd.grad(compiled(x)[0].sum(), x)
        assert torch.equal(ours, law)


# ---- bfloat16

HALF = Memory(dtype=torch.bfloat16)
ENGINES = ["cpp", pytest.param("triton", marks=pytest.mark.skipif(not HAS_TRITON, reason=NO_TRITON))]


@contextmanager
def kept_tensors(comes_back=lambda value: value):
    """Yields a list of what is kept for the backward pass meanwhile, the membrane last, and gives it ``comes_back``."""
    kept = []

    def keep(value):
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, comes_back):
        yield kept


def center_of(threshold):
    return torch.where(threshold.abs() <= 100, threshold, 0)


def same_side(h, threshold, fire_at_threshold):
    """The nearest distance from the center in bfloat16, or the next if that leads across the threshold."""
    center = center_of(threshold)

    def fires(value):
        return value >= threshold if fire_at_threshold else value > threshold

    nearest = (h - center).bfloat16()
    up, down = (torch.nextafter(nearest, torch.full_like(nearest, end)) for end in (torch.inf, -torch.inf))
    return torch.where(fires(nearest.float() + center) == fires(h), nearest, torch.where(fires(h), up, down))


@pytest.mark.parametrize("at", [False, True])
@pytest.mark.parametrize("threshold", [1.0, -0.7, 0.0, 0.3, 100.0, 150.0, -1e5, math.inf])
@pytest.mark.parametrize("backend", ENGINES)
def test_kept_to_nearest_and_on_its_side_of_the_threshold(backend, threshold, at):
    middle = threshold if math.isfinite(threshold) else 1.0
    near = middle * (1 + torch.linspace(-1, 1, 400) * 2.0 ** -torch.arange(4, 24).repeat_interleave(20))
    wild = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 3.3e38, -3.3e38, threshold]
    odd = torch.tensor([0x7F800001, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)  # NaNs that carry
    h = torch.cat([near, torch.tensor(wild), odd, torch.randn(87)]).view(1, 4, 125).requires_grad_()
    words = {"charge": "map", "reset": "none", "threshold": threshold, "fire_at_threshold": at, "memory": HALF}
    x, zero = (moved(value, device_of(backend)) for value in (h, torch.zeros(1)))
    with kept_tensors() as tensors:
        functional.lnm(x, zero, backend=backend, **words)  # f = 0: the membrane is the input
    kept, theta = tensors[-1].cpu(), torch.tensor(threshold)
    expected = same_side(h.detach(), theta, at)
    assert kept.dtype == torch.bfloat16 and identical(kept, expected)
    fires = torch.ge if at else torch.gt
    found = kept.float() + center_of(theta)
    assert torch.equal(fires(found, theta), fires(h, theta))  # what the backward pass will see
    if middle in (150.0, -1e5):
        assert (expected != (h.detach() - center_of(theta)).bfloat16()).any()  # plain rounding would cross


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ENGINES)
@fewer
@given(st.data())
def test_spikes_and_states_keep_their_bits(backend, dtype, data):
    problem = data.draw(problems(dtype=torch.float32))
    problem = moved(problem._replace(x=problem.x.to(dtype)), device_of(backend))
    plain, _ = outputs_and_gradients(problem, backend)
    ours, _ = outputs_and_gradients(problem, backend, memory=HALF)
    assert all(identical(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("backend", ENGINES)
@fewer
@given(st.data())
def test_gradients_are_those_at_the_kept_membrane(backend, data):
    """The backward pass on the kept distances, and on the membranes they stand for, in float32."""
    problem, halves = moved(data.draw(problems(dtype=torch.float32)), device_of(backend)), []
    center = center_of(align("threshold", problem.parameters.threshold, problem.x.shape[1:]))

    def widened(value):
        if value.dtype != torch.bfloat16:
            return value
        halves.append(value)
        return value.float() + center

    _, at_kept = outputs_and_gradients(problem, backend, memory=HALF)
    with kept_tensors(widened):
        _, at_full = outputs_and_gradients(problem, backend, memory=HALF)
    assert halves and all(identical(a, b) for a, b in zip(at_kept, at_full, strict=True))


def test_half_the_bytes_are_kept():
    x, run = torch.randn(12, 512, 1024).requires_grad_(), layer(memory=HALF)
    cpp.empty_cache()
    out = run(x)
    assert cpp.memory()[0] == out.spikes.nbytes + x.nbytes // 2
    out.spikes.sum().backward()
    assert x.grad is not None and x.grad.any()


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("memory", [Memory(), HALF, Memory(recompute=2)], ids=str)
@pytest.mark.parametrize("grad", [True, False])
def test_a_membrane_nobody_asks_for_is_empty(memory, backend, grad):
    x = torch.randn(4, 2, 3)
    numbers, dynamics = Parameters(*map(torch.tensor, ([0.0, 0.9], 1.0, 0.0, 1.0))), Dynamics("map", "none")
    with torch.set_grad_enabled(grad):
        out = functional.run(x, None, numbers, dynamics, membrane=False, backend=backend, memory=memory)
    assert out.membrane.shape == (0,) and out.membrane.dtype == torch.float32


def test_one_step_is_kept_as_without_options():
    """Its membrane is the next state, and held anyway."""
    x, numbers = torch.randn(2, 3).requires_grad_(), Parameters(*map(torch.tensor, ([0.0, 0.9], 1.0, 0.0, 1.0)))
    words = {"membrane": False, "single_step": True, "backend": "cpp", "memory": HALF}
    with kept_tensors() as tensors:
        out = functional.run(x, None, numbers, Dynamics("map", "none"), **words)
    assert tensors[-1].data_ptr() == out.state.v.data_ptr()


SPIKES = [surrogate.ATan(), surrogate.FastSigmoid(25.0), surrogate.Sigmoid(10.0), surrogate.SuperSpike(100.0)]


@pytest.mark.parametrize("spike", SPIKES, ids=str)
@pytest.mark.parametrize("reset", ["hard", "soft", "none", "hard_next", "soft_next"])
def test_gradients_stay_close(spike, reset):
    """Smooth surrogates, steep ones too: cubic neurons that fire; in norm, and to the unit of the rounding, 2^-9.

    (A piecewise constant one jumps at the edges of its window, wherever the membrane is rounded.)
    """
    neuron = LNM.lif(0.9, degree=3, reset=reset, surrogate=spike, backend="cpp")
    x, d = torch.randn(50, 8, 64).requires_grad_(), torch.rand(50, 8, 64)  # one sign: few terms cancel
    found = []
    for memory in (Memory(), HALF):
        neuron.memory = memory
        found.append(torch.autograd.grad(neuron(x)[0], [x, neuron.coefficients], d))
    for full, half in zip(*found, strict=True):
        assert not torch.equal(full, half)
        assert (full - half).norm() < 2.0**-9 * full.norm()


def test_float64_is_not_halved():
    with pytest.raises(ValueError, match="arithmetic is float32, got"):
        functional.lnm(torch.randn(3, 1, 1).double(), torch.zeros(2).double(), memory=HALF)


# ---- recompute, in company


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("which", ["coefficients", "threshold", "state"])
def test_a_change_in_place_before_the_backward_pass_is_seen(which, backend):
    neuron = LNM(degree=2, memory=Memory(recompute=4), backend=backend, learn_threshold=True)
    start = State(torch.randn(4, 8).requires_grad_().clone())
    spikes, _ = neuron(torch.randn(12, 4, 8).requires_grad_(), start)
    with torch.no_grad():
        (start.v if which == "state" else getattr(neuron, which)).add_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spikes.sum().backward()


def test_a_surrogate_that_draws_draws_the_same_again():
    def noisy(u):
        return surrogate.ATan()(u + torch.randn_like(u))

    x, found = torch.randn(9, 2, 3).requires_grad_(), []
    for memory in (Memory(), Memory(recompute=4)):
        torch.manual_seed(1)
        spikes, _ = LNM(surrogate=noisy, memory=memory, detach_reset=False)(x)
        found.append(torch.autograd.grad(spikes.sum(), x)[0])
    assert torch.equal(*found)


def test_under_transforms_and_export_there_is_nothing_to_recompute():
    neuron, x = LNM(memory=Memory(recompute=4)), torch.randn(9, 2, 3)
    (law,) = torch.autograd.grad(LNM()(x.requires_grad_())[0].sum(), x)
    torch.testing.assert_close(torch.func.grad(lambda x: neuron(x)[0].sum())(x.detach()), law)
    if hasattr(torch.compiler, "is_exporting"):  # torch 2.7
        program = torch.export.export(neuron, (x.detach(),), strict=True)
        assert torch.equal(program.module()(x.detach())[0], neuron(x)[0])


# ---- bad input


@pytest.mark.parametrize("wrong, kind", [(None, TypeError), ({"recompute": 2}, TypeError), (4, TypeError)])
def test_not_a_memory(wrong, kind):
    with pytest.raises(kind, match="memory must be a"):
        LNM(memory=wrong)


def test_a_dtype_in_the_wrong_place():
    with pytest.raises(TypeError, match=r"write Memory\(dtype=...\)"):
        LNM(memory=Memory(torch.bfloat16))


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"must be torch\.bfloat16 or None"):
        LNM(memory=Memory(dtype=torch.float16))


@pytest.mark.parametrize("every, kind", [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)])
def test_bad_numbers_of_steps(every, kind):
    x, model = torch.randn(4, 2, 3), torch.nn.Sequential(torch.nn.Identity())
    for call in (
        lambda: LNM(memory=Memory(recompute=every)),
        lambda: layer(memory=Memory(recompute=every))(x),
        lambda: functional.lnm(x, torch.tensor([0.0, 1.0]), memory=Memory(recompute=every)),
        lambda: snn_lnm.swap(model, memory=Memory(recompute=every)),
    ):
        with pytest.raises(kind, match="recompute must be"):
            call()


def test_it_is_shown():
    assert "memory" not in repr(LNM()) and "recompute=4" in repr(LNM(memory=Memory(recompute=4)))


def test_without_the_membrane():
    out = functional.lnm(torch.randn(4, 2, 3), torch.tensor([0.0, 0.9]), charge="map", memory=Memory(recompute=2))
    assert out.membrane.numel() == 0 and out.spikes.shape == (4, 2, 3)
