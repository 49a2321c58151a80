"""`swap`: in place, exact, all or nothing, and honest about what it leaves."""

import copy

import pytest
import snntorch as snn
import torch
from snn_lnm_snntorch import LNM, SynapticLNM
from torch import nn

import snn_lnm


class Tutorial(nn.Module):
    """Nested, with a shared neuron and states passed by hand."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), snn.Leaky(0.8, init_hidden=True))
        self.flat = nn.Flatten()
        self.fc = nn.Linear(27, 4)
        self.lif = snn.Leaky(beta=torch.rand(4), learn_beta=True, learn_threshold=True, reset_mechanism="zero")
        self.again = self.lif

    def forward(self, x):
        mem, out = torch.zeros(0), []
        for x_t in x:
            spk, mem = self.lif(self.fc(self.flat(self.body(x_t))), mem)
            out.append(torch.stack([spk, mem]))
        return torch.stack(out)


def test_outputs_are_the_same_and_then_learn():
    native = Tutorial()
    net = copy.deepcopy(native).eval()
    threshold = net.lif.threshold
    report = snn_lnm.swap(net, degree=3)
    assert [row.path for row in report.swapped] == ["body.2", "lif", "again"] and not report.skipped
    assert net.lif is net.again and isinstance(net.lif, LNM) and not net.lif.training
    assert net.lif.threshold is threshold and net.lif.coefficients.shape == (4, 4)
    x = torch.randn(5, 2, 1, 8, 8) * 2
    assert torch.equal(native(x), net(x))
    net(x).sum().backward()
    assert net.lif.coefficients.grad is not None
    assert "lif" in str(report) and "LNM (degree 3)" in str(report) and "optimizer" in str(report)


def test_hidden_state_survives():
    native = nn.Sequential(snn.Leaky(0.9, init_hidden=True), snn.Synaptic(0.5, 0.9, init_hidden=True))
    x = torch.randn(2, 3)
    native(x)
    net = copy.deepcopy(native)
    snn_lnm.swap(net)
    assert isinstance(net[1], SynapticLNM) and torch.equal(net[0].mem, native[0].mem)
    for _ in range(3):
        assert torch.equal(net(x), native(x)) and torch.equal(net[1].mem, native[1].mem)


def test_hooks_survive():
    net, calls = nn.Sequential(snn.Leaky(0.9, init_hidden=True)), []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    snn_lnm.swap(net)
    net(torch.randn(2, 3))
    assert calls == [1]


def test_twice_is_once():
    net = nn.Sequential(nn.Linear(3, 3), snn.Leaky(0.9))
    snn_lnm.swap(net)
    first = net[1]
    report = snn_lnm.swap(net)
    assert net[1] is first and report.skipped[0].reason == "already learnable"


class Mine(snn.Leaky):
    def forward(self, input_, mem=None):
        return super().forward(2 * input_, mem)


def test_what_it_leaves():
    net = nn.Sequential(snn.Leaky(0.9), Mine(0.9), snn.Alpha(0.9, 0.8))
    kept = list(net)
    with pytest.raises(ValueError, match="strict: some neurons") as error:
        snn_lnm.swap(net, strict=True)
    assert "a subclass of Leaky" in str(error.value) and list(net) == kept
    report = snn_lnm.swap(net)
    assert [row.path for row in report.skipped] == ["1", "2"] and list(net)[1:] == kept[1:]
    assert "difference of two synaptic currents" in report.skipped[1].reason


def test_an_error_in_the_middle_changes_nothing():
    net = nn.Sequential(snn.Leaky(0.9), snn.Leaky(float("nan")))
    kept = list(net)
    with pytest.raises(ValueError, match="beta must be finite"):
        snn_lnm.swap(net)
    assert list(net) == kept


def test_nothing_to_swap():
    net = nn.Sequential(nn.Linear(2, 2))
    report = snn_lnm.swap(net)
    assert not report.rows and "no known spiking neuron" in str(report)
    with pytest.raises(ValueError, match="bare Leaky"):
        snn_lnm.swap(snn.Leaky(0.9))


def test_adapters_are_listed_and_can_be_switched_off(monkeypatch):
    def found():
        (row,) = [row for row in snn_lnm.available_adapters() if row.name == "snntorch"]
        return row

    row = found()
    assert row.distribution == "snn-lnm" and row.framework_version and row.state in ("available", "loaded")
    monkeypatch.setenv("SNN_LNM_DISABLED_ADAPTERS", "snntorch")
    assert found().state == "disabled"
    assert not snn_lnm.swap(nn.Sequential(snn.Leaky(0.9))).rows


def test_a_model_without_numbers():
    with pytest.raises(ValueError, match="meta device"):
        snn_lnm.swap(nn.Sequential(snn.Leaky(0.9)).to("meta"))


@pytest.mark.parametrize("threshold", [0.0, float("inf")])
def test_a_threshold_that_gives_no_domain_is_that_neuron_s_alone(threshold):
    net = nn.Sequential(snn.Leaky(0.9, threshold=threshold), snn.Leaky(0.9))
    report = snn_lnm.swap(net)
    assert [row.path for row in report.swapped] == ["1"] and f"threshold {threshold}" in report.skipped[0].reason
    assert len(snn_lnm.swap(net, domain=None).swapped) == 1


def test_swap_back_is_the_way_back():
    """Same classes, parameters, buffers, state and outputs: nothing remains of the swap."""
    native = nn.Sequential(
        snn.Leaky(torch.rand(3), init_hidden=True, learn_beta=True, learn_threshold=True, reset_mechanism="zero"),
        snn.Leaky(0.7, init_hidden=True, spike_grad=snn.surrogate.sigmoid(5), reset_delay=False),
        snn.Synaptic(0.4, 0.9, init_hidden=True, learn_alpha=True, output=True),
    )
    with torch.no_grad():  # the host's neurons cannot be copied with a live graph
        native(torch.randn(2, 3))
    net = copy.deepcopy(native)
    snn_lnm.swap(net)
    report = snn_lnm.swap_back(net)
    assert [(row.before, row.after) for row in report.swapped] == [
        ("LNM (degree 3)", "Leaky"), ("LNM (degree 3)", "Leaky"), ("SynapticLNM (degree 3)", "Synaptic"),
    ]  # fmt: skip
    assert [type(layer) for layer in net] == [type(layer) for layer in native]
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in native.named_parameters()]
    mine, theirs = net.state_dict(), native.state_dict()
    assert list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in theirs)
    for _ in range(4):
        x = torch.randn(2, 3) * 2
        assert all(torch.equal(a, b) for a, b in zip(net(x), native(x), strict=True))


@pytest.mark.parametrize(
    "index, value, reason",
    [(0, 0.1, "no longer a leak"), (3, 1e-9, "no longer a leak"), (1, 1.1, "left that range")],
)
def test_swap_back_says_what_it_cannot(index, value, reason):
    net = nn.Sequential(snn.Leaky(0.9, init_hidden=True), snn.Leaky(0.9, init_hidden=True))
    snn_lnm.swap(net)
    with torch.no_grad():
        net[0].coefficients[index] = value
    kept = list(net)
    with pytest.raises(ValueError, match=reason):
        snn_lnm.swap_back(net, strict=True)
    assert list(net) == kept
    report = snn_lnm.swap_back(net)
    assert net[0] is kept[0] and type(net[1]) is snn.Leaky and reason in report.skipped[0].reason
    assert "no learnable neuron" in str(snn_lnm.swap_back(nn.Sequential(nn.Linear(2, 2))))


def test_a_learned_leak_goes_back():
    net = nn.Sequential(snn.Leaky(0.9, init_hidden=True))
    snn_lnm.swap(net)
    with torch.no_grad():
        net[0].coefficients[1] = 0.25
    learned = copy.deepcopy(net)
    snn_lnm.swap_back(net)
    assert net[0].beta == 0.25 and not net[0].beta.requires_grad
    for _ in range(4):
        x = torch.randn(2, 3) * 2
        assert torch.equal(net(x), learned(x))
