"""Figures of `benchmarks.network`, drawn from its table, and of `benchmarks.floor`."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

__all__ = ["cost_figure", "network_figures"]


def medians(table: Path) -> dict[tuple[str, int], dict[str, float]]:
    """(network, T) -> contestant -> median seconds."""
    times: Any = defaultdict(lambda: defaultdict(list))
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            times[row["network"], int(row["T"])][row["contestant"]].append(float(row["seconds"]))
    return {key: {name: statistics.median(t) for name, t in runs.items()} for key, runs in times.items()}


def network_figures(table: Path, folder: Path) -> None:
    """Bars of time relative to the fused network, and seconds per step against T."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = medians(table)
    names = [name for name in dict.fromkeys(n for runs in found.values() for n in runs) if name != "fused"]
    figure, axes = plt.subplots(figsize=(9, 4))
    width = 0.8 / max(len(names), 1)
    for place, name in enumerate(names):
        at = [i + place * width for i, runs in enumerate(found.values()) if name in runs]
        axes.bar(at, [runs[name] / runs["fused"] for runs in found.values() if name in runs], width, label=name)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(found))], [f"{net}\nT = {t}" for net, t in found])
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_ylabel("time of a training step relative to fused")
    axes.legend(fontsize="small")
    figure.savefig(folder / "network_ratios.png", dpi=150, bbox_inches="tight")
    plt.close(figure)

    networks = list(dict.fromkeys(net for net, _ in found))
    figure, panels = plt.subplots(1, len(networks), figsize=(4 * len(networks), 3.5), squeeze=False)
    for axes, network in zip(panels[0], networks, strict=True):
        for name in ("fused", *names):
            points = sorted((t, runs[name]) for (net, t), runs in found.items() if net == network and name in runs)
            axes.plot(*zip(*points, strict=True), marker="o", label=name) if points else None
        axes.set(title=network, xlabel="T", ylabel="seconds per training step", xscale="log", yscale="log")
    panels[0][0].legend(fontsize="small")
    figure.savefig(folder / "network_time.png", dpi=150, bbox_inches="tight")
    plt.close(figure)


def cost_figure(panels: dict[str, tuple[list[int], list[list[float]]]], file: Path) -> None:
    """Nanoseconds per element, median and range, over each panel's quantity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, row = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.5), squeeze=False)
    for axes, (quantity, (at, costs)) in zip(row[0], panels.items(), strict=True):
        axes.fill_between(at, [min(cost) for cost in costs], [max(cost) for cost in costs], alpha=0.2)
        axes.plot(at, [statistics.median(cost) for cost in costs], marker="o")
        axes.set(xlabel=quantity, xscale="log")
        axes.set_ylim(bottom=0)
    row[0][0].set_ylabel("ns per element, forward + backward")
    figure.savefig(file, dpi=150, bbox_inches="tight")
    plt.close(figure)
