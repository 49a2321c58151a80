"""The demo's second network: the convolutional classifier of Norse's README, on smaller images."""

from __future__ import annotations

import warnings
from typing import cast

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # Norse's import, not ours
    from norse.torch import LICell, LIFCell, SequentialState

from snn_lnm_norse import LNMCell

__all__ = ["ConvNet", "LIFCell", "LNMCell"]


class ConvNet(nn.Module):
    """Norse's README, `[time, batch, 64]` in; the images are doubled to 16×16, so 50 units reach the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = SequentialState(
            nn.Conv2d(1, 20, 5, 1),
            LIFCell(),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(20, 50, 5, 1),
            LIFCell(),
            nn.MaxPool2d(2, 2),
            nn.Flatten(),
            nn.Linear(50, 10),
            LICell(),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output voltages of every step, twice: they are what is counted and what is trained."""
        images = cast(Tensor, x.unflatten(-1, (1, 8, 8)).repeat_interleave(2, -1).repeat_interleave(2, -2))
        state = None
        voltages: list[Tensor] = []
        for image in images.unbind(0):
            voltage, state = self.layers(20 * image, state)
            voltages.append(voltage)
        out = torch.stack(voltages)
        return out, out
