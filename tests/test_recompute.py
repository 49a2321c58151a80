"""`recompute=K`: the same numbers from every K-th state and the input."""

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import snn_lnm
from snn_lnm import LNM, functional, surrogate
from snn_lnm.engines import cpp
from snn_lnm.parameters import Dynamics, Parameters, State
from snn_lnm.testing import identical, problems

MIB = 1 << 20


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
    loss = sum((value * weight).sum() for value, weight in zip(values, weights, strict=True))
    given_ = [leaf for leaf in leaves if leaf is not None]
    found = torch.autograd.grad(loss, given_, allow_unused=True)
    return values, [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(given_, found, strict=True)]


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@given(problem=problems(max_steps=9), every=st.integers(1, 10))
def test_same_bits(backend, problem, every):
    plain, _ = outputs_and_gradients(problem, backend)
    ours, _ = outputs_and_gradients(problem, backend, recompute=every)
    assert all(identical(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@given(st.data())
def test_same_gradients_to_the_bit_where_arithmetic_is_exact(backend, data):
    """Two steps on few dyadic numbers, of which one is computed again: no operation rounds."""
    exact = {"surrogate": surrogate.Rectangle(2.0), "domain": st.sampled_from([None, (-1.5, 1.5)])}
    problem = data.draw(problems(max_steps=2, max_degree=1, dyadic=True, **exact))
    _, plain = outputs_and_gradients(problem, backend)
    _, ours = outputs_and_gradients(problem, backend, recompute=1)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def layer(**options):
    numbers = Parameters(*map(torch.tensor, ([0.0, 0.9, 0.01], 1.0, 0.0, 1.0)))
    dynamics = Dynamics(charge="map", reset="soft", domain=(-1.5, 1.5))
    return lambda x: functional.run(x, None, numbers, dynamics, backend="cpp", membrane=False, **options)


def alive():
    """Storages of the tensors that Python holds, among them the arguments of what is to be computed again."""
    storages = [t.untyped_storage() for t in gc.get_objects() if type(t) is torch.Tensor]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def test_what_is_kept():
    """12 steps of 2 MiB: all membranes; or the states at the start and after 4 and 8 steps."""
    x, plain, recomputing = torch.randn(12, 512, 1024).requires_grad_(), layer(), layer(recompute=4)
    cpp.empty_cache()
    out = plain(x)
    assert cpp.memory()[0] == out.spikes.nbytes + x.nbytes
    del out
    before = alive()
    out = recomputing(x)
    assert cpp.memory()[0] == 0  # no membrane (the spikes are joined in a tensor of PyTorch's own)
    kept = sum(size for pointer, size in alive().items() if pointer not in before)
    assert kept == out.spikes.nbytes + out.state.v.nbytes + 3 * 2 * MIB


class Calls(TorchDispatchMode):
    """Counts the fused forward's calls."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.snn_lnm.forward.cpp
        return func(*args, **(kwargs or {}))


def test_one_more_forward_and_none_without_gradients():
    x = torch.randn(10, 3, 4).requires_grad_()
    with Calls() as calls:
        loss = layer(recompute=4)(x).spikes.sum()
        assert calls.count == 3
        loss.backward()
    assert calls.count == 6
    with Calls() as calls, torch.no_grad():
        layer(recompute=4)(x)
    assert calls.count == 1


def test_the_membrane_asked_for_is_kept_anyway():
    x = torch.randn(10, 3, 4).requires_grad_()
    spikes, _, membrane = LNM(recompute=2)(x, return_membrane=True)
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
        snn_lnm.swap(model, backend="cpp", recompute=every)
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


def test_one_graph():
    neuron, x = LNM.lif(degree=3, backend="cpp", recompute=4), torch.randn(10, 3, 4).requires_grad_()
    compiled = torch.compile(neuron, fullgraph=True, backend="aot_eager")
    (law,) = torch.autograd.grad(neuron(x)[0].sum(), x)
    (ours,) = torch.autograd.grad(compiled(x)[0].sum(), x)
    assert torch.equal(ours, law)


@pytest.mark.parametrize("every, kind", [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)])
def test_bad_numbers_of_steps(every, kind):
    x, model = torch.randn(4, 2, 3), torch.nn.Sequential(torch.nn.Identity())
    for call in (
        lambda: LNM(recompute=every),
        lambda: layer(recompute=every)(x),
        lambda: functional.lnm(x, torch.tensor([0.0, 1.0]), recompute=every),
        lambda: snn_lnm.swap(model, recompute=every),
    ):
        with pytest.raises(kind, match="recompute must be"):
            call()


def test_without_the_membrane():
    out = functional.lnm(torch.randn(4, 2, 3), torch.tensor([0.0, 0.9]), charge="map", recompute=2)
    assert out.membrane.numel() == 0 and out.spikes.shape == (4, 2, 3)
