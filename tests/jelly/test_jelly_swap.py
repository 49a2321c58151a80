"""`swap` and `swap_back` on SpikingJelly models: what is kept, what stays, and why."""

import copy

import jelly_cases as jelly
import pytest
import torch
from hypothesis import given
from snn_lnm_spikingjelly import LNMNode
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import snn_lnm

FOUR = (neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode, neuron.QIFNode)


def model():
    return nn.Sequential(
        layer.Linear(3, 4),
        neuron.LIFNode(2.3, v_threshold=0.3, v_reset=0.1, store_v_seq=True),
        nn.Sequential(neuron.ParametricLIFNode(3.0, False, surrogate_function=surrogate.ATan())),
        neuron.IFNode(v_reset=None, detach_reset=True),
        neuron.QIFNode(2.0, 0.5, 0.5, v_rest=0.25, surrogate_function=surrogate.Erf()),
    )


def nodes(net):
    return [module for module in net.modules() if isinstance(module, neuron.BaseNode)]


@given(case=jelly.cases())
def test_there_and_back(case):
    """Nothing remains of the swap: class, words, parameters, memories, and the host's own call."""
    native = case.native
    with torch.no_grad():
        jelly.run(native, case.x[0])
    net = nn.Sequential(copy.deepcopy(native))
    w = net[0]._parameters.get("w")
    assert not snn_lnm.swap(net, degree=case.degree).skipped and type(net[0]) is LNMNode
    assert net[0].w is w
    assert not snn_lnm.swap_back(net).skipped
    back = net[0]
    assert type(back) is type(native) and repr(back) == repr(native) and back._parameters.get("w") is w
    words = ("v_threshold", "v_reset", "detach_reset", "step_mode", "store_v_seq", "lava_s_cale", "_memories_rv")
    assert all(getattr(back, name) == getattr(native, name) for name in words)
    assert getattr(back, "tau", None) == getattr(native, "tau", None)
    assert getattr(back, "decay_input", None) == getattr(native, "decay_input", None)
    for a, b in zip(jelly.run(back, case.x[1]), jelly.run(native, case.x[1]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_model_goes_on_with_its_live_state(mode):
    native = model()
    functional.set_step_mode(native, mode)
    x = torch.randn(4, 2, 3) * 4

    def outputs(net):
        return net(x) if mode == "m" else torch.stack([net(x_t) for x_t in x])

    with torch.no_grad():
        outputs(native)
    net = copy.deepcopy(native)
    report = snn_lnm.swap(net)
    assert len(report.swapped) == 4 and not report.skipped
    assert all(a.v is not None and torch.equal(a.v, b.v) for a, b in zip(nodes(net), nodes(native), strict=True))
    assert torch.equal(net[1].v_seq, native[1].v_seq)
    # The quadratic node is last: its spikes are those of its input.
    expected = outputs(native)
    assert torch.equal(outputs(net), expected) and expected.any()
    assert all(torch.equal(a.v, b.v) for a, b in zip(nodes(net)[:3], nodes(native)[:3], strict=True))
    for each in (net, native):
        functional.reset_net(each)
    assert torch.equal(outputs(net), outputs(native))


@pytest.mark.parametrize("kind", FOUR)
def test_reset_values_of_the_user_are_kept(kind):
    native = kind()
    native.set_reset_value("v", -0.05)
    net = nn.Sequential(native)
    snn_lnm.swap(net)
    functional.reset_net(net)
    assert net[0].v == -0.05
    snn_lnm.swap_back(net)
    functional.reset_net(net)
    assert type(net[0]) is kind and net[0].v == -0.05


def test_reset_net_forgets_replaced_nodes():
    """The host remembers the modules of a net; a replaced one that somebody keeps would be reset in our place."""
    net = nn.Sequential(neuron.LIFNode(), neuron.IFNode())
    for exchange in (snn_lnm.swap, snn_lnm.swap_back):
        kept = [*net]
        functional.reset_net(net)
        exchange(net)
        net(torch.ones(2, 3))
        functional.reset_net(net)
        assert kept[0] is not net[0] and net[0].v == net[1].v == 0.0


def test_hooks_and_sharing_and_training_mode():
    native, calls = neuron.LIFNode(), []
    net = nn.Sequential(native, nn.Identity(), native).eval()
    handle = native.register_forward_hook(lambda *_: calls.append(1))
    report = snn_lnm.swap(net)
    assert net[0] is net[2] and not net[0].training and len(report.swapped) == 2
    net(torch.ones(2, 3))
    handle.remove()
    net(torch.ones(2, 3))
    assert calls == [1, 1]


class Mine(neuron.LIFNode):
    def neuronal_charge(self, x):
        self.v = x


def replaced():
    node = neuron.LIFNode()
    node.single_step_forward = lambda x: x
    return node


def changed(**attributes):
    node = neuron.LIFNode()
    for name, value in attributes.items():
        setattr(node, name, value)
    return node


def remembers():
    node = neuron.LIFNode()
    node.register_memory("calcium", 0.0)
    return node


def counts():
    node = neuron.LIFNode()
    node.register_buffer("count", torch.zeros(()))
    node.scale = nn.Linear(1, 1)
    return node


@pytest.mark.parametrize(
    "make, reason",
    [
        (Mine, "a subclass of LIFNode that adds neuronal_charge, which would be lost"),
        (neuron.EIFNode, "an exponential in its charge"),
        (replaced, "single_step_forward was replaced"),
        (remembers, "it has a memory calcium, which would be lost"),
        (counts, "it holds count, scale, which would be lost"),
        (lambda: changed(_neuron_precision=(torch.float16, "fp32", "fp32")), "precision"),
        (lambda: changed(v_threshold=torch.ones(3)), "v_threshold is a Tensor"),
        (lambda: changed(v_reset=0), "v_reset is a int"),
        (lambda: neuron.LIFNode(surrogate_function=snn_lnm.surrogate.ATan()), "surrogate_function is of snn_lnm"),
        (lambda: neuron.LIFNode(v_threshold=0.0), "no default domain"),
    ],
)
def test_what_it_leaves(make, reason):
    net = nn.Sequential(make(), neuron.LIFNode())
    kept = [*net]
    with pytest.raises(ValueError, match=reason):
        snn_lnm.swap(net, strict=True)
    assert [*net] == kept
    report = snn_lnm.swap(net)
    assert net[0] is kept[0] and type(net[1]) is LNMNode and reason in report.skipped[0].reason


def test_degrees():
    net = nn.Sequential(neuron.QIFNode(), neuron.LIFNode())
    report = snn_lnm.swap(net, degree=1)
    assert [row.path for row in report.skipped] == ["0"] and "degree 2 does not fit" in report.skipped[0].reason
    assert net[1].degree == 1 and net[1].domain == (-1.5, 1.5)


def test_neurons_without_spikes_are_kept():
    net = nn.Sequential(neuron.NonSpikingLIFNode())
    readout = net[0]
    (row,) = snn_lnm.swap(net, strict=True).rows
    assert (row.outcome, row.reason) == ("kept", "it does not spike") and net[0] is readout


def test_a_quadratic_node_has_no_domain_unless_asked():
    for domain, expected in (("auto", None), ((-9.0, 9.0), (-9.0, 9.0))):
        net = nn.Sequential(neuron.QIFNode())
        snn_lnm.swap(net, domain=domain)
        assert net[0].domain == expected
    report = snn_lnm.swap_back(net)
    assert "ends at the domain" in report.skipped[0].reason


@pytest.mark.parametrize("kind", FOUR)
@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_what_was_learned_stays(kind, index):
    net = nn.Sequential(kind())
    snn_lnm.swap(net)
    with torch.no_grad():
        net[0].coefficients[index] += 2**-20
    report = snn_lnm.swap_back(net)
    assert type(net[0]) is LNMNode and "no longer that of the native" in report.skipped[0].reason
    with torch.no_grad():
        net[0].coefficients[index] -= 2**-20
    assert not snn_lnm.swap_back(net).skipped and type(net[0]) is kind


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: LNMNode(coefficients=[0.0, -1.0]), "did not start as a native"),
        (lambda: LNMNode(surrogate_function="atan"), "of snn_lnm"),
    ],
)
def test_constructed_nodes_that_have_no_native(make, reason):
    net = nn.Sequential(make())
    assert reason in snn_lnm.swap_back(net).skipped[0].reason


def test_changed_words_go_back():
    net = nn.Sequential(neuron.LIFNode(), neuron.LIFNode())
    snn_lnm.swap(net)
    net[0].v_threshold, net[0].tau, net[1].v_reset = 0.7, 0.5, -0.5
    report = snn_lnm.swap_back(net)
    assert (net[0].v_threshold, net[0].tau) == (0.7, 0.5) and "v_reset was changed" in report.skipped[0].reason
    native, x = copy.deepcopy(net[0]), torch.randn(2, 3)
    snn_lnm.swap(net)
    assert type(net[0]) is LNMNode and torch.equal(net[0](x), native(x)) and torch.equal(net[0].v, native.v)


def test_constructed_nodes_go_back():
    words = {"v_threshold": 0.5, "step_mode": "m"}
    net = nn.Sequential(LNMNode(3.0, False, **words), LNMNode(None, **words), LNMNode(3.0, learn_tau=True, **words))
    ours = copy.deepcopy(net)
    snn_lnm.swap_back(net)
    assert [type(node) for node in net] == [neuron.LIFNode, neuron.IFNode, neuron.ParametricLIFNode]
    x = torch.randn(4, 2, 3) * 2
    assert torch.equal(net(x), ours(x))


def test_double_models_and_their_state():
    net = nn.Sequential(nn.Linear(3, 4), neuron.LIFNode(v_reset=0.1, step_mode="m")).double()
    native, x = copy.deepcopy(net), torch.randn(4, 2, 3, dtype=torch.float64) * 3
    snn_lnm.swap(net)
    assert torch.equal(net(x), native(x))
    snn_lnm.swap_back(net.double())
    assert type(net[1]) is neuron.LIFNode and net[1].v_reset == 0.1


def test_neurons_without_tensors_go_where_the_model_is():
    for order in (slice(None), slice(None, None, -1)):  # before it, or else after it
        net = nn.Sequential(*[nn.Linear(3, 3, device="meta"), neuron.LIFNode()][order])
        snn_lnm.swap(net)
        assert all(value.device.type == "meta" for value in net.parameters())
    spread = nn.Sequential(
        neuron.LIFNode(), nn.Linear(3, 3), neuron.IFNode(), nn.Linear(3, 3, device="meta"), nn.ReLU(), neuron.LIFNode()
    )
    snn_lnm.swap(spread)
    assert [spread[place].coefficients.device.type for place in (0, 2, 5)] == ["cpu", "cpu", "meta"]
