"""LNMNode against the host's nodes: spikes, membranes and stored sequences to the bit."""

import jelly_cases as jelly
import pytest
import rotation
import torch
from hypothesis import given
from hypothesis import strategies as st
from snn_lnm_spikingjelly import LNMNode
from spikingjelly.activation_based import neuron
from torch.utils._python_dispatch import TorchDispatchMode


def same(ours, theirs):
    return all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)
    )


@given(case=jelly.cases(), domain=st.sampled_from(["auto", None, (-0.5, 0.25)]))
def test_every_option_of_every_linear_node(case, domain):
    ours = jelly.swapped(case.native, case.degree, domain=domain)
    for x in case.x:
        expected = jelly.run(case.native, x)
        assert same(jelly.run(ours, x), expected)
        assert expected[0].any() and not expected[0].all()


@given(case=jelly.cases())
def test_constructed_nodes_are_the_swapped_ones(case):
    """The constructor's own start is the native node's, number by number."""
    native = case.native
    words = {name: getattr(native, name) for name in ("v_threshold", "v_reset", "surrogate_function", "detach_reset")}
    words |= {"step_mode": native.step_mode, "store_v_seq": native.store_v_seq}
    tau = None if isinstance(native, neuron.IFNode) else getattr(native, "tau", 2.0)
    ours = LNMNode(tau, getattr(native, "decay_input", True), **words, learn_tau=hasattr(native, "w"))
    if hasattr(native, "w"):
        ours.w = native.w
    assert same(jelly.run(ours, case.x[0]), jelly.run(native, case.x[0]))


@given(
    seed=st.integers(0, 2**31),
    tau=st.sampled_from([2.0, 4.0]),
    a0=st.sampled_from([0.25, 0.5, 1.0]),
    v_rest=st.sampled_from([-0.25, 0.0, 0.5]),
    v_c=st.sampled_from([0.5, 0.75, 2.0]),
    v_reset=st.sampled_from([None, -0.25, -1.0]),
    degree=st.sampled_from(rotation.some(range(2, 6), 2)),
    mode=st.sampled_from("sm"),
)
def test_quadratic_nodes_where_arithmetic_is_exact(seed, tau, a0, v_rest, v_c, v_reset, degree, mode):
    """Three steps on dyadic numbers in float64: no rounding, so the order of multiplication has no effect."""
    words = {"v_reset": v_reset, "step_mode": mode, "store_v_seq": True}
    native = neuron.QIFNode(tau, v_c, a0, 1.0, v_rest, **words)
    ours = jelly.swapped(native, degree)
    x = jelly.dyadic(torch.Generator().manual_seed(seed), 3, *jelly.STEP) * tau
    x[0, 0, 0, 0] = 4 * tau  # enough for a spike from wherever it starts
    expected = jelly.run(native, x)
    assert same(jelly.run(ours, x), expected) and expected[0].any()


@given(
    seed=st.integers(0, 2**31),
    tau=st.floats(1.1, 10),
    a0=st.floats(0.1, 2),
    v_rest=st.floats(-0.1, 0.5),
    v_c=st.floats(0.1, 2),
    threshold=st.floats(0.3, 2),
    reset=st.sampled_from([None, -0.1]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_quadratic_nodes_within_a_bound(seed, tau, a0, v_rest, v_c, threshold, reset, dtype):
    """One step from any state: |h - h'| ≤ 16·u·E, E the sum of the absolute values of all terms.

    The host's charge rounds 8 times, ours 10 times beside the 3 of its coefficients; every rounding is at most u = ε/2
    of a partial sum, and no partial sum exceeds E. Spikes are equal wherever h is farther than that from ϑ.
    """
    native = neuron.QIFNode(tau, v_c, a0, threshold, v_rest, reset)
    ours = jelly.swapped(native, 3)
    generator = torch.Generator().manual_seed(seed)
    v, x = (torch.randn(jelly.STEP, generator=generator, dtype=dtype) * 2 for _ in range(2))
    native.v, ours.v = v.clone(), v.clone()
    theirs, spikes = native(x), ours(x)
    size = v.abs() + (x.abs() + a0 * (v.abs() + abs(v_rest)) * (v.abs() + abs(v_c))) / tau
    bound = 16 * torch.finfo(dtype).eps * size
    h = v + (x + a0 * (v - v_rest) * (v - v_c)) / tau
    sure = (h - threshold).abs() > bound
    assert torch.equal(spikes[sure], theirs[sure])
    agree = spikes == theirs
    # The soft reset subtracts once more, from a number of at most E + ϑ.
    assert ((native.v - ours.v).abs() <= bound + torch.finfo(dtype).eps * (size + threshold))[agree].all()


class Divisions(TorchDispatchMode):
    """Counts quotients of tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket is torch.ops.aten.div
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "native, divides",
    [
        (neuron.LIFNode(3.0), True),
        (neuron.LIFNode(2.0), False),
        (neuron.LIFNode(4.0, decay_input=False), False),
        (neuron.QIFNode(3.0), False),
        (neuron.ParametricLIFNode(), False),
    ],
)
def test_a_product_with_the_inverse_where_the_host_s_bits_allow_it(native, divides):
    ours = jelly.swapped(native, 2, backend="reference")
    with Divisions() as seen:
        ours(torch.randn(jelly.STEP))
    assert bool(seen.count) == divides


@pytest.mark.parametrize("tau", [0.5, 2.0**-120, 2.0**-130, 2.0**120, 0.0])
def test_a_tau_set_later_to_what_no_constructor_takes(tau):
    native, x = neuron.LIFNode(step_mode="m", store_v_seq=True), torch.randn(4, *jelly.STEP)
    ours = jelly.swapped(native, domain=None)
    native.tau = ours.tau = tau
    assert all(
        torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
        for a, b in zip(*(jelly.run(n, x) for n in (native, ours)), strict=True)
    )


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("fire", ["sigmoid", "callable"])
def test_a_membrane_at_the_threshold_spikes(mode, fire):
    from spikingjelly.activation_based import surrogate

    spike = surrogate.Sigmoid() if fire == "sigmoid" else surrogate.Erf()
    native = neuron.IFNode(0.75, surrogate_function=spike, step_mode=mode)
    x = torch.full((1, 2), 0.75)
    x = x if mode == "m" else x[0]
    assert native(x).all() and jelly.swapped(native)(x).all()


@pytest.mark.parametrize("kind", [neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode])
def test_doubled_models_keep_the_host_s_double_numbers(kind):
    """0.1 is no float32: θ_0 must not have been rounded to one on its way to float64."""
    native = kind(v_threshold=0.3, v_reset=0.1, step_mode="m", store_v_seq=True)
    ours = jelly.swapped(native).double()
    assert ours.coefficients.dtype == torch.float64
    x = torch.randn(6, 50, dtype=torch.float64)
    assert same(jelly.run(ours, x), jelly.run(native.double(), x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_half_inputs_have_float32_membranes(dtype, mode):
    """The host rounds the membrane to the input's type at every operation; here only the input is rounded."""
    half, whole = (LNMNode(2.3, step_mode=mode, store_v_seq=True) for _ in range(2))
    x = (torch.randn(4, *jelly.STEP) * 3).to(dtype)
    spikes, v, v_seq = jelly.run(half, x)
    expected = jelly.run(whole, x.float())
    assert spikes.dtype == dtype and v.dtype == v_seq.dtype == torch.float32
    assert same([spikes.float(), v, v_seq], expected) and spikes.any()


@pytest.mark.parametrize("shape", [(), (5,), (2, 0), (2, 3, 4, 5)])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_shapes(shape, mode):
    native = neuron.LIFNode(1.7, step_mode=mode, store_v_seq=True)
    ours = jelly.swapped(native)
    x = torch.randn(3, *shape) * 3
    if mode == "m" and shape == ():
        native, x = neuron.LIFNode(1.7, step_mode="m", store_v_seq=True), x.reshape(3, 1)[:, 0]
    assert same(jelly.run(ours, x), jelly.run(native, x))


def test_strides_and_no_steps():
    native = neuron.LIFNode(1.7, step_mode="m", store_v_seq=True)
    ours = jelly.swapped(native)
    x = torch.randn(5, 4, 3).permute(2, 1, 0)[:, ::2]
    assert same(jelly.run(ours, x), jelly.run(native, x))
    before = ours.v
    assert ours(x[:0]).shape == (0, 2, 5) and torch.equal(ours.v, before) and ours.v_seq.shape == (0, 2, 5)


def test_a_stale_membrane_restarts_as_in_the_host():
    native = neuron.LIFNode(1.7, v_reset=-0.3)
    ours = jelly.swapped(native)
    for batch in (4, 2):
        x = torch.randn(batch, 3)
        assert torch.equal(ours(x), native(x)) and torch.equal(ours.v, native.v)


@pytest.mark.parametrize("first, then", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
@pytest.mark.parametrize("kind", [neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode])
def test_a_membrane_of_another_type_goes_on_as_in_the_host(kind, first, then):
    native = kind(v_threshold=0.3, v_reset=0.1, step_mode="m")
    ours = jelly.swapped(native)
    for dtype in (first, then):
        x = torch.randn(3, 4, dtype=dtype)
        assert same(jelly.run(ours, x), jelly.run(native, x)) and ours.v.dtype == dtype


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_numbers_that_are_none_stay_visible(value):
    native = neuron.IFNode(step_mode="m")
    ours = jelly.swapped(native)
    x = torch.zeros(3, 2)
    x[0, 0] = value
    assert torch.equal(ours(x), native(x)) and torch.equal(ours.v.isnan(), native.v.isnan())
