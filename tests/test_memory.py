"""The C++ engine keeps large freed blocks for its next call: invisible but for speed, and bounded."""

import os
import subprocess
import sys

import pytest
import torch

from snn_lnm import functional
from snn_lnm.engines import cpp
from snn_lnm.parameters import Dynamics, Parameters

NUMBERS = Parameters(*map(torch.tensor, ([0.0, 0.9, 0.01], 1.0, 0.0, 1.0)))
DYNAMICS = Dynamics(charge="map", reset="soft", domain=(-1.5, 1.5))
SHAPE = (4, 8, 32768)  # 4 MiB
MIB = 1 << 20


def run(x):
    out = functional.run(x, None, NUMBERS, DYNAMICS, backend="cpp")
    return out.spikes, out.membrane


@pytest.fixture(autouse=True)
def _empty():
    cpp.empty_cache()
    assert cpp.memory() == (0, 0)


def test_freed_blocks_serve_the_next_call():
    x = torch.randn(SHAPE)
    first = {value.data_ptr() for value in run(x)}
    assert {value.data_ptr() for value in run(x)} == first
    assert cpp.memory() == (0, 8 * MIB)
    cpp.empty_cache()
    assert cpp.memory() == (0, 0)


def test_what_is_alive_is_never_written_again():
    x = torch.randn(SHAPE)
    kept = run(x)
    copies = [value.clone() for value in kept]
    view = run(x)[0][1, 2]  # a view alone keeps its block
    seen = view.clone()
    for _ in range(3):
        assert not {value.data_ptr() for value in run(-x)} & {value.data_ptr() for value in kept}
    assert all(torch.equal(value, copy) for value, copy in zip(kept, copies, strict=True))
    assert torch.equal(view, seen)


def test_it_never_holds_more_than_was_once_in_use():
    peak = 0
    for channels in (1024, 32768, 4096, 16384, 8192, 65536, 300):
        out = run(torch.randn(8, 8, channels))
        peak = max(peak, cpp.memory()[0])
        assert sum(cpp.memory()) <= peak
        del out
        assert sum(cpp.memory()) <= peak


def test_tensors_are_ordinary():
    spikes, membrane = run(torch.randn(SHAPE))
    membrane.resize_(4, 8, 65536)
    assert membrane.shape[-1] == 65536 and spikes.share_memory_().is_shared()


@pytest.mark.parametrize("mib, kept", [("0", 0), ("5", 4 * MIB)])
def test_the_limit_is_the_user_s(mib, kept):
    code = (
        "import torch; from tests.test_memory import run, SHAPE; from snn_lnm.engines import cpp;"
        "run(torch.randn(SHAPE)); print(cpp.memory()[1])"
    )
    environment = {**os.environ, "SNN_LNM_CACHE_MIB": mib}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(found.stdout) == kept
