"""What Triton's launcher gets, called for the first time and again: run by test_triton_launch.py, without a GPU.

In a process of its own, because in the tests' Triton interprets.
"""

import torch

from benchmarks.host import IdleDriver, idle_gpu
from snn_lnm.engines import triton as engine
from snn_lnm.tools.audit import Variant

launched, searches = [], []
CPU = torch.device("cpu")


def recorded(driver, source, metadata):
    return lambda *arguments: launched.append(arguments)


def launches(x):
    """The forward and the backward launch of a cubic on ``x``, `[T, B, N]`."""
    call = Variant("cubic", shape=tuple(x.shape), dtype=x.dtype).call()
    numbers = [torch.rand(4), *(torch.tensor(value) for value in (1.0, 0.0, 1.0))]
    tensors = x, [torch.zeros(x.shape[1:])], numbers
    (_, h, *_), forward = engine.prepare_forward(*tensors, *call, torch.float32)
    needs = [True, False, False, False]
    backward = engine.prepare_backward([x, None, None], *tensors, h, *call, False, needs)[1]
    return forward, backward


def main():
    IdleDriver.launcher_cls = recorded
    with idle_gpu():
        from triton.runtime.jit import JITFunction

        search = JITFunction.run
        JITFunction.run = lambda *values, **words: searches.append(values) or search(*values, **words)
        numbers = torch.randn(3 * 64 + 1)
        for case, x in {
            "aligned": numbers[:-1].view(3, 2, 32),
            "not aligned": numbers[1:].view(3, 2, 32),
            "bfloat16": numbers[:-1].view(3, 2, 32).bfloat16(),
            "float16": numbers[:-1].view(3, 2, 32).half(),
            "longer": torch.randn(5, 2, 32),
        }.items():
            for launch in launches(x):
                launched.clear(), searches.clear()
                for _ in range(3):
                    launch(CPU)
                first, *again = launched
                assert len(again) == 2 and len(searches) == 1, (case, len(again), len(searches))
                for other in again:
                    assert len(other) == len(first)
                    pairs = [*zip(other, first, strict=True)]
                    del pairs[6]  # for hooks: an object anew for each launch
                    assert all(ours is theirs or ours == theirs for ours, theirs in pairs), case
    print("all the same")


if __name__ == "__main__":
    main()
