"""Figures of `benchmarks.network`, drawn from its table, and of `benchmarks.floor`."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

__all__ = ["cost_figure", "network_figures"]


Seconds = dict[tuple[str, int], dict[str, list[float]]]


def seconds(table: Path) -> Seconds:
    """(network, T) -> contestant -> seconds of every round."""
    times: Any = defaultdict(lambda: defaultdict(list))
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            times[row["network"], int(row["T"])][row["contestant"]].append(float(row["seconds"]))
    return times


def network_figures(table: Path, folder: Path) -> None:
    """Bars of time relative to the fused network, and time per step of the sequence against T."""
    import matplotlib

    matplotlib.use("Agg")
    found = seconds(table)
    names = list(dict.fromkeys(name for runs in found.values() for name in runs))
    colors = dict(zip(names, matplotlib.colormaps["tab20"].colors, strict=False))  # pyright: ignore[reportAttributeAccessIssue] - a ListedColormap
    ratio_figure(found, names[1:], colors, folder / "network_ratios.png")
    time_figure(found, names, colors, folder / "network_time.png")


def ratio_figure(found: Seconds, names: list[str], colors: Any, file: Path) -> None:
    """Medians over that of the fused network, with the shortest and the longest round."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(1.5 + 1.3 * len(found), 4), layout="constrained")
    width = 0.85 / len(names)
    for place, name in enumerate(names):
        at, height, spread = [], [], []
        for i, runs in enumerate(found.values()):
            if name in runs:
                fused, own = statistics.median(runs["fused"]), statistics.median(runs[name])
                at.append(i + (place - (len(names) - 1) / 2) * width)
                height.append(own / fused)
                spread.append(((own - min(runs[name])) / fused, (max(runs[name]) - own) / fused))
        error: Any = list(zip(*spread, strict=True))
        axes.bar(at, height, width, yerr=error, color=colors[name], error_kw={"linewidth": 0.6}, label=name)
    axes.set_xticks(range(len(found)), [f"{network}\nT = {steps}" for network, steps in found])
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_ylim(
        0, 1.25 * max(statistics.median(t) / statistics.median(r["fused"]) for r in found.values() for t in r.values())
    )
    axes.set_ylabel("time of a training step relative to fused")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(file, dpi=150)
    plt.close(figure)


def time_figure(found: Seconds, names: list[str], colors: Any, file: Path) -> None:
    """Milliseconds of a training step over T."""
    from matplotlib import pyplot as plt

    networks = list(dict.fromkeys(network for network, _ in found))
    figure, row = plt.subplots(
        1, len(networks), figsize=(2 + 3.2 * len(networks), 3.5), squeeze=False, layout="constrained"
    )
    for axes, network in zip(row[0], networks, strict=True):
        steps = [t for net, t in found if net == network]
        for name in names:
            points = [(t, 1e3 * statistics.median(found[network, t][name])) for t in steps if name in found[network, t]]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", color=colors[name], label=name)
        axes.set(title=network, xlabel="T", xscale="log", yscale="log")
        axes.set_xticks(steps, [str(t) for t in steps], minor=False)
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    row[0][0].set_ylabel("ms per training step")
    handles = {label: h for axes in row[0] for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize="small")
    figure.savefig(file, dpi=150)
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
