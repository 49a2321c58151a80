"""`norse.torch.to_nir` of swapped models: the native model's nodes, or an error that names the layer."""

import copy
import importlib

import nir
import norse.torch as norse
import numpy as np
import pytest
import torch
from norse.torch.module.iaf import IAF, IAFCell
from norse.torch.utils import export_nir
from snn_lnm_norse import LNMCell
from snn_lnm_norse.nir import install
from torch import nn

import snn_lnm

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # nirtorch's


def rows(count):
    return [torch.rand(4) + 0.1 for _ in range(count)]


CELLS = {
    "LIFCell": lambda: norse.LIFCell(norse.LIFParameters(*rows(5))),
    "LIFCell of scalars": norse.LIFCell,
    "LIFBoxCell": lambda: norse.LIFBoxCell(norse.LIFBoxParameters(*rows(4))),
    "IAFCell": lambda: IAFCell(norse.IAFParameters(*rows(1))),
}


def same(ours, theirs):
    if isinstance(theirs, dict):
        assert [*ours] == [*theirs]
        ours, theirs = ([*each.values()] for each in (ours, theirs))
    if isinstance(theirs, list):
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", CELLS)
def test_the_native_model_s_nodes(name, tmp_path):
    native = norse.SequentialState(nn.Linear(5, 4), CELLS[name](), nn.Linear(4, 2))
    net, x = copy.deepcopy(native), torch.randn(5)
    snn_lnm.swap(net)
    assert type(net[1]) is LNMCell
    theirs, ours = norse.to_nir(native, x, dt=0.002), norse.to_nir(net, x, dt=0.002)
    assert [*ours.nodes] == [*theirs.nodes] and sorted(ours.edges) == sorted(theirs.edges)
    for key, node in theirs.nodes.items():
        assert type(ours.nodes[key]) is type(node) is not type(None)
        for field, value in vars(node).items():
            same(vars(ours.nodes[key])[field], value)
    if name == "LIFCell":  # scalars, Norse 1.1 cannot write itself
        nir.write(tmp_path / "n.nir", ours)
        assert type(nir.read(tmp_path / "n.nir").nodes["1"]) is nir.CubaLIF


def swapped(cell):
    net = norse.SequentialState(nn.Linear(4, 4), cell)
    snn_lnm.swap(net)
    net[1].path = "1"
    return net


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_polynomial_is_refused(index):
    net = swapped(norse.LIFCell())
    with torch.no_grad():
        net[1].coefficients[index] += 2**-20
    words = rf"^1 \(LNMCell of degree 3\) cannot.*no polynomial node: θ_{index} has left.*swap_back\(model\)"
    with pytest.raises(ValueError, match=words):
        norse.to_nir(net, torch.randn(2, 4))


@pytest.mark.parametrize(
    "cell, shape",
    [
        (norse.LIF, (3, 2, 4)),
        (IAF, (3, 2, 4)),
        (lambda: norse.LIFRecurrentCell(4, 4), (2, 4)),
        (lambda: norse.LIFRecurrent(4, 4), (3, 2, 4)),
    ],
)
def test_what_norse_has_no_node_for_is_refused(cell, shape):
    with pytest.raises(ValueError, match=r"^1 \(LNM.* cannot be written to NIR: Norse has no node for"):
        norse.to_nir(swapped(cell()), torch.randn(shape))


def test_a_neuron_of_one_s_own():
    with pytest.raises(ValueError, match=r"^a layer \(LNMCell.*was not swapped"):
        norse.to_nir(norse.SequentialState(nn.Linear(4, 4), LNMCell()), torch.randn(2, 4))


def test_installed_once_and_transparent():
    extract = export_nir._extract_norse_module
    install()
    assert export_nir._extract_norse_module is extract and extract.__name__ == "_extract_norse_module"
    assert extract(nn.ReLU()) is None and isinstance(extract(norse.LIFCell(), dt=0.1), nir.CubaLIF)


def test_another_version_may_ask_in_another_way(monkeypatch):
    monkeypatch.delattr(export_nir, "_extract_norse_module")
    install()
    assert not hasattr(export_nir, "_extract_norse_module")
    assert importlib.import_module("snn_lnm_norse").LNMCell is LNMCell
