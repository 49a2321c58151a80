"""Figures. Imports matplotlib, so only the demo imports this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from snn_lnm.parameters import Dynamics, Parameters
from snn_lnm.reference import polynomial

__all__ = ["demo_figure"]

Curves = Mapping[str, Sequence[float]]


def demo_figure(path: Path, accuracy: Mapping[str, Curves], layers: Mapping[str, Any], beta: float) -> None:
    """Accuracy per epoch, and each layer's learned f(v) beside the leak β·v it started from.

    Args:
        path: the image to write; missing folders are made.
        accuracy: framework -> curve name -> test accuracy after each epoch, 0..1.
        layers: layer name -> swapped neuron with one set of coefficients, `[D+1]`.
        beta: the leak before training.
    """
    panels = len(accuracy) + len(layers)
    figure = Figure(figsize=(4.4 * panels, 3.8), layout="constrained")
    figure.suptitle("The same networks on handwritten digits, before and after swap()")
    places = figure.subplots(1, panels, squeeze=False)[0]
    for axes, (framework, curves) in zip(places, accuracy.items(), strict=False):
        for name, curve in curves.items():
            axes.plot(range(1, len(curve) + 1), [100 * value for value in curve], marker="o", ms=3, label=name)
        axes.set(title=f"Accuracy, {framework}", xlabel="epoch", ylabel="test accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower right")
    for axes, (name, neuron) in zip(places[len(accuracy) :], layers.items(), strict=True):
        _polynomial_panel(axes, name, neuron, beta)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _polynomial_panel(axes: Axes, name: str, neuron: Any, beta: float) -> None:
    threshold = float(neuron.threshold.detach())
    v = torch.linspace(-1.5 * threshold, 1.5 * threshold, 301)
    one = torch.ones(())
    numbers = Parameters(neuron.coefficients.detach(), one, one, one)
    f = polynomial(v, numbers, Dynamics(charge="map", domain=neuron.domain))
    axes.axhline(0, color="0.85", lw=0.8)
    axes.axvline(0, color="0.85", lw=0.8)
    axes.axvline(threshold, color="0.5", lw=0.9, ls=":", label="threshold")
    axes.plot(v.numpy(), (beta * v).numpy(), "--", color="0.4", label=f"LIF, {beta}·v")
    axes.plot(v.numpy(), f.numpy(), color="C1", label="learned")
    axes.set(title=f"Layer {name}", xlabel="membrane $v$", ylabel=r"$f_\theta(v)$")
    axes.legend(loc="upper left")
