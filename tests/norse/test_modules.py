"""Norse's manners: containers, states, types, copies, and what its own neurons cannot do."""

import copy
import io
import pickle

import norse.torch as norse
import pytest
import torch
from snn_lnm_norse import (
    LNM,
    LNMCell,
    LNMFeedForwardState,
    LNMParameters,
    LNMRecurrent,
    LNMRecurrentCell,
    lnm_feed_forward_step,
    lnm_step,
    surrogates,
)
from torch import nn

import snn_lnm
from snn_lnm.surrogate import SuperSpike

FAST = LNMParameters(tau_mem_inv=torch.tensor(500.0))  # spikes within a few steps


def make(recurrent, sequence, **options):
    kind = {(0, 0): LNMCell, (0, 1): LNM, (1, 0): LNMRecurrentCell, (1, 1): LNMRecurrent}[recurrent, sequence]
    return kind(*((4, 4) if recurrent else ()), FAST, **options)


SCHEME = [(recurrent, sequence) for recurrent in (0, 1) for sequence in (0, 1)]


def run(neuron, x, sequence):
    if sequence:
        return neuron(x)
    spikes, state = [], None
    for x_t in x:
        z, state = neuron(x_t, state)
        spikes.append(z)
    return torch.stack(spikes), state


@pytest.mark.parametrize("recurrent", [0, 1])
def test_cells_and_sequences_agree(recurrent):
    cell, layer = make(recurrent, 0), make(recurrent, 1)
    layer.load_state_dict(cell.state_dict())
    x = torch.randn(9, 3, 4) * 4
    (z, state), (spikes, last) = run(cell, x, 0), layer(x)
    assert torch.equal(z, spikes) and all(torch.equal(a, b) for a, b in zip(state, last, strict=True)) and z.any()


@pytest.mark.parametrize("recurrent", [0, 1])
def test_recorded_states_are_those_of_the_steps(recurrent):
    cell, layer = make(recurrent, 0), make(recurrent, 1, record_states=True)
    layer.load_state_dict(cell.state_dict())
    x, state = torch.randn(9, 3, 4) * 4, None
    _, recorded = layer(x)
    for t, x_t in enumerate(x):
        _, state = cell(x_t, state)
        for name, value in state._asdict().items():
            assert torch.equal(getattr(recorded, name)[t], value), name


@pytest.mark.parametrize("recurrent, sequence", SCHEME)
def test_what_norse_s_own_neurons_cannot(recurrent, sequence):
    """Trained, saved, pickled, copied, moved, compiled without a graph break."""
    torch.manual_seed(1)
    neuron, x = make(recurrent, sequence), torch.randn(5, 3, 4) * 4
    expected, _ = run(neuron, x, sequence)
    file = io.BytesIO()
    torch.save(neuron.state_dict(), file)
    file.seek(0)
    fresh = make(recurrent, sequence)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for other in (fresh, pickle.loads(pickle.dumps(neuron)), copy.deepcopy(neuron)):
        assert torch.equal(run(other, x, sequence)[0], expected)
        assert other.state_fallback.__self__ is other
    expected.sum().backward()
    assert (neuron.coefficients.grad != 0).any() and "v_th" in neuron.state_dict()
    assert neuron.to(torch.float64).coefficients.dtype == torch.float64
    assert run(neuron, x.double(), sequence)[0].dtype == torch.float64
    compiled = torch.compile(fresh, fullgraph=True, backend="aot_eager")
    step = x if sequence else x[0]
    assert torch.equal(compiled(step)[0], fresh(step)[0])


def test_given_parameters_stay_parameters():
    tau = nn.Parameter(torch.tensor(500.0))
    neuron = LNM(FAST._replace(tau_mem_inv=tau), learn_coefficients=False)
    assert [name for name, _ in neuron.named_parameters()] == ["tau_mem_inv"] and neuron.tau_mem_inv is tau
    neuron(torch.randn(5, 3, 4) * 4)[0].sum().backward()
    assert tau.grad != 0


def test_only_what_is_learned_changes_its_dtype():
    neuron = LNMCell(FAST._replace(v_th=nn.Parameter(torch.tensor(0.7)))).half().to("meta")
    tensors = {**dict(neuron.named_parameters()), **dict(neuron.named_buffers())}
    assert {name for name, value in tensors.items() if value.dtype == torch.float16} == {"coefficients", "v_th"}
    assert len(tensors) == 6 and all(value.is_meta for value in tensors.values())


HOST = norse.LIFParameters(tau_mem_inv=torch.tensor(500.0))
BOX = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(900.0), v_th=torch.tensor(0.25))


def convolutional():
    return norse.SequentialState(
        nn.Conv2d(1, 3, 3), norse.LIFCell(HOST), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4), norse.LIFBoxCell(BOX)
    )


def sequential():
    return nn.Sequential(norse.Lift(nn.Conv2d(1, 3, 3)), norse.LIF(HOST))


def lifted():
    return nn.Sequential(norse.Lift(norse.LIFCell(HOST)))


def recurrent():
    return norse.RecurrentSequential(nn.Linear(4, 4), norse.LIFCell(HOST), norse.LIFBoxCell(BOX))


@pytest.mark.parametrize("build, per_step, shape", [
    (convolutional, True, (1, 8, 8)), (sequential, False, (1, 8, 8)), (lifted, False, (4,)), (recurrent, True, (4,)),
], ids=lambda value: getattr(value, "__name__", ""))  # fmt: skip
def test_in_the_host_s_containers(build, per_step, shape):
    outputs = []
    for swapped in (False, True):
        torch.manual_seed(2)
        net = build()
        if swapped:
            assert not snn_lnm.swap(net).skipped
        torch.manual_seed(3)
        x = torch.rand(12, 2, *shape) * 20
        if not per_step:
            outputs.append(net(x)[0])
            continue
        state, rows = None, []
        for x_t in x:
            out, state = net(x_t, state)
            rows.append(out)
        outputs.append(torch.stack(rows))
    assert torch.equal(*outputs) and outputs[0].any()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8])
@pytest.mark.parametrize("sparse", [False, True])
def test_integer_and_sparse_inputs(dtype, sparse):
    x = (torch.rand(6, 3, 4) < 0.5).to(dtype)
    for native, ours in ((norse.LIF(HOST), LNM(FAST)), (norse.LIFCell(HOST), LNMCell(FAST))):
        x_t = x if isinstance(native, norse.LIF) else x[0]
        x_t = x_t.to_sparse() if sparse else x_t
        (z, host), (s, last) = native(x_t), ours(x_t)
        assert s.is_sparse == z.is_sparse and torch.equal(z.to_dense().float(), s.to_dense())
        assert torch.equal(host.v.expand_as(last.v), last.v)


def test_states_may_be_numbers_scalars_or_the_host_s():
    x = torch.rand(3, 4) * 4
    full = LNMFeedForwardState(torch.full((3, 4), 0.25), torch.zeros(3, 4))
    expected = lnm_feed_forward_step(x, full, FAST)[1]
    for state in (
        LNMFeedForwardState(0.25, 0),
        LNMFeedForwardState(torch.tensor(0.25), torch.zeros(4)),
        norse.LIFFeedForwardState(torch.tensor(0.25), torch.zeros(3, 4)),
        LNMFeedForwardState(full.v, torch.zeros(3, 4, dtype=torch.int64)),
        LNMFeedForwardState(full.v.to_sparse(), full.i),
    ):
        found = lnm_feed_forward_step(x, state, FAST)[1]
        assert torch.equal(found.v, expected.v) and torch.equal(found.i, expected.i)


def test_a_state_of_more_samples_than_the_input_spreads_it():
    x, full = torch.rand(1, 4) * 4, LNMFeedForwardState(torch.full((3, 4), 0.25), torch.zeros(1, 4))
    (z, host), (s, last) = norse.LIFCell(HOST)(x, norse.LIFFeedForwardState(*full)), LNMCell(FAST)(x, full)
    assert torch.equal(z, s) and torch.equal(host.v, last.v) and torch.equal(host.i.expand_as(last.i), last.i)


def test_a_state_fallback_of_one_s_own():
    neuron = LNMCell(FAST)
    neuron.state_fallback = lambda x: LNMFeedForwardState(torch.full_like(x, 0.5), torch.zeros_like(x))
    assert neuron(torch.zeros(2, 3))[1].v.unique() == torch.tensor(0.25)  # half of it leaks away at 500 Hz


def test_autapses_get_no_gradient_even_in_a_copy():
    x = torch.rand(8, 3, 4) * 8
    for neuron in (LNMRecurrent(4, 4, FAST), copy.deepcopy(LNMRecurrent(4, 4, FAST))):
        assert not neuron.recurrent_weights.diagonal().any()
        neuron(x)[0].sum().backward()
        grad = neuron.recurrent_weights.grad
        assert not grad.diagonal().any() and grad.any()
    free = LNMRecurrent(4, 4, FAST, autapses=True)
    free(x)[0].sum().backward()
    assert free.recurrent_weights.grad.diagonal().any()


NAN = float("nan")


CALLS = [
    (ValueError, "finite", lambda: LNM(FAST._replace(coefficients=torch.tensor([NAN, 1.0])))),
    (ValueError, "finite", lambda: LNM(FAST._replace(v_th=NAN))),
    (ValueError, "between 0 and 8", lambda: LNM(FAST._replace(coefficients=torch.zeros(10)))),
    (ValueError, "scalar", lambda: LNM(FAST._replace(coefficients=torch.tensor(1.0)))),
    (TypeError, "tau_mem_inv must be a number", lambda: LNM(FAST._replace(tau_mem_inv="fast"))),
    (ValueError, "threshold function", lambda: LNM(FAST._replace(method="step"))),
    (ValueError, "unknown charge", lambda: LNM(FAST._replace(charge="euler"))),
    (ValueError, "unknown reset", lambda: LNM(FAST._replace(reset="zero"))),
    (TypeError, "p must be snn_lnm_norse.LNMParameters, got LIFParameters", lambda: setattr(LNM(FAST), "p", HOST)),
    (ValueError, "unknown backend", lambda: LNM(FAST, backend="cuda")),
    (
        ValueError,
        "state=None",
        lambda: lnm_feed_forward_step(
            torch.ones(2, 3), LNMFeedForwardState(torch.zeros(5, 3), torch.zeros(5, 3)), FAST
        ),
    ),
    (ValueError, "does not fit", lambda: LNM(FAST._replace(v_th=torch.ones(5)))(torch.ones(2, 3, 4))),
    (TypeError, "missing", lambda: lnm_step(torch.ones(2, 3), None)),
]


@pytest.mark.parametrize("kind, message, call", CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input(kind, message, call):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("recurrent, sequence", SCHEME)
def test_p_can_be_set_and_is_read_by_the_next_step(recurrent, sequence):
    neuron, x = make(recurrent, sequence), torch.randn(5, 3, 4) * 4
    before, _ = run(neuron, x, sequence)
    fresh = make(recurrent, sequence)
    fresh.load_state_dict(neuron.state_dict())
    neuron.p = neuron.p._replace(v_th=torch.tensor(0.3), coefficients=neuron.coefficients * 0.5)
    fresh.v_th.fill_(0.3)
    with torch.no_grad():
        fresh.coefficients.mul_(0.5)
    after, _ = run(neuron, x, sequence)
    assert torch.equal(after, run(fresh, x, sequence)[0]) and not torch.equal(after, before)
    with pytest.raises(ValueError, match="coefficients"):
        neuron.p = neuron.p._replace(coefficients=torch.tensor([float("nan"), 1.0]))
    assert torch.equal(run(neuron, x, sequence)[0], after)


def test_numbers_that_ask_for_gradients_become_parameters():
    neuron = LNM(FAST._replace(v_th=torch.tensor(1.0, requires_grad=True)))
    assert {name for name, _ in neuron.named_parameters()} == {"coefficients", "v_th"}
    neuron(torch.randn(5, 3, 4) * 4)[0].sum().backward()
    assert neuron.v_th.grad is not None and neuron.v_th.grad != 0


@pytest.mark.parametrize("ignores", [True, False])
def test_super_as_the_installed_norse_has_it(ignores, monkeypatch):
    """1.1.0's ignores alpha; later ones multiply by it, also by the zero that is no SuperSpike."""
    monkeypatch.setattr(surrogates, "SUPER_IGNORES_ALPHA", ignores)
    assert surrogates.recover("super", 3.0) == SuperSpike(1.0 if ignores else 3.0)
    assert isinstance(surrogates.recover("super", 0.0), SuperSpike if ignores else surrogates.Threshold)
