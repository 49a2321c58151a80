"""The demo: one snnTorch network, trained on real handwritten digits before and after `swap`."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import snntorch as snn
import torch
from sklearn.datasets import load_digits
from snntorch import spikegen
from torch import Tensor, nn
from tqdm import tqdm

from snn_lnm.plot import demo_figure
from snn_lnm.swap import swap

__all__ = ["Net", "run"]

STEPS, BATCH = 25, 128


class Net(nn.Module):
    """An unmodified snnTorch network, as snnTorch's tutorials write it: nothing here knows of snn_lnm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 1000)
        self.lif1 = snn.Leaky(beta=0.9)
        self.fc2 = nn.Linear(1000, 10)
        self.lif2 = snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        hidden_rec, spk_rec, mem_rec = [], [], []
        for step in range(x.size(0)):
            cur1 = self.fc1(x[step])
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            hidden_rec.append(spk1)
            spk_rec.append(spk2)
            mem_rec.append(mem2)
        return torch.stack(hidden_rec), torch.stack(spk_rec), torch.stack(mem_rec)


@dataclass
class Digits:
    """Spike trains of a train and a test split, `[T, n, 64]`, and their labels."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass
class History:
    """What training gave, per epoch."""

    accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    spikes: float = 0.0


def load(path: Path | None, seed: int) -> Digits:
    """The digits, rate-coded: each pixel fires with its own intensity as probability per step.

    Raises:
        ValueError: the file has no x `[n, 8, 8]` or `[n, 64]` and y `[n]`.
    """
    if path is None:
        images, labels = load_digits(return_X_y=True)
    else:
        with np.load(path) as file:
            if not {"x", "y"} <= set(file.files):
                raise ValueError(f"{path} must hold the arrays x and y, it holds {sorted(file.files)}.")
            images, labels = file["x"], file["y"]
        if images.reshape(len(images), -1).shape[1] != 64 or len(images) != len(labels):
            raise ValueError(
                f"{path}: x must be [n, 8, 8] or [n, 64] and y [n], got {images.shape}, {labels.shape}."
            )
    x = torch.tensor(images.reshape(len(images), 64), dtype=torch.float32)
    x, y = x / x.max(), torch.tensor(labels, dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    split = len(x) * 4 // 5
    torch.manual_seed(seed)
    spikes = spikegen.rate(x[order], num_steps=STEPS)
    y = y[order]
    return Digits(spikes[:, :split], y[:split], spikes[:, split:], y[split:])


@torch.no_grad()
def evaluate(net: nn.Module, digits: Digits) -> tuple[float, float]:
    """Test accuracy (the class with most output spikes, membranes break ties) and spikes per sample."""
    hidden, spikes, membranes = net(digits.test_x)
    score = spikes.sum(0) + membranes.mean(0) * 1e-3
    accuracy = (score.argmax(1) == digits.test_y).float().mean().item()
    return accuracy, ((hidden.sum() + spikes.sum()) / len(digits.test_y)).item()


def train(net: nn.Module, digits: Digits, epochs: int, seed: int, title: str) -> History:
    """Adam on the cross-entropy of every step's output membrane, as in snnTorch's tutorial 5."""
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-4)
    loss_of = nn.CrossEntropyLoss()
    generator = torch.Generator().manual_seed(seed)
    history = History()
    for epoch in range(epochs):
        start = time.perf_counter()
        batches = torch.randperm(len(digits.train_y), generator=generator).split(BATCH)
        for batch in tqdm(batches, desc=f"{title} epoch {epoch + 1}/{epochs}", leave=epoch + 1 == epochs):
            _, _, membranes = net(digits.train_x[:, batch])
            labels = digits.train_y[batch].repeat(STEPS)
            loss = loss_of(membranes.flatten(0, 1), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        history.seconds.append(time.perf_counter() - start)
        accuracy, history.spikes = evaluate(net, digits)
        history.accuracy.append(accuracy)
    return history


def same_outputs(native: nn.Module, swapped: nn.Module, digits: Digits) -> bool:
    with torch.no_grad():
        pairs = zip(native(digits.test_x), swapped(digits.test_x), strict=True)
        return all(torch.equal(theirs, ours) for theirs, ours in pairs)


def run(data: Path | None, epochs: int, seed: int, degree: int, figure: Path) -> int:
    """Run the demo; returns the exit status: 1 if the swap changed any output."""
    digits = load(data, seed)
    torch.manual_seed(seed)
    native = Net()
    learnable = copy.deepcopy(native)
    print(swap(learnable, degree=degree), end="\n\n")
    equal = same_outputs(native, learnable, digits)
    n = len(digits.test_y)
    print(
        f"At the swap, all spikes and membranes of {n} test samples over {STEPS} steps: torch.equal is {equal}."
    )
    if not equal:
        return 1
    leaky = train(native, digits, epochs, seed, "Leaky")
    learned = train(learnable, digits, epochs, seed, f"LNM degree {degree}")
    print(f"\n{'':<24}{'Leaky':>12}{'LNM':>12}")
    median = [float(np.median(history.seconds)) for history in (leaky, learned)]
    print(f"{'test accuracy':<24}{leaky.accuracy[-1]:>12.1%}{learned.accuracy[-1]:>12.1%}")
    print(
        f"{'training s per epoch':<24}{median[0]:>12.3f}{median[1]:>12.3f}   ({median[0] / median[1]:.2f}x)"
    )
    print(f"{'spikes per sample':<24}{leaky.spikes:>12.1f}{learned.spikes:>12.1f}")
    layers = {name: m for name, m in learnable.named_modules() if hasattr(m, "coefficients")}
    demo_figure(
        figure, {"Leaky": leaky.accuracy, f"LNM, degree {degree}": learned.accuracy}, layers, beta=0.9
    )
    print(f"\nFigure: {figure}")
    return 0
