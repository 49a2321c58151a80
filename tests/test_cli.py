"""The command line: the demo end to end on few images, its refusals, and the list of adapters."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from snn_lnm import available_adapters
from snn_lnm.tools import cli

for module in ("snntorch", "norse", "sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(module)


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def some(n=40):
    generator = np.random.default_rng(0)
    return {"x": generator.random((n, 8, 8)), "y": generator.integers(0, 10, n)}


def test_adapters(capsys):
    assert cli.main(["adapters"]) == 0
    out = capsys.readouterr().out
    for row in available_adapters():
        assert all(cell in out for cell in row)


def test_demo(tmp_path, capsys):
    figure = tmp_path / "new" / "demo.png"
    data = save(tmp_path / "digits.npz", **some())
    assert cli.main(["demo", "--data", data, "--epochs", "2", "--degree", "2", "--figure", str(figure)]) == 0
    out = capsys.readouterr().out
    assert out.count("LNM (degree 2)") == 2 and out.count("LNMCell (degree 2)") == 2
    assert out.count("torch.equal is True") == 2
    for row in ("test accuracy", "training, s per epoch", "spikes per sample"):
        assert row in out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_demo_is_reproducible(tmp_path):
    from snn_lnm.tools import demo

    data = tmp_path / "digits.npz"
    save(data, **some())
    first, second, other = demo.load(data, 1), demo.load(data, 1), demo.load(data, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.train_x, other.train_x)


@pytest.mark.parametrize("layer", ["lif1", "lif2"])
def test_demo_stops_if_the_swap_changes_any_layer(tmp_path, monkeypatch, capsys, layer):
    """The comparison can fail: one coefficient of one layer is moved by one ulp."""
    from snn_lnm.tools import demo

    def broken_swap(net, degree):
        report = swap(net, degree=degree)
        theta = net.get_submodule(layer).coefficients
        with torch.no_grad():
            theta[1] = torch.nextafter(theta[1], torch.tensor(2.0))
        return report

    swap = demo.swap
    monkeypatch.setattr(demo, "swap", broken_swap)
    figure = tmp_path / "demo.png"
    data = save(tmp_path / "digits.npz", **some())
    assert cli.main(["demo", "--data", data, "--figure", str(figure)]) == 1
    assert "torch.equal is False" in capsys.readouterr().out
    assert not figure.exists()


def test_demo_counts_the_spikes_of_all_layers():
    from snn_lnm.tools import demo

    torch.manual_seed(0)
    net, x = demo.Net(), (torch.rand(4, 3, 64) > 0.5).float()
    with demo.recording(net) as record:
        spikes, membranes = net(x)
    net(x)  # not recorded any more
    assert len(record) == 2 * 4
    assert torch.equal(torch.stack([s for s, _ in record[1::2]]), spikes)
    assert torch.equal(torch.stack([m for _, m in record[1::2]]), membranes)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "arrays x and y, it has ['a']"),
        (some() | {"x": np.ones((40, 28, 28))}, "got [40, 28, 28] and [40]"),
        (some() | {"y": np.zeros(7, int)}, "got [40, 8, 8] and [7]"),
        (some(9), "n >= 10"),
        (some() | {"y": np.full(40, 10)}, "integers from 0 to 9"),
        (some() | {"y": np.zeros(40)}, "integers from 0 to 9"),
        (some() | {"x": np.zeros((40, 64))}, "some of them above 0"),
        (some() | {"x": -np.ones((40, 64))}, "finite brightnesses >= 0"),
        (some() | {"x": np.full((40, 64), np.nan)}, "finite brightnesses >= 0"),
        (some() | {"x": np.full((40, 64), "a")}, "finite brightnesses >= 0"),
    ],
)
def test_demo_refuses_wrong_arrays(tmp_path, capsys, arrays, message):
    assert cli.main(["demo", "--data", save(tmp_path / "digits.npz", **arrays)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_demo_refuses_other_files(tmp_path, capsys, content):
    path = tmp_path / "digits.npz"
    path.write_bytes(content)
    assert cli.main(["demo", "--data", str(path)]) == 2
    assert "not a readable .npz file" in capsys.readouterr().err


def test_demo_refuses_a_missing_file(tmp_path, capsys):
    assert cli.main(["demo", "--data", str(tmp_path / "none.npz")]) == 2
    assert "none.npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["demo", "--epochs", "0"],
        ["demo", "--degree", "0"],
        ["demo", "--degree", "9"],
        ["demo", "--seed", "a"],
    ],
)
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.turns(3)
@pytest.mark.parametrize("missing", sorted(cli.DEMO_NEEDS))
def test_missing_package_gives_one_sentence(missing):
    """In a process of its own: `None` in sys.modules makes the import fail as if it were not installed."""
    code = f"import sys; sys.modules[{missing!r}] = None; from snn_lnm.tools import cli; sys.exit(cli.main(['demo']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        f"The demo needs {cli.DEMO_NEEDS[missing]}, which is not installed: pip install 'snn-lnm[demo]'"
    ]
