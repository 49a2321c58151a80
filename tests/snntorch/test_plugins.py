"""Adapters as plugins: found without imports, one owner per name, a broken one hides no other."""

import subprocess
import sys
import types
from importlib import metadata

import pytest
import snntorch as snn
from torch import nn

import snn_lnm
from snn_lnm import plugins


class Distribution:
    def __init__(self, name, requires):
        self.name, self.requires = name, requires


def entry(name, value, owner, requires=None):
    """An entry point that belongs to a distribution, as installed ones do."""
    made = metadata.EntryPoint(name, value, plugins.GROUP)
    vars(made)["dist"] = Distribution(owner, requires)
    return made


@pytest.fixture
def installed(monkeypatch):
    real = [*metadata.entry_points(group=plugins.GROUP)]

    def install(*entries):
        monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: [*entries, *real])

    return install


def test_two_owners_of_one_name(installed):
    installed(entry("snntorch", "other.adapter:adapter", "other-package"))
    with pytest.raises(RuntimeError, match=r"(?s)other-package.*snn-lnm|snn-lnm.*other-package"):
        snn_lnm.available_adapters()


@pytest.mark.parametrize("value", ["no_such_module_here:adapter", "snn_lnm.plugins:GROUP"])
def test_a_broken_plugin_is_named_and_hides_no_other(installed, monkeypatch, value):
    monkeypatch.setitem(sys.modules, "broken", types.ModuleType("broken"))
    installed(entry("broken", value, "broken-package"))
    net = nn.Sequential(snn.Leaky(0.9))
    with pytest.warns(RuntimeWarning, match="'broken' of broken-package"):
        report = snn_lnm.swap(net)
    assert len(report.swapped) == 1


def test_missing_frameworks_say_so(installed):
    installed(entry("no_such_framework", "a:b", "somebody"))
    rows = snn_lnm.available_adapters()
    assert [row.name for row in rows] == sorted(row.name for row in rows)
    (row,) = [row for row in rows if row.name == "no_such_framework"]
    assert row.state == "unavailable" and "not installed" in row.reason and row.distribution == "somebody"
    assert row.reason.endswith("pip install no_such_framework")  # an extra of snn-lnm would not exist
    installed(entry("no_such_framework", "a:b", "snn-lnm"))
    (row,) = [row for row in snn_lnm.available_adapters() if row.name == "no_such_framework"]
    assert row.reason.endswith("pip install 'snn-lnm[no_such_framework]'")


def test_a_version_too_old_is_a_reason(installed, monkeypatch):
    """torch stands for a framework: it is installed, and imported."""
    requires = ["numpy", 'torch>=99; extra == "torch"']
    installed(entry("torch", "no_such_module_here:adapter", "somebody", requires))
    (row,) = [row for row in snn_lnm.available_adapters() if row.name == "torch"]
    assert row.state == "unavailable" and "the adapter needs >=99" in row.reason and row.framework_version
    with pytest.warns(RuntimeWarning, match="needs >=99"):
        assert len(snn_lnm.swap(nn.Sequential(snn.Leaky(0.9))).swapped) == 1


def test_the_distribution_may_be_called_otherwise(installed):
    """hypothesis's module _hypothesis_pytestplugin stands for a framework whose wheel has another name."""
    name = "_hypothesis_pytestplugin"
    installed(entry(name, "a:b", "somebody", ["Hypothesis >= 1"]))
    (row,) = [row for row in snn_lnm.available_adapters() if row.name == name]
    assert row.state == "available" and row.framework_version == metadata.version("hypothesis")
    installed(entry(name, "a:b", "somebody", ["HYPOTHESIS >= 99999"]))
    (row,) = [row for row in snn_lnm.available_adapters() if row.name == name]
    assert row.state == "unavailable" and "the adapter needs >=99999" in row.reason


def test_a_framework_on_the_path_alone_is_available(installed, monkeypatch, tmp_path):
    (tmp_path / "folder_framework.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    installed(entry("folder_framework", "a:b", "somebody"))
    (row,) = [row for row in snn_lnm.available_adapters() if row.name == "folder_framework"]
    assert (row.state, row.framework_version) == ("available", "")


def test_a_name_that_no_module_can_have_is_a_reason(installed):
    installed(entry("my-framework", "a:b", "somebody"))
    (row,) = [row for row in snn_lnm.available_adapters() if row.name == "my-framework"]
    assert row.state == "unavailable" and "import name" in row.reason


class ToyNeuron(nn.Module):
    pass


class ToyLearnable(ToyNeuron):
    degree = 2


def test_a_third_party_adds_its_framework(installed, monkeypatch):
    toy = types.ModuleType("toy")
    toy.adapter = plugins.Adapter("toy", ToyNeuron, (ToyLearnable,), {ToyNeuron: lambda old, options: ToyLearnable()})
    monkeypatch.setitem(sys.modules, "toy", toy)
    installed(entry("toy", "toy:adapter", "toy-package"))
    net = nn.Sequential(ToyNeuron(), snn.Leaky(0.9))
    assert len(snn_lnm.swap(net).swapped) == 2 and type(net[0]) is ToyLearnable


def test_listing_imports_no_framework():
    code = (
        "import sys, snn_lnm; rows = snn_lnm.available_adapters(); "
        "assert rows and 'snntorch' not in sys.modules and rows[0].state != 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
