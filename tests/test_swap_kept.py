"""`swap` loses nothing in silence: what a neuron has of its own, who else holds it, every neuron of a framework."""

import contextlib
import dataclasses
import functools
import gc
import inspect
import itertools
import sys
import time
import types
import weakref
from collections import deque

import norse.torch as norse
import pytest
import snn_lnm_norse.adapter
import snn_lnm_snntorch.adapter
import snntorch as snn
import torch
from optional import HAS_SPIKINGJELLY
from torch import nn

import snn_lnm
from snn_lnm.swapping import holders

ADAPTERS = {"snntorch": snn_lnm_snntorch.adapter.adapter, "norse": snn_lnm_norse.adapter.adapter}
MAKE = {"snntorch": lambda: snn.Leaky(0.9, init_hidden=True), "norse": norse.LIFCell}
HOMES = {"snntorch": "snntorch._neurons", "norse": "norse.torch.module", "spikingjelly": ""}
OTHERS = {
    "snntorch": "RecurrentOneToOne",
    "norse": "LConv2d Lift RegularizationCell RecurrentSequential SequentialState SpikesToTimesDecoder ExpFilter "
    "SpatialReceptiveField2d SampledSpatialReceptiveField2d ParameterizedSpatialReceptiveField2d "
    "TemporalReceptiveField ConstantCurrentLIFEncoder PoissonEncoder PoissonEncoderStep PopulationEncoder "
    "SignedPoissonEncoder SignedPoissonEncoderStep SpikeLatencyEncoder SpikeLatencyLIFEncoder",
    "spikingjelly": "",
}
"""Modules beside the neurons that are none."""
if HAS_SPIKINGJELLY:
    import snn_lnm_spikingjelly.adapter
    from spikingjelly.activation_based import memopt, neuron

    ADAPTERS["spikingjelly"] = snn_lnm_spikingjelly.adapter.adapter
    MAKE["spikingjelly"] = neuron.LIFNode
    HOMES["spikingjelly"] = "spikingjelly.activation_based.neuron"
FRAMEWORKS = pytest.mark.parametrize("framework", [*ADAPTERS])


def without_a_verdict(framework):
    """Classes of the framework's neuron modules that are neither swapped, nor kept, nor refused with a reason."""
    adapter = ADAPTERS[framework]
    bases = adapter.native if isinstance(adapter.native, tuple) else (adapter.native,)
    known = {*adapter.replace, *adapter.reasons, *bases}
    parents = {parent for kind in known for parent in kind.__mro__ if not issubclass(parent, tuple(adapter.replace))}
    return [
        kind.__name__
        for name, module in [*sys.modules.items()]
        if name.startswith(HOMES[framework])
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, nn.Module) and kind.__module__ == name
        if kind not in known | parents and not issubclass(kind, adapter.readouts) and not kind.__name__.startswith("_")
        if kind.__name__ not in OTHERS[framework].split()
    ]


@FRAMEWORKS
def test_every_neuron_of_the_installed_framework_has_a_verdict(framework):
    """A neuron of a new release fails here: give it a counterpart or a reason, or name it as no neuron above."""
    assert not without_a_verdict(framework)
    assert all(ADAPTERS[framework].reasons.values())


@FRAMEWORKS
def test_a_neuron_that_nobody_named_is_met(framework, monkeypatch):
    new = type("NewNode", (nn.Module,), {"__module__": HOMES[framework]})
    monkeypatch.setattr(sys.modules[HOMES[framework]], "NewNode", new, raising=False)
    assert without_a_verdict(framework) == ["NewNode"]
    adapter = dataclasses.replace(ADAPTERS[framework], reasons={})
    monkeypatch.setitem(ADAPTERS, framework, adapter)
    assert len(without_a_verdict(framework)) > 5


def spiking_and_reason():
    yield snn.LeakyParallel(3, 3), "no reset"
    yield snn.StateLeaky(0.9, 3), "convolution over time"
    yield snn.SLSTM(3, 3), "LSTM"
    yield snn.RLeaky(0.9, linear_features=3), "feeds its spikes back"
    yield norse.CobaLIFCell(3, 3), "conductances"
    yield norse.LIFRefracCell(), "refractory"
    yield norse.LSNNCell(), "threshold adapts"
    yield norse.LIFAdEx(), "exponential"
    if HAS_SPIKINGJELLY:
        yield neuron.PSN(4), "no membrane"
        yield neuron.GatedLIFNode(T=4), "gates"
        yield neuron.SimpleLIFNode(2.0, True), "use LIFNode"
        yield type("Mine", (neuron.KLIFNode,), {})(), "ReLU"


def test_neurons_outside_the_usual_base_class_have_a_row_and_fail_strict():
    for native, reason in spiking_and_reason():
        net = nn.Sequential(nn.Linear(3, 3), native)
        (row,) = snn_lnm.swap(net).rows
        assert (row.path, row.outcome, row.after) == ("1", "refused", "") and reason in row.reason
        with pytest.raises(ValueError, match="strict: some neurons"):
            snn_lnm.swap(net, strict=True)


def readouts():
    yield from (norse.LICell(), norse.LI(), norse.LILinearCell(3, 3), norse.LIBoxCell())
    if HAS_SPIKINGJELLY:
        yield from (neuron.NonSpikingIFNode(), neuron.NonSpikingLIFNode())


def test_readouts_are_kept_and_fail_nothing():
    for readout in readouts():
        net = nn.Sequential(MAKE["norse"](), readout)
        report = snn_lnm.swap(net, strict=True)
        assert net[1] is readout and [row.outcome for row in report.rows] == ["swapped", "kept"]
        assert report.kept[0].reason == "it does not spike" and "kept" in str(report)


def test_an_error_of_strict_prints_only_what_stands_in_the_way():
    net = nn.Sequential(snn.Leaky(0.9), snn.Alpha(0.9, 0.8), norse.LICell())
    with pytest.raises(ValueError, match="Alpha") as error:
        snn_lnm.swap(net, strict=True)
    assert "LNM" not in str(error.value) and "LICell" not in str(error.value) and type(net[0]) is snn.Leaky


# ---- what one neuron has of its own


def patched(native):
    native.forward = types.MethodType(lambda self, x: x, native)


def checkpointed(native):
    native.register_load_state_dict_post_hook(lambda *_: None)


@FRAMEWORKS
@pytest.mark.parametrize(
    "change, reason",
    [
        (patched, "its forward was replaced, and would be lost"),
        (lambda n: n.register_buffer("alive", torch.ones(3)), "it holds alive, which would be lost"),
        (lambda n: n.register_parameter("scale", nn.Parameter(torch.ones(3))), "it holds scale, which would be lost"),
        (lambda n: n.add_module("norm", nn.Identity()), "it holds norm, which would be lost"),
        (checkpointed, "hooks on its state_dict"),
        (lambda n: setattr(n, "degree", 7), "its attribute degree"),
    ],
)
def test_what_would_be_lost_is_a_reason_to_stay(framework, change, reason):
    net = nn.Sequential(MAKE[framework]())
    native = net[0]
    change(native)
    with pytest.raises(ValueError, match="strict"):
        snn_lnm.swap(net, strict=True)
    (row,) = snn_lnm.swap(net).refused
    assert net[0] is native and reason in row.reason


@FRAMEWORKS
@pytest.mark.parametrize("change", [patched, lambda n: n.register_buffer("alive", torch.ones(3))])
def test_and_on_the_way_back(framework, change):
    net = nn.Sequential(MAKE[framework]())
    snn_lnm.swap(net)
    ours = net[0]
    change(ours)
    assert "would be lost" in snn_lnm.swap_back(net).refused[0].reason and net[0] is ours


def test_a_gradient_hook_on_a_parameter_that_goes_is_a_reason():
    net = nn.Sequential(snn.Leaky(0.9, learn_beta=True, learn_threshold=True))
    net[0].threshold.register_hook(lambda gradient: gradient)  # this parameter stays
    assert snn_lnm.swap(net).swapped
    net = nn.Sequential(snn.Leaky(0.9, learn_beta=True))
    net[0].beta.register_hook(lambda gradient: gradient)
    assert "its beta has a gradient hook" in snn_lnm.swap(net).refused[0].reason


@FRAMEWORKS
def test_attributes_of_the_user_come_along_and_no_others(framework):
    net = nn.Sequential(MAKE[framework]())
    fresh, ours = {*vars(MAKE[framework]())}, nn.Sequential(MAKE[framework]())
    snn_lnm.swap(ours)
    net[0].name, net[0].my_rate, net[0]._mine = "first", 0.3, [1]
    net[0](torch.ones(2, 3))
    after_a_call = {*vars(net[0])}
    mine = net[0]._mine
    assert snn_lnm.swap(net).swapped
    assert (net[0].name, net[0].my_rate) == ("first", 0.3) and net[0]._mine is mine
    assert {*vars(net[0])} - {*vars(ours[0])} == {"name", "my_rate", "_mine"}
    net[0](torch.ones(2, 3))
    with contextlib.suppress(AttributeError):
        net[0].reset_mem()
    net[0].later = 1
    assert snn_lnm.swap_back(net).swapped
    kept = {*vars(net[0])}
    assert {"name", "my_rate", "_mine", "later"} <= kept and fresh <= kept <= after_a_call | {"later"}


def test_to_tell_them_apart_draws_no_weights_and_registers_nothing():
    net = nn.Sequential(norse.LIFRecurrentCell(2, 3), snn.Leaky(0.9), snn.Synaptic(0.8, 0.9))
    others = weakref.WeakSet(snn.SpikingNeuron.instances)
    state = torch.get_rng_state()
    for exchange in (snn_lnm.swap, snn_lnm.swap_back):
        exchange(net, strict=True)
        gc.collect()  # a native neuron holds itself
        alive = weakref.WeakSet(n for n in snn.SpikingNeuron.instances if isinstance(n, snn.SpikingNeuron))
        assert {*alive} - {*others} == {net[1], net[2]}
    assert torch.equal(torch.get_rng_state(), state)


def test_a_neuron_whose_arguments_cannot_be_read_stays(monkeypatch):
    class Hidden(snn.SpikingNeuron):
        def __init__(self, rate):
            super().__init__()
            self.period = 1 / rate

    adapter = ADAPTERS["snntorch"]
    build = {Hidden: lambda old, options: snn_lnm_snntorch.neurons.LNM(0.9)}
    monkeypatch.setattr(
        sys.modules["snn_lnm.swapping.swaps"], "loaded_adapters", lambda: [dataclasses.replace(adapter, replace=build)]
    )
    (row,) = snn_lnm.swap(nn.Sequential(Hidden(2.0))).refused
    assert row.reason == "its rate cannot be read, and what else is of Hidden cannot be told"


@FRAMEWORKS
def test_a_subclass_that_only_presets_arguments_is_its_parent(framework):
    parent = type(MAKE[framework]())

    class Preset(parent):
        """Only a constructor."""

        def __init__(self):
            super().__init__(*([0.7] if framework == "snntorch" else []))
            self.tag = "preset"

    class Again(Preset):
        pass

    net = nn.Sequential(Again())
    (row,) = snn_lnm.swap(net, strict=True).rows
    assert row.before == "Again" and isinstance(net[0], ADAPTERS[framework].swapped) and net[0].tag == "preset"
    assert snn_lnm.swap_back(net, strict=True).swapped[0].after == parent.__name__


@FRAMEWORKS
def test_a_subclass_that_does_more_stays_and_the_reason_says_what(framework):
    parent = type(MAKE[framework]())
    body = {"forward": lambda self, *a: None, "rate": 0.5}
    mine = type("Mine", (type("Between", (parent,), body),), {})
    native = MAKE[framework]()
    native.__class__ = mine
    (row,) = snn_lnm.swap(nn.Sequential(native)).rows
    assert row.reason == f"a subclass of {parent.__name__} that overrides forward and adds rate, which would be lost"


def test_norse_numbers_that_train_from_now_on_are_said():
    p = norse.LIFParameters(tau_mem_inv=nn.Parameter(torch.full((3,), 100.0)), v_leak=nn.Parameter(torch.zeros(3)))
    net = norse.SequentialState(nn.Linear(4, 3), norse.LIFCell(p), norse.LIFCell())
    first, second = snn_lnm.swap(net, learn_coefficients=False).rows
    assert "its tau_mem_inv is an nn.Parameter, and trains from now on" in first.reason
    assert "its v_leak is an nn.Parameter, of which the new neuron has a copy" in first.reason
    assert [name for name, _ in net[1].named_parameters()] == ["tau_mem_inv"] and second.reason == ""


def test_neurons_know_where_they_are():
    net = nn.Sequential(snn.Leaky(0.9), nn.Sequential(norse.LIFCell()))
    net.again = net[0]
    snn_lnm.swap(net)
    assert (net[0].path, net[1][0].path) == ("0", "1.0")


# ---- who else holds a neuron


class Holder:
    def __init__(self, lif):
        self.lif = lif


class Slots:
    __slots__ = ("lif",)

    def __init__(self, lif):
        self.lif = lif


def closure(lif):
    return lambda x: lif(x)


HOLDERS = {
    "Net.held[0][1]": lambda lif: [(nn.Identity(), lif)],
    "Net.held['a'][0]": lambda lif: {"a": deque([lif])},
    "Net.held (a key of a dict)": lambda lif: {lif: 1},
    "Net.held (a set)": lambda lif: {lif},
    "Net.held (a bound method)": lambda lif: lif.forward,
    "Net.held (a functools.partial)[0]": lambda lif: functools.partial(map, lif),
    "Net.held (the lif of a closure)": closure,
    "Net.held.lif": Holder,
    "Net.held (a Slots)": Slots,
    "Net.held[0].0": lambda lif: [nn.Sequential(lif)],
    "Net.held (a cycle) (a list_iterator)[0]": lambda lif: itertools.cycle([lif]),
    "Net.held (a function)[0]": lambda lif: types.FunctionType(closure.__code__, {}, "f", (lif,)),
}


class Net(nn.Module):
    def __init__(self, framework="snntorch"):
        super().__init__()
        self.fc, self.lif = nn.Linear(4, 3), MAKE[framework]()


@pytest.mark.parametrize("name", HOLDERS)
def test_holders_are_named_warned_of_and_fail_strict(name):
    net = Net()
    net.held = HOLDERS[name](net.lif)
    native = net.lif
    with pytest.raises(ValueError, match="strict") as error:
        snn_lnm.swap(net, strict=True)
    assert f"{name} holds the neuron of lif" in str(error.value) and net.lif is native
    with pytest.warns(UserWarning, match="ModuleList") as warned:
        report = snn_lnm.swap(net)
    assert [str(w.message).split(" holds ")[0] for w in warned] == [name] and warned[0].filename == __file__
    assert report.rows[0].outcome == "swapped" and f"{name} still holds and calls the old one" in report.rows[0].reason


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_changes_nothing():
    net = Net()
    net.held = [net.lif]
    native = net.lif
    with pytest.raises(UserWarning, match=r"Net\.held\[0\]"):
        snn_lnm.swap(net)
    assert net.lif is native


def test_holders_in_a_child_in_a_hook_and_on_the_neuron_itself():
    net = nn.Sequential(Net(), nn.ReLU())
    lif = net[0].lif
    net[0].run = [lif]
    net[1].register_forward_hook(closure(lif))
    lif.me = [lif]
    with pytest.warns(UserWarning) as warned:
        snn_lnm.swap(net)
    first, second, third = sorted(str(w.message).split(" holds ")[0] for w in warned)
    assert (first, second) == ("Sequential.0.lif.me[0]", "Sequential.0.run[0]")
    assert third.startswith("Sequential.1._forward_hooks[") and third.endswith("] (the lif of a closure)")


@FRAMEWORKS
@pytest.mark.filterwarnings("error")
def test_what_does_not_hold_does_not_warn(framework):
    """The frameworks' own registries, weak references, names outside the model, and the modules' places."""
    net = Net(framework)
    mine = [net.lif, net.lif.forward]
    net.weak, net.proxy = weakref.ref(net.lif), [weakref.proxy(net.lif)]
    net.table, net.dead = weakref.WeakKeyDictionary({net.lif: 1}), [weakref.proxy(Holder(1))]
    net.layers, net.again = nn.ModuleList([net.fc, net.lif]), net.lif
    net.back = [net]
    net.run = lambda x: net.lif(x)
    net.lif(torch.ones(2, 3))
    if framework == "spikingjelly":
        from spikingjelly.activation_based import functional

        functional.reset_net(net)
    assert snn_lnm.swap(net, strict=True).swapped and mine
    assert snn_lnm.swap_back(net, strict=True).swapped


def test_the_way_back_has_holders_too():
    net = Net()
    snn_lnm.swap(net)
    net.held = [net.lif]
    with pytest.raises(ValueError, match=r"Net\.held\[0\]"):
        snn_lnm.swap_back(net, strict=True)
    with pytest.warns(UserWarning, match=r"Net\.held\[0\]"):
        assert type(net.held[0]) is not type(snn_lnm.swap_back(net)) and type(net.lif) is snn.Leaky


@pytest.mark.skipif(not HAS_SPIKINGJELLY, reason="spikingjelly is not installed")
def test_a_checkpointed_neuron_is_held_by_its_wrapper():
    net = nn.Sequential(nn.Linear(3, 3), memopt.checkpoint_module(neuron.LIFNode()))
    with pytest.raises(ValueError, match=r"Sequential\.1\.checkpoint_fn .*functools\.partial"):
        snn_lnm.swap(net, strict=True)


def test_the_walk_costs_little_and_ends(monkeypatch):
    net = nn.Sequential(*[nn.Sequential(nn.Linear(2, 2), snn.Leaky(0.9)) for _ in range(50)])
    start = time.perf_counter()
    assert not holders.holders(net, {})
    assert time.perf_counter() - start < 0.5  # 4 ms on a quiet machine
    monkeypatch.setattr(holders, "MOST", 4000)
    net.data = [(float(i), [i]) for i in range(5000)]
    last = net[49][1]
    net.data.append([last])
    assert not holders.holders(net, {id(last): snn.Leaky(0.9)})
