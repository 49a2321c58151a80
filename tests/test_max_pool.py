"""`max_pool2d` of the C++ engine has PyTorch's bits, and leaves everything that it does not know to PyTorch."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from snn_lnm.engines import cpp
from snn_lnm.fuse.max_pool import max_pool2d

cpp.load()
WORDS = {torch.float32: torch.int32, torch.float64: torch.int64}


class Calls(TorchDispatchMode):
    """Counts calls of the engine's operators."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))

    @property
    def pooled(self):
        return self.names.count("snn_lnm::max_pool")


def same(a, b):
    """To the bit, signs of zeros and NaN included, and in the same order in memory."""
    dense = [value for value, size in enumerate(a.shape) if size > 1]
    strides = [[value.stride(i) for i in dense] for value in (a, b)]
    return a.shape == b.shape and strides[0] == strides[1] and torch.equal(*(words(v) for v in (a, b)))


def words(value):
    return value.detach().contiguous().view(WORDS[value.dtype])


VALUES = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0, torch.inf, -torch.inf, torch.nan])


@st.composite
def inputs(draw, finite=False):
    """Few different values, so that windows hold equal ones, zeros of both signs and several NaN."""
    shape = [draw(st.integers(*sizes)) for sizes in ((0, 3), (1, 19), (2, 9), (2, 70))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    values = VALUES[: 5 if finite else None].to(draw(st.sampled_from(list(WORDS))))
    x = values[torch.randint(len(values), shape, generator=generator)]
    return x.contiguous(memory_format=draw(st.sampled_from([torch.contiguous_format, torch.channels_last])))


@given(inputs())
def test_outputs_and_gradients_have_pytorch_s_bits(x):
    x.requires_grad_()
    with Calls() as calls:
        got = max_pool2d(x, 2)
    assert calls.pooled == 1
    expected = F.max_pool2d(x, 2)
    assert same(got, expected)
    d = VALUES.to(x.dtype)[torch.randint(len(VALUES), got.shape)]
    assert same(*(torch.autograd.grad(out, x, d)[0] for out in (got, expected)))


@given(inputs(finite=True))
def test_second_derivatives_are_pytorch_s(x):
    x.requires_grad_()

    def second(pool):
        (first,) = torch.autograd.grad(pool(x.square(), 2).square().sum(), x, create_graph=True)
        return torch.autograd.grad((first * torch.arange(first.numel()).view(first.shape)).sum(), x)[0]

    assert torch.equal(second(max_pool2d), second(F.max_pool2d))


def test_large_tensors_are_shared_among_threads():
    for shape in ((9, 8, 130, 131), (2, 1, 2, 5000)):
        for format in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape).contiguous(memory_format=format).requires_grad_()
            outs = [pool(x, 2) for pool in (max_pool2d, F.max_pool2d)]
            assert same(*outs)
            d = torch.randn_like(outs[0])
            assert same(*(torch.autograd.grad(out, x, d)[0] for out in outs))


USUAL = [((2,), {}), ((2, 2), {}), (((2, 2),), {"stride": (2, 2)}), ((2,), {"padding": 0, "dilation": (1, 1)})]


@pytest.mark.parametrize(("args", "kwargs"), USUAL)
def test_every_way_to_ask_for_windows_of_two_by_two(args, kwargs):
    x = torch.randn(2, 3, 5, 6)
    with Calls() as calls:
        assert same(max_pool2d(x, *args, **kwargs), F.max_pool2d(x, *args, **kwargs))
    assert calls.pooled == 1


X = torch.randn(2, 3, 6, 8)
OTHERS = {
    "kernel": (X, {"kernel_size": 3}),
    "one long side": (X, {"kernel_size": (2, 3)}),
    "stride": (X, {"kernel_size": 2, "stride": 1}),
    "padding": (X, {"kernel_size": 2, "padding": 1}),
    "dilation": (X, {"kernel_size": 2, "dilation": 2}),
    "ceil_mode": (X[..., :5].contiguous(), {"kernel_size": 2, "ceil_mode": True}),
    "no batch": (X[0], {"kernel_size": 2}),
    "not dense": (X[..., ::2], {"kernel_size": 2}),
    "bfloat16": (X.bfloat16(), {"kernel_size": 2}),
    "a subclass": (nn.Parameter(X), {"kernel_size": 2}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_rest_is_pytorch_s(case):
    x, options = OTHERS[case]
    with Calls() as calls:
        got = max_pool2d(x, **options)
    assert calls.pooled == 0
    assert torch.equal(got, F.max_pool2d(x, **options))


def test_indices_are_pytorch_s():
    for got, expected in zip(
        max_pool2d(X, 2, return_indices=True), F.max_pool2d(X, 2, return_indices=True), strict=True
    ):
        assert torch.equal(got, expected)


# PyTorch's own pooling in forward mode compiles with TorchScript.
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_transformations_get_operators_that_they_know():
    with Calls() as calls:
        assert torch.equal(torch.vmap(lambda x: max_pool2d(x, 2))(X[None]), F.max_pool2d(X, 2)[None])
        gradients = [torch.func.grad(lambda x, pool=pool: pool(x, 2).sum())(X) for pool in (max_pool2d, F.max_pool2d)]
        assert torch.equal(*gradients)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(X, torch.ones_like(X))
            assert forward_ad.unpack_dual(max_pool2d(dual, 2)).tangent is not None
    assert calls.pooled == 0


def test_bad_arguments_are_errors_of_pytorch():
    with pytest.raises(RuntimeError, match="stride should not be zero"):
        max_pool2d(X, 2, 0)
    with pytest.raises(RuntimeError, match="Output size is too small"):
        max_pool2d(X[..., :1], 2)


def test_it_keeps_one_byte_per_window():
    kept = []
    x = X.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value.nbytes), lambda value: value):
        out = max_pool2d(x, 2)
    assert kept == [out.numel()]


# opcheck itself reads .grad of a non-leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_opcheck(format):
    x = torch.randn(2, 3, 5, 6).contiguous(memory_format=format)
    out, places = torch.ops.snn_lnm.max_pool(x)
    torch.library.opcheck(torch.ops.snn_lnm.max_pool, (x,))
    torch.library.opcheck(torch.ops.snn_lnm.max_pool_backward, (out, places, x.shape, format == torch.channels_last))


def test_operators_called_wrongly():
    out, places = torch.ops.snn_lnm.max_pool(X)
    with pytest.raises(ValueError, match=r"takes \[N, C, H, W\] with H and W of at least 2, got \[3, 6, 8\]"):
        torch.ops.snn_lnm.max_pool(X[0])
    with pytest.raises(RuntimeError, match="\"max_pool\" not implemented for 'Half'"):
        torch.ops.snn_lnm.max_pool(X.half())
    with pytest.raises(ValueError, match=r"a gradient of \[2, 3, 3, 4\] and places of \[2, 3, 3, 4\] for an input of"):
        torch.ops.snn_lnm.max_pool_backward(out, places, (2, 3, 8, 8), False)
