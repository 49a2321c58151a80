"""Swapped neurons against Norse's own: spikes and states to the bit, gradients up to rounding."""

import norse.torch as norse
import pytest
import rotation
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from norse.torch.functional.reset import reset_subtract, reset_value
from norse.torch.module.iaf import IAF, IAFCell
from snn_lnm_norse import LNMCell, LNMParameters
from torch import nn

import snn_lnm

SEQUENCES = (norse.LIF, norse.LIFRecurrent, IAF)
RECURRENT = (norse.LIFRecurrentCell, norse.LIFRecurrent)
KINDS = [norse.LIFCell, norse.LIF, norse.LIFBoxCell, IAFCell, IAF, *RECURRENT]
PARAMETERS = {norse.LIFBoxCell: norse.LIFBoxParameters, IAFCell: norse.IAFParameters, IAF: norse.IAFParameters}
METHODS = ["super", "triangle", "tanh", "circ", "heavi_erfc"]
HIDDEN = 5
FEW = settings(max_examples=max(1, settings.default.max_examples // 2))  # of each of many kinds


def run(neuron, x, state=None):
    """Spikes of every step and the last state, whichever of Norse's two ways through time."""
    if isinstance(neuron, (norse.module.snn.SNN, norse.module.snn.SNNRecurrent)):
        return neuron(x, state)
    spikes = []
    for x_t in x.unbind(0):
        z, state = neuron(x_t, state)
        spikes.append(z)
    return torch.stack(spikes), state


def pair(kind, words, degree, seed, order="swap"):
    """The host's neuron twice, one of them swapped; ``order``: before or after both became float64."""
    found = []
    for _ in range(2):
        torch.manual_seed(seed)
        sizes = (HIDDEN, HIDDEN) if kind in RECURRENT else ()
        p = PARAMETERS.get(kind, norse.LIFParameters)(**words["p"])
        found.append(nn.ModuleList([kind(*sizes, p=p, dt=words["dt"])]))
    for word in order.split(", "):
        if word == "double":
            _ = [net.double() for net in found]
        else:
            report = snn_lnm.swap(found[1], degree=degree)
            assert not report.skipped, str(report)
    return found[0][0], found[1][0]


@st.composite
def words_of(draw, kind):
    """Parameters of ``kind``: scalars, or one per neuron, of any sensible size."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def number(low, high):
        if draw(st.booleans()):
            return torch.tensor(draw(st.floats(low, high, width=32)))
        return torch.empty(HIDDEN).uniform_(low, high, generator=generator)

    p = {"v_th": number(0.125, 1.5), "method": draw(st.sampled_from(METHODS))}
    p["alpha"] = torch.tensor(draw(st.floats(0.25, 100, width=32)))
    if kind in (IAFCell, IAF):
        p["v_reset"] = torch.tensor(draw(st.floats(-0.5, 0.5, width=32)))
    else:
        p |= {"tau_mem_inv": number(10, 900), "v_reset": number(-0.5, 0.5)}
        p["v_leak"] = torch.tensor(draw(st.floats(-0.5, 0.5, width=32)))
        if kind is norse.LIFBoxCell:
            p["reset_method"] = draw(st.sampled_from([reset_value, reset_subtract]))
        else:
            p["tau_syn_inv"] = number(10, 900)
    return {"p": p, "dt": draw(st.sampled_from([0.001, 0.0007, 0.0015625]))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@FEW
@given(data=st.data(), degree=st.sampled_from(rotation.some(range(1, 6), 2)), seed=st.integers(0, 2**31))
def test_swapped_is_native(kind, dtype, data, degree, seed):
    """In float32; and in float64, whichever comes first, the swap or ``.double()``."""
    orders = ["double, swap", "swap, double"] if dtype == torch.float64 else ["swap"]
    order = data.draw(st.sampled_from(orders))
    native, ours = pair(kind, data.draw(words_of(kind)), degree, seed, order)
    shape = data.draw(st.sampled_from([(HIDDEN,), (3, HIDDEN), (2, 3, HIDDEN)]))
    steps = data.draw(st.integers(1, 8))
    x = (torch.randn(steps, *shape, dtype=torch.float64) * data.draw(st.sampled_from([1.0, 4.0]))).to(dtype)
    state = None
    if data.draw(st.booleans()):
        state = native.initial_state(x if kind in SEQUENCES else x[0])
        generated = [torch.randn(shape, dtype=torch.float64).to(dtype) for _ in state]
        if kind in RECURRENT:
            generated[0] = (generated[0] > 0).to(dtype)
        state = type(state)(*generated)
    check(native, ours, x, state)


def check(native, ours, x, state=None):
    found = []
    for neuron in (native, ours):
        leaf = x.clone().requires_grad_()
        spikes, last = run(neuron, leaf, state)
        values = [spikes, *last]
        generator = torch.Generator().manual_seed(3)
        loss = 0.0
        for value in values:
            value = value.to(x.dtype)
            loss = loss + (value * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(x.dtype)).sum()
        found.append(([value.detach() for value in values], torch.autograd.grad(loss, leaf)[0], last._fields))
    (theirs, host, fields), (mine, gradient, names) = found
    assert fields == names
    for a, b in zip(theirs, mine, strict=True):
        assert a.dtype == b.dtype and torch.equal(a.expand_as(b), b)
    # Each entry is a chain of at most 8 steps of about 40 operations (with the recurrent matrix product).
    eps = torch.finfo(x.dtype).eps
    assert (host - gradient).abs().max() <= 8 * 40 * eps * (1 + host.abs().max())


def test_the_inputs_do_spike():
    """The comparison above would be worth little on silent neurons."""
    _, ours = pair(norse.LIF, {"p": {"tau_mem_inv": torch.tensor(500.0)}, "dt": 0.001}, 3, 0)
    assert 0.1 < ours(torch.randn(20, 4, HIDDEN) * 4)[0].mean() < 0.9


def behaviour(**changes):
    """Izhikevich's neuron with its recovery variable switched off."""
    p = norse.IzhikevichParameters(a=0.0, b=0.0, c=-64.0, d=0.0)._replace(**changes)
    state = norse.IzhikevichState(v=torch.tensor(-64.0), u=torch.tensor(0.0))
    return norse.IzhikevichSpikingBehavior(p, state)


def test_the_quadratic_part_of_izhikevich_to_the_bit_on_dyadic_numbers():
    """sq = 1/32, mn = 5, bias = 140, gain 1/4: float64 holds every intermediate of a few steps exactly."""
    spiking = behaviour(sq=0.03125, tau_inv=250.0)
    cells = [nn.ModuleList([norse.IzhikevichCell(spiking, dt=0.001)]) for _ in range(2)]
    assert 250.0 * 0.001 == 0.25
    snn_lnm.swap(cells[1], degree=3)
    assert isinstance(cells[1][0], LNMCell) and cells[1][0].domain is None
    generator = torch.Generator().manual_seed(0)
    x = (torch.randint(-64, 65, (2, 4, HIDDEN), generator=generator) * 4.0).double()
    start = (torch.randint(-80, 29, (4, HIDDEN), generator=generator)).double()
    (theirs, host), (mine, last) = (
        run(cell[0], x, norse.IzhikevichState(v=start, u=torch.zeros_like(start))) for cell in cells
    )
    assert torch.equal(theirs, mine) and torch.equal(host.v, last.v) and 0 < mine.mean() < 1


def test_izhikevich_with_recovery_stays():
    net = nn.ModuleList([norse.IzhikevichCell(behaviour(a=0.02))])
    report = snn_lnm.swap(net)
    assert not report.swapped and "recovery variable" in report.skipped[0].reason


@given(st.integers(0, 2**31), st.integers(2, 6))
def test_izhikevich_within_the_bound_of_its_roundings(seed, degree):
    """One step: the host's and our h are sums of the same five terms, in another order.

    With S = |v| + g·(sq·v² + mn·|v| + bias + |x|), each side makes fewer than 12 roundings of partial
    results below 2·S, so they differ by less than 2·12·eps·2·S; spikes are equal where h is further
    from the threshold than that.
    """
    cells = [nn.ModuleList([norse.IzhikevichCell(behaviour())]) for _ in range(2)]
    snn_lnm.swap(cells[1], degree=degree)
    generator = torch.Generator().manual_seed(seed)
    v = torch.empty(64, HIDDEN, dtype=torch.float64).uniform_(-90, 29, generator=generator)
    x = torch.randn(1, 64, HIDDEN, generator=generator, dtype=torch.float64) * 100
    p = cells[0][0].p
    gain = torch.tensor(p.tau_inv * 0.001)
    sq, mn, bias = (float(torch.tensor(float(value))) for value in (p.sq, p.mn, p.bias))
    # The host's numbers are doubles, ours float32 (a module's own type): compare with the rounded ones.
    cells[0][0].p = p._replace(sq=sq, tau_inv=float(gain.float()) / 0.001)
    (z, host), (s, last) = (run(c[0], x, norse.IzhikevichState(v=v, u=torch.zeros_like(v))) for c in cells)
    scale = v.abs() + gain * (sq * v**2 + mn * v.abs() + bias + x[0].abs())
    bound = 2 * 12 * torch.finfo(torch.float64).eps * 2 * scale
    h = v + gain * (sq * v**2 + mn * v + bias + x[0])
    clear = (h - 30).abs() > bound
    assert clear.any() and torch.equal(z[0][clear], s[0][clear])
    same = (z == s)[0]
    assert ((host.v - last.v).abs()[same] <= bound[same]).all()


def test_parameters_given_by_hand_are_the_host_s_defaults():
    native, ours = norse.LIFCell(), LNMCell(LNMParameters())
    x = torch.randn(9, 3, HIDDEN) * 4
    (z, host), (s, last) = run(native, x), run(ours, x)
    assert torch.equal(z, s) and torch.equal(host.v, last.v) and torch.equal(host.i, last.i) and z.any()
