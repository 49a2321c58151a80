"""Figures. Imports matplotlib, so nothing else imports this module but the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch

from snn_lnm.parameters import Dynamics, Parameters
from snn_lnm.reference import polynomial

matplotlib.use("Agg", force=False)
from matplotlib import pyplot as plt

__all__ = ["demo_figure"]


def demo_figure(
    path: Path, accuracy: Mapping[str, Sequence[float]], layers: Mapping[str, Any], beta: float
) -> None:
    """Accuracy per epoch, and each layer's learned f(v) against the leak β·v it started from.

    Args:
        accuracy: curve name -> test accuracy after each epoch, 0..1.
        layers: layer name -> neuron with one set of coefficients.
    """
    figure, axes = plt.subplots(
        1, 1 + len(layers), figsize=(4.2 * (1 + len(layers)), 3.6), layout="constrained"
    )
    axes = [axes] if not layers else list(axes)
    for name, curve in accuracy.items():
        axes[0].plot(range(1, len(curve) + 1), [100 * value for value in curve], marker="o", ms=3, label=name)
    axes[0].set(title="Handwritten digits", xlabel="epoch", ylabel="test accuracy (%)")
    axes[0].legend()
    for axis, (name, neuron) in zip(axes[1:], layers.items(), strict=True):
        edge = 1.5 * float(neuron.threshold)
        v = torch.linspace(-1.2 * edge, 1.2 * edge, 241)
        one = torch.ones(())
        numbers = Parameters(neuron.coefficients.detach(), one, one, one)
        f = polynomial(v, numbers, Dynamics(charge="map", domain=neuron.domain))
        axis.plot(v, beta * v, "--", color="0.5", label=f"Leaky: {beta}·v")
        axis.plot(v, f, label="learned f(v)")
        axis.axvspan(-edge, edge, color="0.95", label="domain")
        axis.axvline(float(neuron.threshold), color="0.7", lw=0.8, ls=":", label="threshold")
        axis.set(title=name, xlabel="membrane v", ylabel="f(v)")
        axis.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
