"""Neurons that keep their state between calls, and `torch.utils.checkpoint`, whose backward pass calls them again.

The second call would go on from where the last step of the forward pass left the state, and give other gradients
without a word. A neuron notes in :func:`recomputation` when its state is set, and calls :func:`check_kept` before a
step goes on from it.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["check_kept", "recomputation"]

_graph_task = torch._C._current_graph_task_id  # pyright: ignore[reportPrivateUsage] - no public one
_node = torch._C._current_autograd_node  # pyright: ignore[reportPrivateUsage] - no public one


def recomputation() -> tuple[int, int] | None:
    """Which part of a forward pass is being computed again, as a value to compare; None outside a backward pass.

    One node of the graph starts it: of another part it is another, in the same backward pass too.
    """
    if torch.compiler.is_compiling() or (task := _graph_task()) == -1:
        return None
    node: Any = _node()  # whatever its stub says, None where no node runs
    return task, -1 if node is None else node._sequence_nr()


def check_kept(name: str, set_in: tuple[int, int] | None) -> None:
    """Before a step goes on from the kept state ``name``, which was set in the :func:`recomputation` ``set_in``.

    Raises:
        RuntimeError: a part of the forward pass is being computed again, and the state is from outside of it.
    """
    if (now := recomputation()) is not None and now != set_in:
        raise RuntimeError(
            f"the kept state {name!r} is that of a later step: torch.utils.checkpoint calls this neuron again in the "
            "backward pass, and it would not start where it did. Reset the state inside the checkpointed function, "
            "or pass it in and out as an argument; or use snn_lnm.Memory(recompute=K) with snn_lnm.fuse_time instead "
            "of the checkpoint."
        )
