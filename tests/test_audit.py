"""The Triton kernels, compiled for GPUs that are not here: what the machine code holds, and that the audit can fail.

Compiling needs a process of its own: this one has asked Triton for its interpreter.
"""

import json
import os
import subprocess
import sys

import pytest
import rotation
from optional import HAS_TRITON, NO_TRITON

from snn_lnm.tools import audit, cli

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason=NO_TRITON)

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def python(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=1800)


def check(rows):
    """No kernel spills, and training moves 12 bytes per neuron and step, 128 bits at a time."""
    for row in rows:
        assert row["faults"] == [] and row["spilled"] == row["stack"] == 0 and row["instructions"] > 0, row
        if row["variant"] == "cubic":
            assert row["bytes"] == 12 and row["load_bits"] == row["store_bits"] == 128, row


@pytest.mark.slow
def test_every_variant_on_every_target(tmp_path):
    file = tmp_path / "audit.json"
    done = python("-m", "snn_lnm", "audit", "--jobs", "2", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(file.read_text())
    assert {row["target"] for row in rows} == set(cli.AUDIT_TARGETS) == set(audit.TARGETS)
    assert {row["variant"] for row in rows} == {variant.name for variant in audit.variants()}
    check(rows)


SAMPLE = """
import dataclasses, json, sys
from snn_lnm.tools import audit

pairs = [(variant, target) for variant in audit.variants() for target in audit.TARGETS]
rows = []
for variant, target in pairs[int(sys.argv[1]) - 1 :: int(sys.argv[2])]:
    for kernel, launch in variant.launches().items():
        rows.append(dataclasses.asdict(audit.inspect(variant, kernel, launch, target)))
print(json.dumps(rows))
"""


def test_the_variants_whose_turn_it_is():
    """No multiple of the number of targets apart, so that all of them have some."""
    done = python("-c", SAMPLE, *rotation.turn(4 * 4 + 1).split("/"))
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["target"] for row in rows} == set(audit.TARGETS)
    check(rows)


BROKEN = """
from dataclasses import replace
from snn_lnm.tools import audit
from snn_lnm.engines.triton.launches import Launch

(cubic,) = (v for v in audit.variants() if v.name == "cubic")

def faults(kernel, **options):
    launch = cubic.launches()[kernel]
    given = Launch.options
    Launch.options = lambda launch, warp_size: {**given(launch, warp_size), **options}
    try:
        return audit.inspect(cubic, kernel, launch, "sm_90").faults
    finally:
        Launch.options = given

assert faults("forward") == ()
assert any("fused multiply-adds" in fault for fault in faults("forward", enable_fp_fusion=True))
assert any("spills" in fault for fault in faults("backward", maxnreg=32))
launch = cubic.launches()["forward"]
wide = replace(cubic, membrane=False)
assert any("8 are needed" in fault for fault in audit.inspect(wide, "forward", launch, "sm_90").faults)
print("broken kernels are seen")
"""


def test_the_audit_sees_broken_kernels():
    done = python("-c", BROKEN)
    assert "broken kernels are seen" in done.stdout, done.stderr


def test_interpreted_kernels_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert cli.main(["audit"]) == 2
    assert "unset it" in capsys.readouterr().err


NEW_SHAPES = """
import torch, triton
from triton.backends.compiler import GPUTarget

class Driver:  # compiles for a GPU that is not there
    get_current_device = staticmethod(lambda: 0)
    set_current_device = staticmethod(lambda device: None)
    get_current_stream = staticmethod(lambda device: 0)
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_active_torch_device = staticmethod(lambda: torch.device("meta"))

triton.runtime.driver.set_active(Driver())
from snn_lnm.tools import audit

kernels = {}
for T, B, N in [(1, 1, 16), (4, 64, 4096), (5, 1, 4096), (1000, 7, 512), (32, 64, 1024), (2, 3, 48), (16, 16, 16),
                (3, 1, 2**20), (128, 64, 512), (7, 2, 2**31)]:
    for name, launch in audit.Variant("", shape=(T, B, N)).launches().items():
        kernel = launch.kernel.warmup(*launch.arguments, grid=(1,), **launch.compiled_in(32), **launch.options(32))
        kernels.setdefault(name, set()).add(kernel.hash)
print({name: len(found) for name, found in kernels.items()})
"""


def test_new_shapes_compile_nothing_new():
    done = python("-c", NEW_SHAPES)
    assert done.stdout.strip() == "{'forward': 1, 'backward': 1}", done.stdout + done.stderr
