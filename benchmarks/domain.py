"""Which domain? Networks of polynomial neurons on MNIST-1D, over domains, extensions and seeds.

`python -m benchmarks.domain` (needs `pip install mnist1d`, whose data are generated, not downloaded)
trains the same small network with each domain and prints test accuracies: mean, standard deviation
over seeds, and how many runs reached NaN. What it says is in docs/decisions.md.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from torch import Tensor, nn

from snn_lnm import LNM

STEPS, HIDDEN, BATCH = 8, 128, 200
DOMAINS: dict[str, dict[str, Any]] = {
    **{f"line, ±{edge}": {"domain": (-edge, edge)} for edge in (1.0, 1.5, 2.0, 3.0, 5.0)},
    "constant, ±1.5": {"domain": (-1.5, 1.5), "extension": "constant"},
    "none": {"domain": None},
}


class Net(nn.Module):
    """Two layers of neurons and a linear readout of the last one's mean rate."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(40, HIDDEN), nn.Linear(HIDDEN, HIDDEN)])
        self.neurons = nn.ModuleList(LNM(channels=HIDDEN, **options) for _ in self.body)
        self.readout = nn.Linear(HIDDEN, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(STEPS, *x.shape)
        for linear, neuron in zip(self.body, self.neurons, strict=True):
            x, _ = neuron(linear(x))
        return self.readout(x.mean(0))


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from mnist1d.data import get_dataset_args, make_dataset  # pyright: ignore[reportMissingImports] - on demand

    found = make_dataset(get_dataset_args())
    x, x_test = (torch.as_tensor(found[name]).float() for name in ("x", "x_test"))
    y, y_test = (torch.as_tensor(found[name]) for name in ("y", "y_test"))
    return x, x_test, y, y_test


def accuracy(options: dict[str, Any], seed: int, epochs: int, found: tuple[Tensor, ...]) -> float:
    """Test accuracy after training; NaN if a weight or the loss became NaN or infinite."""
    x, x_test, y, y_test = found
    torch.manual_seed(seed)
    net = Net(**options)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(BATCH):
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not all(bool(torch.isfinite(p).all()) for p in net.parameters()):
                return float("nan")
    with torch.no_grad():
        return (net(x_test).argmax(1) == y_test).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    found = data()
    print(f"MNIST-1D, {options.epochs} epochs, {options.seeds} seeds: test accuracy, mean (standard deviation)")
    for charge, reset in (("drift", "hard"), ("map", "soft_next")):
        for degree in (2, 3):
            for name, domain in DOMAINS.items():
                kind = {"degree": degree, "charge": charge, "reset": reset, **domain}
                runs = [accuracy(kind, seed, options.epochs, found) for seed in range(options.seeds)]
                good = [value for value in runs if value == value]
                mean = f"{statistics.mean(good):.1%}" if good else "-"
                spread = f"({statistics.stdev(good):.1%})" if len(good) > 1 else ""
                print(
                    f"{charge:<6} degree {degree}  {name:<15} {mean:>6} {spread:<8} "
                    f"NaN in {len(runs) - len(good)} of {len(runs)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
