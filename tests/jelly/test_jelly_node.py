"""LNMNode in the host's life: its helpers, memories, checkpoints, copies; and what it refuses."""

import copy
import pickle

import jelly_cases as jelly
import pytest
import torch
from snn_lnm_spikingjelly import LNMNode
from spikingjelly.activation_based import base, functional, layer, monitor, neuron, surrogate
from torch import nn

import snn_lnm
from snn_lnm.surrogate import ATan


def multi(**words):
    return LNMNode(step_mode="m", **words)


def test_the_host_s_helpers_see_a_native_node():
    net = nn.Sequential(layer.Linear(3, 4), LNMNode(store_v_seq=True), nn.Sequential(LNMNode(v_reset=-0.5)))
    node = net[1]
    assert isinstance(node, neuron.BaseNode) and [*base.named_memories(net)] == [("1.v", 0.0), ("2.0.v", -0.5)]
    functional.set_step_mode(net, "m")
    assert node.step_mode == "m" and net[2][0].step_mode == "m"
    net(torch.randn(5, 2, 3)).sum().backward()
    assert node.v.shape == (2, 4) and node.v_seq.shape == (5, 2, 4) and node.v.grad_fn is not None
    functional.detach_net(net)
    assert node.v.grad_fn is None and node.v_seq.grad_fn is None
    net(torch.randn(5, 2, 3)).sum().backward()
    functional.reset_net(net)
    assert node.v == 0.0 and net[2][0].v == -0.5 and node.v_seq is None


def test_truncated_backpropagation():
    """Two detached halves give the sum of the gradients of each half alone."""
    x, node = torch.randn(6, 2, 3), multi()
    node(x[:3]).sum().backward()
    functional.detach_net(node)
    start = node.v
    node(x[3:]).sum().backward()
    total, node.coefficients.grad = node.coefficients.grad, None
    functional.reset_net(node)
    node(x[:3]).sum().backward()
    node.v = start
    node(x[3:]).sum().backward()
    assert torch.equal(total, node.coefficients.grad) and total.any()


def test_one_step_at_a_time_is_the_sequence():
    x = torch.randn(5, 2, 3) * 3
    step, sequence = LNMNode(1.7, v_reset=None, store_v_seq=True), multi(tau=1.7, v_reset=None, store_v_seq=True)
    for a, b in zip(jelly.run(step, x), jelly.run(sequence, x), strict=True):
        assert torch.equal(a, b)


def test_explicit_states():
    node, x = multi(), torch.randn(5, 2, 3) * 3
    outputs, states = base.to_functional_forward(node)((x,), (0.25,))
    assert node.v == 0.0
    node.v = 0.25
    assert torch.equal(node(x), outputs[0]) and torch.equal(node.v, states[0])


def test_monitors_read_it():
    net = nn.Sequential(multi(store_v_seq=True))
    seen = monitor.AttributeMonitor("v_seq", pre_forward=False, net=net, instance=neuron.BaseNode)
    net(torch.randn(4, 2, 3))
    assert seen["0"][0].shape == (4, 2, 3)


def test_thresholds_by_class():
    """The host's `set_threshold_margin` puts a tensor `[N, classes]` where the number was."""
    node, labels = multi(), torch.eye(3)[:2]
    functional.set_threshold_margin(node, labels, threshold0=0.25, threshold1=1.0)
    x = torch.full((1, 2, 3), 1.0)
    assert torch.equal(node(x)[0], 1 - labels)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_threshold_tensors_broadcast_as_in_the_host(shape):
    node, threshold, x = multi(tau=None), torch.rand(shape), torch.rand(1, 2, 3, 4)
    node.v_threshold = threshold
    assert torch.equal(node(x)[0], (x[0] >= threshold).float())


def test_nir_is_refused_with_a_sentence():
    from spikingjelly.activation_based import nir_exchange

    with pytest.raises(TypeError, match="NIR has no node"):
        nir_exchange.export_to_nir(nn.Sequential(layer.Linear(3, 2), LNMNode()), torch.randn(1, 3))


def test_one_graph_under_compile():
    node, x = multi(store_v_seq=True), torch.randn(4, 2, 3) * 3
    torch.compiler.reset()
    assert torch.equal(torch.compile(node, fullgraph=True, backend="eager")(x), multi()(x))


class Doubled(LNMNode):
    def single_step_functional_forward(self, inputs, states, **kwargs):
        return super().single_step_functional_forward((2 * inputs[0],), states, **kwargs)


@pytest.mark.parametrize("store", [True, False])
def test_a_subclass_with_its_own_step_is_called(store):
    x = torch.randn(4, 2, 3)
    own, plain = Doubled(step_mode="m", store_v_seq=store), multi(store_v_seq=store)
    for a, b in zip(jelly.run(own, x), jelly.run(plain, 2 * x), strict=True):
        assert torch.equal(a, b)


# ---- copies and checkpoints


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda node: pickle.loads(pickle.dumps(node))])
def test_copies_go_on_alike(copied):
    node = multi(tau=2.3, v_reset=0.1, learn_tau=True, store_v_seq=True, degree=4).double()
    with torch.no_grad():
        node(torch.randn(3, 2, 3, dtype=torch.float64))
    other, x = copied(node), torch.randn(3, 2, 3, dtype=torch.float64) * 3
    for a, b in zip(jelly.run(other, x), jelly.run(node, x), strict=True):
        assert torch.equal(a, b)
    assert other.is_native and repr(other) == repr(node)


def test_checkpoints_carry_what_was_learned():
    trained = multi(learn_tau=True, domain=(-2.0, 3.0))
    with torch.no_grad():
        trained.coefficients.add_(0.125)
        trained.w.fill_(0.75)
    fresh, x = multi(learn_tau=True), torch.randn(4, 2, 3) * 3
    fresh.load_state_dict(trained.state_dict())
    assert [*trained.state_dict()] == ["w", "coefficients", "_extra_state"] and fresh.domain == (-2.0, 3.0)
    assert torch.equal(fresh(x), trained(x))


@pytest.mark.parametrize("kind", [neuron.LIFNode, neuron.ParametricLIFNode, neuron.QIFNode])
def test_native_checkpoints_load(kind):
    native = nn.Sequential(nn.Linear(3, 4), kind(3.0, step_mode="m"))
    if kind is neuron.ParametricLIFNode:
        native[1].w.data.fill_(0.3)
    net = nn.Sequential(nn.Linear(3, 4), kind(3.0, step_mode="m"))
    snn_lnm.swap(net)
    net.load_state_dict(native.state_dict())
    x = torch.randn(4, 2, 3) * 3
    assert torch.equal(net(x), native(x))
    with torch.no_grad():
        net[1].coefficients.add_(0.5)
    # They would not mean the native neuron now.
    with pytest.raises(RuntimeError, match=r"Missing key.*1\.coefficients"):
        net.load_state_dict(native.state_dict())


def test_a_constructed_polynomial_is_no_native_neuron():
    with pytest.raises(RuntimeError, match="Missing key"):
        LNMNode(coefficients=[0.0, -1.0]).load_state_dict({})


def test_meta_nodes_take_their_numbers_from_a_checkpoint():
    def meta(**words):
        with torch.device("meta"):
            return LNMNode(**words)

    with pytest.raises(RuntimeError, match="Missing key"):
        meta(coefficients=[0.0, -1.0]).load_state_dict({}, assign=True)
    native, node, x = neuron.LIFNode(v_reset=0.1), meta(v_reset=0.1), torch.randn(2, 3, dtype=torch.float64)
    node.load_state_dict(native.state_dict(), assign=True)
    assert torch.equal(node(x), native(x)) and torch.equal(node.v, native.v)
    trained, node, x = LNMNode(coefficients=[0.1, -0.9, 0.2, -0.1]), meta(domain=None), torch.randn(2, 3)
    node.load_state_dict(trained.state_dict(), assign=True)
    assert torch.equal(node(x), trained(x)) and torch.equal(node.v, trained.v)


def test_coefficients_of_every_layout_and_type():
    assert LNMNode(coefficients=[0, -1, 0.5]).degree == 2
    assert LNMNode(coefficients=torch.tensor([0, -1])).coefficients.dtype == torch.float32
    assert LNMNode(coefficients=torch.zeros(2, dtype=torch.float64)).coefficients.dtype == torch.float64
    theta, x = torch.randn(3, 4) * 0.2, torch.randn(5, 2, 3, 4)
    whole = multi(coefficients=theta)
    rows = [multi(coefficients=theta[c]) for c in range(3)]
    assert torch.equal(whole(x), torch.stack([row(x[:, :, c]) for c, row in enumerate(rows)], 2))
    fixed = LNMNode(learn_coefficients=False)
    assert not [*fixed.parameters()] and "coefficients" in fixed.state_dict()


def test_surrogates_of_both_packages():
    node = multi(surrogate_function="atan")
    assert node.surrogate_function == ATan() and "ATan" in repr(node)
    x = torch.randn(4, 2, 3) * 3
    native = neuron.LIFNode(surrogate_function=surrogate.ATan(), step_mode="m")
    assert torch.equal(node(x), native(x))


# ---- what it refuses


NODE = multi(coefficients=torch.zeros(3, 2), store_v_seq=True)
CALLS = [
    (TypeError, "tau must be a number, got '2'", lambda: LNMNode(tau="2")),
    (ValueError, "tau must be above 1", lambda: LNMNode(tau=1.0)),
    (ValueError, "tau must not be NaN", lambda: LNMNode(tau=float("nan"))),
    (ValueError, "learn_tau=True needs a tau", lambda: LNMNode(tau=None, learn_tau=True)),
    (TypeError, "v_threshold must be a number, got None", lambda: LNMNode(v_threshold=None)),
    (TypeError, "v_threshold must be a number, got tensor", lambda: LNMNode(v_threshold=torch.ones(()))),
    (TypeError, "v_threshold must be a number, got True", lambda: LNMNode(v_threshold=True)),
    (ValueError, "v_reset must not be NaN", lambda: LNMNode(v_reset=float("nan"))),
    (TypeError, "decay_input must be a bool", lambda: LNMNode(decay_input=1)),
    (TypeError, "detach_reset must be a bool", lambda: LNMNode(detach_reset=None)),
    (ValueError, "step_mode must be 's'", lambda: LNMNode(step_mode="t")),
    (TypeError, "surrogate must be a name", lambda: LNMNode(surrogate_function=3)),
    (TypeError, "surrogate must be a name", lambda: LNMNode(surrogate_function=surrogate.Sigmoid)),
    (ValueError, "unknown surrogate 'no'", lambda: LNMNode(surrogate_function="no")),
    (ValueError, "degree must be at least 1", lambda: LNMNode(degree=0)),
    (ValueError, "between 0 and 8", lambda: LNMNode(degree=9)),
    (TypeError, "degree must be an int", lambda: LNMNode(degree=2.0)),
    (ValueError, "contradicts", lambda: LNMNode(degree=3, coefficients=[0.0, 1.0])),
    (TypeError, "coefficients must be a tensor", lambda: LNMNode(coefficients="cubic")),
    (ValueError, "got a scalar", lambda: LNMNode(coefficients=1.0)),
    (ValueError, "finite", lambda: LNMNode(coefficients=[0.0, float("inf")])),
    (ValueError, "finite with lo < hi", lambda: LNMNode(domain=(1, 0))),
    (TypeError, r"domain must be \(lo, hi\)", lambda: LNMNode(domain="all")),
    (ValueError, "no default domain", lambda: LNMNode(v_threshold=0.0)),
    (ValueError, "unknown backend", lambda: LNMNode(backend="cupy")),
    (TypeError, "must be a torch.Tensor, got list", lambda: NODE([1.0])),
    (TypeError, "torch.complex64", lambda: NODE(torch.ones(2, 3, dtype=torch.complex64))),
    (ValueError, r"\[T, N, ...\]", lambda: NODE(torch.tensor(1.0))),
    (ValueError, "does not fit", lambda: NODE(torch.ones(4, 2, 5))),
]


@pytest.mark.parametrize("kind, message, call", CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input_changes_nothing(kind, message, call):
    NODE.v = before = torch.rand(2, 3)
    with pytest.raises(kind, match=message):
        call()
    assert NODE.v is before and NODE.v_seq is None
