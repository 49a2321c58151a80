"""The benchmarks that need no GPU to be wrong: their verdicts can fail, and the GPU one runs up to the clock.

The audit beside SpikingJelly compiles, which needs a process of its own: this one has asked Triton for its interpreter.
"""

import csv
import json
import os
import runpy
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from optional import HAS_TRITON, NO_TRITON

from benchmarks import gpu

CPU = torch.device("cpu")


def bench(call, leaves):
    call()
    return 0.002, 0.001, 0.003


# ---- beside SpikingJelly -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def audit():
    if not HAS_TRITON:
        pytest.skip(NO_TRITON)
    from benchmarks import peers_audit

    return peers_audit


@pytest.mark.skipif(not HAS_TRITON, reason=NO_TRITON)
@pytest.mark.slow
def test_quadratic_neuron_beside_spikingjelly(tmp_path):
    pytest.importorskip("spikingjelly")
    file = tmp_path / "peers.json"
    command = [sys.executable, "-m", "benchmarks.peers_audit", "--only", "QIF, detached", "--json", str(file)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0 and "not worse in any column" in done.stdout, done.stdout + done.stderr
    fixed, theirs, learned = json.loads(file.read_text())
    assert "SpikingJelly" in theirs["neuron"]
    for ours in (fixed, learned):
        assert (ours["forward_bytes"], ours["backward_bytes"], ours["outside_bytes"]) == (12, 12, 0)
        assert ours["spilled"] == 0 and ours["compilations"] == 2  # one forward, one backward, for all shapes
    # What SpikingJelly 2.0.0's source says: x, s, h and the earlier v forward, the same but x kept.
    assert (theirs["forward_bytes"], theirs["backward_bytes"], theirs["saved_bytes"]) == (16, 16, 12)
    assert theirs["forward_instructions"] > 0 and theirs["backward_instructions"] > 0
    assert theirs["compilations"] > 2


def test_the_audit_refuses_an_interpreter_and_an_unknown_spikingjelly(audit, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert audit.main([]) == 2
    assert "unset it" in capsys.readouterr().err
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9" if name == "spikingjelly" else "4.0")
    monkeypatch.setattr(audit.engine, "missing", lambda: None)
    assert audit.main([]) == 2
    assert "spikingjelly 9.9 is installed" in capsys.readouterr().err


def test_every_judged_column_can_fail(audit):
    theirs = audit.Row("", "sm_90", "theirs", 12, 12, 0, 8, 130, 125, 24, 31, 0, 20)
    assert audit.worse(replace(theirs, forward_registers=200), theirs) == []  # shown only
    few = replace(theirs, forward_instructions=30, backward_instructions=25)
    assert audit.worse(replace(few, forward_instructions=115), few) == []  # memory takes longer
    assert len(audit.worse(replace(few, forward_instructions=116), few)) == 1
    columns = [
        name for name in vars(theirs) if name.split("_")[-1] in ("bytes", "instructions", "spilled", "compilations")
    ]
    assert len(columns) == 8
    for column in columns:
        assert len(audit.worse(replace(theirs, **{column: getattr(theirs, column) + 1}), theirs)) == 1
    flexible = replace(theirs, forward_bytes=48, backward_bytes=52, outside_bytes=20)
    assert audit.worse(theirs, flexible, 0.2) == []
    assert audit.worse(theirs, replace(flexible, outside_bytes=16), 0.2)


# ---- on a GPU ------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("benchmark", ["gpu", "gpu_kernels"])
def test_without_a_gpu_the_benchmark_refuses(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [benchmark])
    with pytest.raises(SystemExit) as exit, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that it is imported already
        runpy.run_module(f"benchmarks.{benchmark}", run_name="__main__")
    output = capsys.readouterr()
    assert exit.value.code == 2 and output.out == "" and "needs a GPU" in output.err


@pytest.mark.skipif(not HAS_TRITON, reason=NO_TRITON)
@pytest.mark.slow
def test_calls_are_timed_without_a_gpu():
    """Kernels are compiled, not interpreted, and launched by a driver that does nothing."""
    command = [sys.executable, "-W", "error", "-m", "benchmarks.host", "--rounds", "1"]
    compiled = {**os.environ, "TRITON_INTERPRET": "0"}
    found = subprocess.run(command, env=compiled, capture_output=True, text=True, check=True)
    rows = [line.split("  ")[0] for line in found.stdout.splitlines()[2:]]
    assert rows[0] == "x * w" and rows[-2:] == ["cpp, a step", "triton, a step"] and len(rows) == 8


@pytest.mark.parametrize("text", ["32", "a,b", "4,0", ""])
def test_sizes_that_are_none(text, capsys):
    with pytest.raises(SystemExit):
        gpu.arguments(["--shapes", text])
    assert "expected sizes" in capsys.readouterr().err


def test_everything_but_the_clock_runs_without_a_gpu(tmp_path, monkeypatch, capsys):
    for name in gpu.HOSTS:
        pytest.importorskip(name)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    file = tmp_path / "gpu.csv"
    options = gpu.arguments(["--shapes", "4,2,48", "33,3,5", "--csv", str(file)])
    assert gpu.run(options, CPU, "reference", bench) == 0
    assert "every spike and membrane compared is equal" in capsys.readouterr().out
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert {row["host"] for row in rows} == set(gpu.HOSTS)
    assert {row["direction"] for row in rows} == set(gpu.FLOOR)
    compiled = {row["shape"] for row in rows if "compiled" in row["contestant"]}
    assert compiled == {"4,2,48"}  # not the one longer than 32 steps
    copied = 2 * 4 * 2**10 / 0.002
    for row in rows:
        assert float(row["share"]) == pytest.approx(
            gpu.FLOOR[row["direction"]] * {"4,2,48": 384, "33,3,5": 495}[row["shape"]] / copied / 0.002
        )


def test_a_contestant_with_other_spikes_is_not_timed(monkeypatch, capsys):
    pytest.importorskip("snntorch")

    def contestants(device, backend):
        return [gpu.Contestant("ours", lambda x: (x > 0) * x), gpu.Contestant("wrong", lambda x: (x > 1) * x)]

    monkeypatch.setitem(gpu.HOSTS, "snntorch", contestants)
    options = gpu.arguments(["--shapes", "4,2,48", "--hosts", "snntorch"])
    assert gpu.run(options, CPU, "reference", bench) == 1
    output = capsys.readouterr().out
    assert "snntorch wrong differ from ours" in output
    assert not any(line.startswith("4,2,48    snntorch  wrong") for line in output.splitlines())


WRONG = {
    "384 of 384 membrane differ": lambda output: output._replace(membrane=output.membrane + 1),
    "the gradient of the input is not": lambda output: output._replace(spikes=doubled(output.spikes)),
}


def doubled(spikes):
    """The same, with twice the gradient."""
    return 2 * spikes - spikes.detach()


@pytest.mark.parametrize("sentence", WRONG)
def test_an_engine_with_other_bits_or_gradients_is_not_timed(sentence, monkeypatch, capsys):
    run = gpu.functional.run

    def broken(x, *rest, backend):
        output = run(x, *rest, backend="reference")
        return output if backend == "reference" else WRONG[sentence](output)

    monkeypatch.setattr(gpu.functional, "run", broken)
    options = gpu.arguments(["--shapes", "4,2,48", "--hosts", "snntorch"])
    assert gpu.run(options, CPU, "cpp", bench) == 1
    assert sentence in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [0.01, float("nan")])
def test_coefficients_with_other_gradients_are_seen(wrong, monkeypatch):
    wanted = gpu.gradients

    def broken(x, backend):
        d_x, d_theta = wanted(x, "reference")
        return d_x, d_theta + (wrong if backend == "cpp" else 0.0) * d_theta.abs().max()

    x = torch.randn(4, 2, 48)
    assert gpu.check_law(x, "cpp") is None
    monkeypatch.setattr(gpu, "gradients", broken)
    assert "coefficients" in gpu.check_law(x, "cpp")


def test_times_are_shown_relative_to_ours():
    row = gpu.Row("1,2", "norse", "ours", "forward", 0.001, 0.0009, 0.0011, 0.5, 2**20, 0)
    slow = row._replace(contestant="loop", seconds=0.004)
    head, first, second = gpu.table([row, slow]).splitlines()
    assert first.split()[-6:] == ["0.900", "1.100", "1.00", "0.50", "1", "0"]
    assert second.split()[-4] == "4.00" and "x ours" in head


# ---- networks ------------------------------------------------------------------------------------


def test_a_network_is_timed_only_if_all_ways_to_run_it_agree(monkeypatch):
    from benchmarks import network, networks

    digits = networks.digits()
    found = network.measure(digits, 2, 1, with_compile=False)
    loops = {"swapped loop", "best loop", "stock loop"}
    assert set(found) == {"fused", "fused, all at once", networks.LOWER_BOUND, *loops}
    assert all(len(result.step) == 1 and result.step[0] > 0 for result in found.values())
    fused = networks.fused
    monkeypatch.setattr(networks, "fused", lambda *args, **options: lambda x: -fused(*args, **options)(x))
    with pytest.raises(SystemExit, match="fused gives other outputs than the stock loop"):
        network.measure(digits, 2, 1, with_compile=False)
