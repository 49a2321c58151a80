"""What the tests of the Triton engine share: where it runs, and inputs that reach its edges.

On a machine without a GPU its kernels run in Triton's interpreter (conftest.py asks for it). Those buffers that
the engine allocates are filled with NaN first, so that a lane that is never written shows.
"""

import contextlib

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from operators import device_of, moved
from optional import HAS_TRITON, NO_TRITON

from snn_lnm.engines.triton import launches

if not HAS_TRITON:
    pytest.skip(NO_TRITON, allow_module_level=True)

# The interpreter is slow: a third of the profile's examples.
fewer = settings(max_examples=max(1, settings.default.max_examples // 3))
DEVICE = device_of("triton")

# Of one step, around the edges of blocks (256 neurons in float32, 128 in float64) and of groups.
SHAPES = st.sampled_from(
    [
        *[(1, 1), (2, 17), (1, 127), (1, 128), (1, 129), (3, 255), (1, 256), (1, 257), (2, 300), (7, 12)],
        *[(2, 3, 7, 7), (2, 2, 16, 16), (2, 3, 32, 33), (1, 2, 8, 64)],
    ]
)


def on_device(problem):
    """The problem with all its tensors where the engine runs."""
    return moved(problem, DEVICE)


@contextlib.contextmanager
def poisoned():
    """Uninitialised memory holds NaN, so that a value nobody wrote shows."""
    empty, empty_like, new_empty = torch.empty, torch.empty_like, torch.Tensor.new_empty

    def nan(make):
        def made(*args, **kwargs):
            value = make(*args, **kwargs)
            return value.fill_(float("nan")) if value.is_floating_point() else value

        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", nan(empty))
        patch.setattr(torch, "empty_like", nan(empty_like))
        patch.setattr(torch.Tensor, "new_empty", nan(new_empty))
        yield


@contextlib.contextmanager
def programs(most):
    """Geometry with at most about this many programs, so that one program gets several repeats."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launches, "PROGRAMS", most)
        launches._prepared.cache_clear()
        yield
