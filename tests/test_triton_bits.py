"""The Triton engine gives the reference's bits, in every option of the law."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from triton_cases import DEVICE, SHAPES, fewer, on_device, poisoned, programs

from snn_lnm import functional
from snn_lnm.engines.triton.geometry import plan
from snn_lnm.parameters import State
from snn_lnm.surrogate import ATan
from snn_lnm.testing import problems

# The interpreter computes with numpy, which warns of the infinities and NaNs that the law carries on.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")


def outputs(problem, backend, **options):
    out = functional.run(*problem, backend=backend, **options)
    return [out.spikes, out.membrane, *(value for value in out.state if value is not None)]


def same(ours, law):
    return ours.dtype == law.dtype and torch.equal(ours.nan_to_num(nan=7), law.nan_to_num(nan=7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@fewer
@given(st.data())
def test_same_bits(dtype, data):
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    problem = on_device(data.draw(problems(dtype=arithmetic, shapes=SHAPES, max_steps=4)))
    problem = problem._replace(x=problem.x.to(dtype))
    with poisoned(), programs(data.draw(st.sampled_from([1, 3, 1024]))):
        found = outputs(problem, "triton")
    assert all(map(same, found, outputs(problem, "reference")))


@fewer
@given(problems(dtype=torch.float32, shapes=SHAPES, max_steps=1))
def test_same_bits_of_a_single_step(problem):
    problem = on_device(problem)
    problem = problem._replace(x=problem.x[0])
    with poisoned():
        found = outputs(problem, "triton", single_step=True)
    assert all(map(same, found, outputs(problem, "reference", single_step=True)))


@fewer
@given(problems(dtype=torch.float32, shapes=SHAPES, max_steps=4))
def test_spikes_alone_are_the_same(problem):
    """Inference keeps no membrane."""
    problem = on_device(problem)
    with torch.no_grad():
        alone = functional.run(*problem, backend="triton", membrane=False)
    assert alone.membrane.numel() == 0
    assert same(alone.spikes, outputs(problem, "reference")[0])


def finite_smooth(problem):
    """Smooth mode, where the surrogate's primitive is arithmetic that Triton has."""
    return not isinstance(problem.dynamics.surrogate, ATan)


@fewer
@given(problems(shapes=SHAPES, max_steps=3, smooth=True).filter(finite_smooth))
def test_smooth_mode_agrees(problem):
    """A primitive's exponential may differ in its last bit, and the membrane carries that on."""
    problem = on_device(problem)
    ours, law = outputs(problem, "triton"), outputs(problem, "reference")
    for mine, true in zip(ours, law, strict=True):
        assert torch.allclose(mine, true, rtol=1e-11, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("inner, groups", [(1, 1), (1, 40), (49, 3), (256, 2), (1056, 3), (5, 100)])
@pytest.mark.parametrize("repeats", [1, 2, 65])
@pytest.mark.parametrize("most", [1, 7, 1024])
def test_every_neuron_belongs_to_one_program(inner, groups, repeats, most):
    neurons = inner * groups * repeats
    p = plan(3, neurons, inner, groups, 4, most)
    owners = torch.zeros(neurons, dtype=torch.int64)
    for program in range(p.programs):
        block, chunk = program % (p.rows * p.row_blocks), program // (p.rows * p.row_blocks)
        row, within = block // p.row_blocks, block % p.row_blocks * p.block
        first, last = row * p.span + within, row * p.span + min(p.span, within + p.block)
        for r in range(chunk * p.block_repeats, min((chunk + 1) * p.block_repeats, p.repeats)):
            owners[r * p.period + first : r * p.period + last] += 1
            if p.shared:
                assert first // p.inner % groups == (last - 1) // p.inner % groups or groups == 1
    assert owners.eq(1).all()
    assert all(size * p.align == full for size, full in zip(p.sizes[1:4], p[1:4], strict=True))


def test_addresses_beyond_two_to_the_31():
    """Lanes and rows are int64: the address arithmetic of the kernels, on sizes nobody allocates."""
    import triton
    import triton.language as tl

    from snn_lnm.engines.triton.kernels import find_place

    @triton.jit
    def where(lane_ptr, group_ptr, span: tl.int64, inner: tl.int64, BLOCK: tl.constexpr):
        p = find_place(span, inner, 4, 2, 2, 1, True, BLOCK)
        tl.store(lane_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), p.lane)
        tl.store(group_ptr + tl.program_id(0), p.group)

    where.fn.__globals__.update(tl=tl, find_place=find_place)
    span = 3_000_000_000
    lanes = torch.zeros(4, 16, dtype=torch.int64, device=DEVICE)
    groups = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    where[(4,)](lanes, groups, span, span, BLOCK=16)
    expected = torch.tensor([0, span, 0, span]).unsqueeze(1) + torch.arange(16)
    assert torch.equal(lanes.cpu(), expected) and groups.tolist() == [0, 1, 0, 1]


def test_empty_inputs():
    theta = torch.tensor([0.0, 0.9], device=DEVICE)
    for shape in [(0, 3), (4, 0), (4, 2, 0)]:
        out = functional.lnm(torch.zeros(shape, device=DEVICE), theta, backend="triton")
        assert out.spikes.shape == shape and out.state.v.shape == shape[1:]


@pytest.mark.parametrize("reset", ["hard", "soft_next"])
def test_a_start_of_one_number_is_read_as_it_is(reset):
    """-0 and what lies behind it in memory, forward and backward."""
    x, theta = torch.randn(3, 2, 300, device=DEVICE), torch.tensor([0.1, 0.9], device=DEVICE, requires_grad=True)
    found = []
    for value in (-0.0, 0.7):
        behind = torch.full((600,), 5.0, device=DEVICE)
        behind[0] = value
        for start in (behind[0].expand(2, 300), torch.full((2, 300), value, device=DEVICE)):
            words = {"state": State(start, None), "reset": reset, "backend": "triton"}
            out = functional.lnm(x, theta, **words)
            found.append((out.spikes, out.membrane, *torch.autograd.grad(out.membrane.sum(), theta)))
    assert all(map(torch.equal, *found[:2])) and all(map(torch.equal, *found[2:]))
    assert not torch.equal(found[0][1], found[2][1])


def test_a_sequence_can_be_cut_anywhere():
    x, theta = torch.randn(9, 3, 40, device=DEVICE), torch.tensor([0.0, 0.9, 0.1], device=DEVICE)
    options = {"alpha": 0.5, "charge": "map", "reset": "soft_next", "domain": (-1.0, 1.0), "backend": "triton"}
    whole = functional.lnm(x, theta, **options)
    first = functional.lnm(x[:4], theta, **options)
    second = functional.lnm(x[4:], theta, state=State(*first.state), **options)
    assert torch.equal(whole.spikes, torch.cat([first.spikes, second.spikes]))
    assert all(torch.equal(a, b) for a, b in zip(whole.state, second.state, strict=True))
    assert whole.spikes.any() and not whole.spikes.all()
