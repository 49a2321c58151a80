"""LNM against Leaky where parameters have shapes, types and overrides of their own."""

import gc

import pytest
import rotation
import snntorch as snn
import torch
from hypothesis import given
from hypothesis import strategies as st
from snn_lnm_snntorch import LNM, registry
from snntorch import surrogate, utils
from snntorch.functional import quant
from torch import nn

import snn_lnm
from snn_lnm.surrogate import ATan

STEP = (2, 3, 4, 5)
LAYOUTS = [(), (1,), (5,), (4, 1), (3, 1, 1), (3, 4, 5)]


def swapped(native, degree=3):
    net = nn.Sequential(native)
    report = snn_lnm.swap(net, degree=degree)
    assert not report.skipped, str(report)
    return net[0]


def run(neuron, x, mem):
    rows = []
    for x_t in x:
        spk, mem = neuron(x_t, mem)
        rows.append(torch.stack([spk.to(x.dtype), mem]))
    return torch.stack(rows)


class Twice:
    """A surrogate of the user's own that says it is equal to any other."""

    def __eq__(self, other):
        return True

    def __call__(self, u):
        return (u > 0).to(u) * 2


def test_options_set_after_a_call_count():
    neuron, x = LNM(0.9, spike_grad=ATan(), domain=[-1.0, 1.0]), torch.full((1, 3), 4.0)
    once = neuron(x)[0]
    neuron.spike_grad = Twice()
    assert once.any() and torch.equal(neuron(x, torch.zeros_like(x))[0], 2 * once)
    neuron.domain[1] = 0.25
    assert neuron._dynamics().domain == (-1.0, 0.25)


@pytest.mark.parametrize("step", [(2, 5), (2, 5, 3)], ids=str)
def test_numbers_follow_the_input_s_dtype_as_in_the_host(step):
    beta, threshold = torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    native = snn.Leaky(beta, threshold=threshold)
    x = torch.rand(6, *step)
    assert torch.equal(run(native, x, torch.zeros(step)), run(swapped(native), x, torch.zeros(step)))


@given(
    beta=st.sampled_from(LAYOUTS),
    threshold=st.sampled_from(LAYOUTS),
    graded=st.sampled_from(LAYOUTS),
    learn=st.booleans(),
    reset=st.sampled_from(["subtract", "zero", "none"]),
    delay=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    degree=st.sampled_from(rotation.some(range(1, 6), 2)),
    seed=st.integers(0, 2**31),
)
def test_every_layout_of_every_parameter(beta, threshold, graded, learn, reset, delay, dtype, degree, seed):
    """Spikes and membranes to the bit; gradients of input and threshold within a derived bound."""
    generator = torch.Generator().manual_seed(seed)

    def number(layout, low, high):
        return torch.empty(layout).uniform_(low, high, generator=generator)

    native = snn.Leaky(
        number(beta, 0, 1.2),
        threshold=number(threshold, 0.2, 1.5),
        graded_spikes_factor=number(graded, 0.5, 2),
        learn_graded_spikes_factor=learn,
        learn_threshold=True,
        reset_mechanism=reset,
        reset_delay=delay,
    ).to(dtype)
    x = torch.randn((4, *STEP), generator=generator, dtype=dtype).mul_(1.5).requires_grad_()
    start = torch.randn(STEP, generator=generator, dtype=dtype)
    expected = run(native, x, start)
    weight = torch.randn(expected.shape, generator=generator, dtype=dtype)
    # The threshold is shared with the swapped neuron, the same Parameter object.
    host = torch.autograd.grad((expected * weight).sum(), [x, native.threshold])
    ours = swapped(native, degree)
    got = run(ours, x, start)
    assert torch.equal(got, expected)
    assert expected[:, 0].any() and not expected[:, 0].all()
    assert ("path=fused" in repr(ours)) == delay
    mine = torch.autograd.grad((got * weight).sum(), [x, ours.threshold])
    # Input: chains of at most 4 steps of about 10 roundings. Threshold: a sum of up to n terms, whose
    # order differs. Both at 2⁻²⁴, in float64 too: the host's spikes, and their gradients, are float32.
    terms = [4 * 10, expected[:, 0].numel()]
    for theirs, value, count in zip(host, mine, terms, strict=True):
        assert torch.allclose(value, theirs, rtol=0, atol=count * 2**-24 * (1 + float(theirs.abs().max())))


@pytest.mark.parametrize("options", [{"threshold": 1}, {"graded_spikes_factor": 2}, {"beta": 1, "threshold": 2}])
@pytest.mark.parametrize("delay", [True, False])
def test_integers_are_numbers_too(options, delay):
    native = snn.Leaky(**{"beta": 0.9, **options}, reset_delay=delay)
    x, start = torch.randn(5, *STEP) * 3, torch.zeros(STEP)
    expected = run(native, x, start)
    assert expected[:, 0].any()
    assert torch.equal(run(LNM(**{"beta": 0.9, **options}, reset_delay=delay), x, start), expected)
    assert torch.equal(run(swapped(native), x, start), expected)


@pytest.mark.parametrize("delay", [True, False])
def test_surrogates_by_name_work_on_both_paths(delay):
    x, start = torch.randn(5, *STEP), torch.zeros(STEP)
    by_name = LNM(0.9, spike_grad="atan", reset_delay=delay)
    assert torch.equal(run(by_name, x, start), run(LNM(0.9, spike_grad=ATan(), reset_delay=delay), x, start))


@pytest.mark.parametrize(
    "method, returned",
    [("fire", 7.0), ("_base_state_function", 5.0), ("_base_sub", 5.0), ("mem_reset", 1.0)],
)
def test_an_overridden_step_is_called(method, returned):
    x, called = torch.ones(STEP), []

    def override(self, value):
        called.append(method)
        return torch.full_like(value, returned)

    kind = type("Mine", (LNM,), {method: override})
    neuron = type("Child", (kind,), {})(0.9)
    neuron(x)
    assert called and "path=host" in repr(neuron)
    on_instance = LNM(0.9)
    setattr(on_instance, method, lambda value: override(None, value))
    del called[:]
    on_instance(x)
    assert called


@pytest.mark.parametrize(
    "options",
    [{"reset_mechanism": "bad"}, {"degree": 9}, {"domain": (1, 0)}, {"backend": "none"}, {"spike_grad": "none"}],
)
def test_a_failed_construction_leaves_no_trace(options):
    gc.collect()
    registry.remove(None)
    before = [*map(id, snn.SpikingNeuron.instances)]
    with pytest.raises(ValueError) as error:
        LNM(0.9, **options)
    assert [*map(id, snn.SpikingNeuron.instances)] == before
    del error  # until here its traceback kept the half-built neuron alive
    utils.reset(nn.Sequential(LNM(0.9)))


def test_coefficients_of_other_types():
    assert LNM(coefficients=[0, 0.5, 0]).degree == 2
    whole = LNM(coefficients=torch.tensor([0, 1]))
    assert whole.coefficients.dtype == torch.float32 and whole.beta == 1
    assert not hasattr(LNM(coefficients=[0.5]), "beta")


def test_a_wrong_reset_in_a_checkpoint_is_refused():
    neuron = LNM(0.9)
    with pytest.raises(ValueError, match="reset_mechanism_val must be one of"):
        neuron.load_state_dict(neuron.state_dict() | {"reset_mechanism_val": torch.tensor(7)})
    assert neuron.reset_mechanism == "subtract" and neuron.reset_mechanism_val == 0


def test_a_changed_factor_takes_effect():
    neuron, x = LNM(0.9), torch.full((2, 3), 2.0)
    assert neuron(x)[0].unique() == 1
    for value in (2.0, 3.0):
        neuron.graded_spikes_factor = torch.tensor(value)
        assert neuron(x, torch.zeros(2, 3))[0].unique() == value
    neuron.graded_spikes_factor.fill_(1)
    assert neuron(x, torch.zeros(2, 3))[0].unique() == 1


def test_a_state_may_be_a_buffer_or_a_parameter():
    neuron, x = LNM(0.9), torch.full((2, 3), 2.0)
    neuron.mem = nn.Parameter(torch.zeros(2, 3))
    assert [*neuron.parameters()][-1] is neuron.mem
    del neuron.mem
    neuron.register_buffer("mem", torch.zeros(2, 3))
    _, membrane = neuron(x)
    assert membrane.all() and dict(neuron.named_buffers())["mem"] is membrane


def test_inference_mode():
    x = torch.full((2, 3), 2.0)
    with torch.inference_mode():
        neuron = LNM(0.9)
        assert torch.equal(neuron(x)[0], LNM(0.9)(x)[0])


def test_one_graph_under_compile():
    x, neuron = torch.randn(STEP, requires_grad=True), LNM(0.9)
    torch.compiler.reset()
    compiled = torch.compile(neuron, fullgraph=True, backend="eager")
    for got, expected in zip(compiled(x, torch.ones(STEP)), neuron(x, torch.ones(STEP)), strict=True):
        assert torch.equal(got, expected)


def test_state_function_is_not_a_dead_setter():
    neuron = LNM(0.9)
    with pytest.raises(AttributeError, match="reset_mechanism"):
        neuron.state_function = lambda x: x


@pytest.mark.filterwarnings("ignore")  # the host warns of inhibition, PyTorch of its own tracing
@pytest.mark.parametrize("native", [
    lambda: snn.Leaky(0.9, inhibition=True),
    lambda: snn.Leaky(0.9, reset_delay=False),
    lambda: snn.Leaky(0.9, reset_delay=False, reset_mechanism="zero", state_quant=quant.state_quant(num_bits=4)),
    lambda: snn.Leaky(0.9, spike_grad=surrogate.custom_surrogate(lambda u, grad, spikes: grad / (1 + u.abs()))),
    lambda: snn.Synaptic(0.5, 0.9, reset_mechanism="zero"),
], ids=["inhibition", "immediate", "quantised", "own surrogate", "synaptic"])  # fmt: skip
def test_the_host_s_path_compiles_with_its_graph_breaks(native):
    neuron, x = swapped(native()), 2 * torch.randn(2, 7)
    assert "path=fused" not in repr(neuron)
    torch.compiler.reset()
    results = []
    for run in (torch.compile(neuron, backend="aot_eager"), neuron):
        states = [torch.full_like(x, 0.5) for _ in range(1 + isinstance(neuron, snn.Synaptic))]
        leaf = x.clone().requires_grad_()
        out = run(leaf, *states)
        results.append([*out, *torch.autograd.grad(sum(value.sum() for value in out), [leaf, neuron.coefficients])])
    assert all(torch.equal(got, expected) for got, expected in zip(*results, strict=True))
