"""Kept states and who else touches them: checkpoints, inference mode, copies, tracing."""

import contextlib
import copy
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import snntorch as snn
import torch
from snn_lnm_snntorch import LNM, SynapticLNM
from snntorch import utils
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import snn_lnm

NEURONS = {
    "Leaky": lambda **o: snn.Leaky(0.9, **o),
    "learned": lambda **o: snn.Leaky(0.9, learn_beta=True, learn_threshold=True, **o),
    "immediate": lambda **o: snn.Leaky(0.9, reset_delay=False, **o),
    "Synaptic": lambda **o: snn.Synaptic(0.8, 0.9, **o),
}
every_neuron = pytest.mark.parametrize("kind", NEURONS)
REENTRANT = pytest.mark.parametrize("reentrant", [False, True])


def model(kind, swap=True, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), NEURONS[kind](init_hidden=True, **options))
    if swap:
        snn_lnm.swap(net)
    return net


def inputs(steps=5):
    generator = torch.Generator().manual_seed(3)
    return 2 * torch.randn(steps, 2, 5, generator=generator)


def gradient(net, call):
    net.zero_grad()
    utils.reset(net)
    leaf = inputs().requires_grad_()
    call(leaf).square().sum().backward()
    return [net[0].weight.grad, leaf.grad]


# ---- torch.utils.checkpoint


@REENTRANT
@every_neuron
def test_a_recomputed_step_that_would_start_elsewhere_raises(kind, reentrant):
    net = model(kind)

    def steps(x):
        return sum(checkpoint(net, x_t, use_reentrant=reentrant) for x_t in x)

    with pytest.raises(RuntimeError, match="Reset the state inside the checkpointed function"):
        gradient(net, steps)


@REENTRANT
@pytest.mark.parametrize("fused", [False, True])
@every_neuron
def test_a_recomputed_part_that_resets_is_right(kind, fused, reentrant):
    net = model(kind)
    run = snn_lnm.fuse_time(net) if fused else lambda x: torch.stack([net(x_t) for x_t in x])

    def whole(x):
        utils.reset(net)
        return run(x)

    true = gradient(net, whole)
    for got, expected in zip(gradient(net, lambda x: checkpoint(whole, x, use_reentrant=reentrant)), true, strict=True):
        assert torch.equal(got, expected) and expected.any()


@REENTRANT
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic"])
def test_a_fused_sequence_that_would_start_elsewhere_raises(kind, reentrant):
    net = model(kind)
    fused = snn_lnm.fuse_time(net)
    with pytest.raises(RuntimeError, match="kept state"):
        gradient(net, lambda x: checkpoint(fused, x, use_reentrant=reentrant))


@REENTRANT
def test_of_two_parts_each_has_to_reset(reentrant):
    """The later part, which resets, is computed again first: what it leaves is no start for the earlier one."""
    net = model("Leaky")

    def resets(x):
        utils.reset(net)
        return net(x)

    for first, raises in ((net, True), (resets, False)):
        check = pytest.raises(RuntimeError, match="kept state") if raises else contextlib.nullcontext()
        parts = (first, resets)
        with check:
            gradient(net, lambda x, parts=parts: sum(checkpoint(part, x[0], use_reentrant=reentrant) for part in parts))


@REENTRANT
def test_explicit_states_may_be_recomputed(reentrant):
    net = nn.Sequential(snn.Leaky(0.9))
    snn_lnm.swap(net)
    found = []
    for call in (lambda *a: checkpoint(net[0], *a, use_reentrant=reentrant), net[0]):
        x = inputs().requires_grad_()
        mem, total = torch.zeros(2, 5), 0
        for x_t in x:
            spk, mem = call(x_t, mem)
            total = total + spk.sum() + mem.sum()
        total.backward()
        found.append(x.grad)
    assert torch.equal(*found)


def test_a_state_set_in_one_backward_pass_is_no_start_in_the_next():
    net = model("Leaky")

    def whole(x):
        utils.reset(net)
        return net(x)

    x = inputs()[0]
    checkpoint(whole, x, use_reentrant=False).sum().backward()
    out = checkpoint(net, x, use_reentrant=False)
    with pytest.raises(RuntimeError, match="kept state"):
        out.sum().backward()


# ---- torch.inference_mode


@pytest.mark.parametrize("fused", [False, True])
@every_neuron
def test_training_goes_on_from_a_state_of_inference_mode(kind, fused):
    """As the native model, with the same numbers, and back."""
    x, found = inputs(), []
    for swap in (False, True):
        if fused and not swap:
            continue
        net = model(kind, swap)
        run = snn_lnm.fuse_time(net) if fused else lambda x, net=net: torch.stack([net(x_t) for x_t in x])
        with torch.inference_mode() if swap else torch.no_grad():  # from inference mode a learned native leak cannot
            rows = [run(x)]
        rows.append(run(x))
        rows[1].sum().backward()
        assert net[0].weight.grad.any()
        with torch.inference_mode():
            rows.append(run(x))
        found.append(torch.stack(rows))
    if fused:
        net = model(kind)
        found.append(torch.stack([torch.stack([net(x_t) for x_t in x]).detach() for _ in range(3)]))
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic"])
def test_states_of_inference_mode_may_be_passed(kind):
    neuron, x = model(kind)[1], torch.full((2, 3), 0.7)
    neuron.init_hidden = False
    with torch.inference_mode():
        _, *states = neuron(x, *[torch.zeros_like(x)] * len(neuron.STATES))
    out = neuron(x, *states)
    out[-1].sum().backward()
    assert neuron.coefficients.grad.any() and not states[0].requires_grad


# ---- copies


def copies():
    ways = {
        "deepcopy": copy.deepcopy,
        "pickle": lambda net: pickle.loads(pickle.dumps(net)),
        "average": lambda net: AveragedModel(net).module,
        "spawn": lambda net: pickle.loads(ForkingPickler.dumps(net)),
    }
    modes = {
        "gradients": contextlib.nullcontext,
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
    }
    return [pytest.param(w, m, f, id=f"{a}-{b}-{f}") for a, w in ways.items() for b, m in modes.items() for f in (0, 1)]


@pytest.mark.parametrize("way, mode, fused", copies())
@pytest.mark.parametrize("kind", ["learned", "Synaptic"])
def test_copies_in_the_middle_of_a_sequence(kind, way, mode, fused):
    net, x = model(kind), inputs()
    run = snn_lnm.fuse_time(net) if fused else net
    with mode():
        for part in (x[:1], x[1:2]):
            run(part if fused else part[0])
        other = way(run)
        expected = run(x[2:] if fused else x[2])
        assert torch.equal(other(x[2:] if fused else x[2]), expected)
        run.requires_grad_(False)
        way(run)


def test_a_copy_is_reset_and_shares_nothing():
    net = model("learned")
    net(inputs()[0])
    other = copy.deepcopy(net)
    utils.reset(other)
    assert not other[1].mem.any() and not net[1].mem.any()  # the host resets all
    with torch.no_grad():
        other[1].threshold += 1
    assert other[1].threshold == 2 and net[1].threshold == 1


def test_a_shared_threshold_stays_shared_in_copies():
    net = model("learned")
    net.append(nn.Linear(4, 4)).append(copy.deepcopy(net[1]))
    net[3].threshold = net[1].threshold
    other = copy.deepcopy(net)
    assert other[3].threshold is other[1].threshold is not net[1].threshold


def test_a_state_that_is_a_buffer_can_be_copied_and_moved():
    neuron, x = LNM(0.9), torch.full((2, 3), 0.8)
    del neuron.mem
    neuron.register_buffer("mem", torch.zeros(2, 3))
    with torch.no_grad():
        neuron(x)
        other = copy.deepcopy(neuron).double()
    assert other.mem.dtype == torch.float64 and torch.equal(other.mem.float(), neuron.mem)
    del neuron.mem
    neuron.mem = nn.Parameter(torch.zeros(2, 3))
    assert neuron.double().mem.dtype == torch.float64
    assert type(neuron.to_empty(device="cpu").mem) is nn.Parameter


def test_a_module_without_storage_can_be_loaded():
    """FSDP's way: emptied, then filled by a checkpoint, which has no `_v_reset` and no `_gain`."""
    neuron, x = LNM(0.9), torch.full((2, 3), 0.8)
    expected = neuron(x, torch.zeros_like(x))
    empty = copy.deepcopy(neuron).to("meta").to_empty(device="cpu")
    for buffer in (empty._v_reset, empty._gain):
        buffer.fill_(7)  # anything may be there
    empty.load_state_dict(neuron.state_dict())
    for got, value in zip(empty(x, torch.zeros_like(x)), expected, strict=True):
        assert torch.equal(got, value)


def test_a_native_checkpoint_may_be_assigned():
    """What is assigned is trained in place: one leak for all neurons must not be one memory."""
    neuron = LNM(torch.rand(3), degree=2)
    neuron.load_state_dict(snn.Leaky(0.5).state_dict(), assign=True)
    with torch.no_grad():
        neuron.coefficients[0, 1] = 0.25
    assert neuron.coefficients[:, 1].tolist() == [0.25, 0.5, 0.5]


# ---- torch.jit.trace


class Step(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.fc, self.lif = nn.Linear(5, 4), snn.Leaky(0.9, **options)

    def forward(self, x, mem):
        return self.lif(self.fc(x), mem)


@pytest.mark.filterwarnings("ignore")  # PyTorch calls its own trace deprecated
@pytest.mark.parametrize("options", [{}, {"surrogate_disable": True}, {"reset_mechanism": "zero"}])
def test_a_traced_step_gives_the_same_numbers(options, tmp_path):
    net = Step(**options)
    native = copy.deepcopy(net)
    snn_lnm.swap(net)
    start = torch.full((2, 4), 0.5)
    traced = [torch.jit.trace(made, (inputs()[0], start)) for made in (native, net)]
    if options.get("surrogate_disable"):  # the host's surrogates are Python, which TorchScript does not save
        for made in traced:
            made.save(tmp_path / "step.pt")
            traced = [*traced, torch.jit.load(tmp_path / "step.pt")]
    for x in inputs():
        expected = native(x, start)
        assert expected[0].any()
        for made in (*traced, net):
            assert all(torch.equal(got, value) for got, value in zip(made(x, start), expected, strict=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind, states", [("Leaky", 1), ("Synaptic", 2)])
def test_a_trace_warns_of_nothing_and_takes_any_batch(kind, states, tmp_path):
    net = nn.Sequential(NEURONS[kind]())
    snn_lnm.swap(net)
    example, *others = [[torch.rand(batch, 4) for _ in range(1 + states)] for batch in (2, 2, 5)]
    torch.jit.trace(net[0], example).save(tmp_path / "step.pt")
    traced = torch.jit.load(tmp_path / "step.pt")
    assert "snn_lnm::" in str(traced.inlined_graph)
    for x in others:
        found, expected = traced(*x), net[0](*x)
        assert expected[0].any() and all(map(torch.equal, found, expected))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "immediate"])
def test_a_kept_state_is_not_traced(kind):
    with pytest.raises(RuntimeError, match="trace would make the kept state"):
        torch.jit.trace(model(kind), inputs()[0])


def test_synaptic_notes_each_state():
    """A reset of the membrane alone is no reset."""
    neuron = SynapticLNM(0.8, 0.9, init_hidden=True)

    def half_reset(x):
        neuron.mem = torch.zeros(2, 5)
        return neuron(x)

    out = checkpoint(half_reset, inputs()[0].requires_grad_(), use_reentrant=False)
    with pytest.raises(RuntimeError, match="'syn'"):
        out.sum().backward()
