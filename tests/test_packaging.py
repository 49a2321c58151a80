"""What the wheel and the installed package hold."""

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


ADAPTERS = [f"snn_lnm_{framework}" for framework in ("norse", "snntorch", "spikingjelly")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_top_level_names(wheel):
    """A top-level package `adapters` would collide with another distribution's."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"snn_lnm", *ADAPTERS}


def test_every_source_file_is_in_the_wheel(wheel):
    for package in (ROOT / "snn_lnm", *(ROOT / "adapters" / name for name in ADAPTERS)):
        for path in package.rglob("*"):
            if path.suffix in (".py", ".cpp", ".h", ".typed"):
                assert path.relative_to(package.parent).as_posix() in wheel.namelist()


@pytest.mark.parametrize(
    "name", ["snn_lnm/py.typed", *(f"{name}/py.typed" for name in ADAPTERS), "snn_lnm/engines/cpp/ops.cpp"]
)
def test_file_in_the_wheel(wheel, name):
    assert name in wheel.namelist()


def test_entry_point_and_licence(wheel):
    texts = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    entry_points = wheel.read(texts["entry_points.txt"]).decode()
    assert "[snn_lnm.adapters]" in entry_points
    assert "snntorch = snn_lnm_snntorch.adapter:adapter" in entry_points
    assert "MIT License" in wheel.read(texts["LICENSE"]).decode()


def test_installed_entry_point_loads():
    pytest.importorskip("snntorch")
    (entry,) = metadata.entry_points(group="snn_lnm.adapters", name="snntorch")
    assert entry.load().framework == "snntorch"
