"""The demo: an snnTorch and a Norse network, trained on real handwritten digits as they are and after `swap`."""

from __future__ import annotations

import copy
import statistics
import time
import zipfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import snntorch as snn
import torch
from sklearn.datasets import load_digits
from snntorch import spikegen
from torch import Tensor, nn
from tqdm import tqdm

from snn_lnm.swapping import swap
from snn_lnm.tools.demo_norse import ConvNet, LIFCell, LNMCell
from snn_lnm.tools.plot import demo_figure

__all__ = ["Digits", "Net", "load", "run"]

STEPS, BATCH, BETA, CLASSES = 25, 128, 0.9, 10
Array = np.ndarray[Any, Any]


class Net(nn.Module):
    """A network as snnTorch's tutorials write it: nothing here knows of snn_lnm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 1000)
        self.lif1 = snn.Leaky(beta=BETA)
        self.fc2 = nn.Linear(1000, CLASSES)
        self.lif2 = snn.Leaky(beta=BETA)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        spk2_rec: list[Tensor] = []
        mem2_rec: list[Tensor] = []
        for step in range(x.size(0)):
            cur1 = self.fc1(x[step])
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec), torch.stack(mem2_rec)


class Digits(NamedTuple):
    """Spike trains `[STEPS, n, 64]` of a train and a test split, and their labels `[n]`."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load(path: Path | None, seed: int) -> Digits:
    """The digits, 4/5 for training, rate-coded: brightness is the probability of a spike per step.

    Args:
        path: an .npz with x `[n, 8, 8]` or `[n, 64]`, not negative, and y `[n]`, integers 0..9;
            None: the 1,797 images that ship with scikit-learn.

    Raises:
        ValueError: the file holds something else.
        OSError: it cannot be read.
    """
    images, labels = cast(tuple[Array, Array], load_digits(return_X_y=True)) if path is None else _read(path)
    x = torch.from_numpy(images.reshape(len(images), 64).astype(np.float32))
    y = torch.from_numpy(labels.astype(np.int64))
    torch.manual_seed(seed)
    order = torch.randperm(len(x))
    x, y = x[order] / x.max(), y[order]
    spikes = spikegen.rate(x, num_steps=STEPS)  # pyright: ignore[reportArgumentType] - annotated as bool
    split = len(x) * 4 // 5
    return Digits(spikes[:, :split], y[:split], spikes[:, split:], y[split:])


def _read(path: Path) -> tuple[Array, Array]:
    try:
        with path.open("rb") as stream:  # np.load itself leaves a damaged file open
            file = np.load(stream)
            arrays: dict[str, Array] = dict(file) if isinstance(cast(object, file), np.lib.npyio.NpzFile) else {}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable .npz file of plain arrays: {error}") from None
    if not {"x", "y"} <= set(arrays):
        raise ValueError(f"{path} must be an .npz file with the arrays x and y, it has {sorted(arrays)}.")
    x, y = arrays["x"], arrays["y"]
    if x.shape[1:] not in ((8, 8), (64,)) or y.shape != x.shape[:1] or len(x) < 10:
        raise ValueError(
            f"{path}: x must be [n, 8, 8] or [n, 64] and y [n] with n >= 10, got {[*x.shape]} and {[*y.shape]}."
        )
    if x.dtype.kind not in "biuf" or not (np.isfinite(x).all() and x.min() >= 0 and x.max() > 0):
        raise ValueError(f"{path}: x must hold finite brightnesses >= 0, some of them above 0.")
    if y.dtype.kind not in "iu" or not (y.min() >= 0 and y.max() < CLASSES):
        raise ValueError(f"{path}: y must hold integers from 0 to {CLASSES - 1}.")
    return x, y


NEURONS = (snn.Leaky, LIFCell, LNMCell)  # a swapped Leaky still is one


@contextmanager
def recording(net: nn.Module) -> Generator[list[tuple[Tensor, Tensor]]]:
    """The `(spikes, membrane)` of every neuron layer at every step while the context is open."""
    record: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: object, output: Any) -> None:
        spikes, state = output
        record.append((spikes, getattr(state, "v", state)))

    hooks = [module.register_forward_hook(keep) for module in net.modules() if isinstance(module, NEURONS)]
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def same_outputs(native: nn.Module, swapped: nn.Module, x: Tensor) -> bool:
    """Spikes and membranes of every layer at every step are `torch.equal`."""
    with recording(native) as theirs, recording(swapped) as ours:
        native(x)
        swapped(x)
    return all(torch.equal(a, b) for t, o in zip(theirs, ours, strict=True) for a, b in zip(t, o, strict=True))


@dataclass
class Training:
    """One network, its optimizer and what its epochs gave."""

    name: str
    net: nn.Module
    bar: Any
    generator: torch.Generator
    learning_rate: float
    accuracy: list[float] = field(default_factory=list[float])
    seconds: list[float] = field(default_factory=list[float])
    spikes: float = 0.0

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=self.learning_rate)

    def epoch(self, digits: Digits) -> None:
        """Cross-entropy of the output membrane at every step, as in snnTorch's tutorial 5."""
        start = time.perf_counter()
        order = torch.randperm(len(digits.train_y), generator=self.generator)
        for batch in cast("tuple[Tensor, ...]", order.split(BATCH)):
            _, membranes = self.net(digits.train_x[:, batch])
            loss = nn.functional.cross_entropy(membranes.flatten(0, 1), digits.train_y[batch].repeat(STEPS))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.bar.update()
        self.seconds.append(time.perf_counter() - start)
        self.evaluate(digits)
        self.bar.set_postfix_str(f"test accuracy {self.accuracy[-1]:.1%}")

    @torch.no_grad()
    def evaluate(self, digits: Digits) -> None:
        """The class whose output is largest over time wins; spikes of all layers are counted."""
        with recording(self.net) as record:
            spikes, _ = self.net(digits.test_x)
        self.accuracy.append((spikes.sum(0).argmax(1) == digits.test_y).float().mean().item())
        self.spikes = sum(s.sum().item() for s, _ in record) / len(digits.test_y)


def _table(trainings: list[Training]) -> str:
    rows = {
        "": [t.name for t in trainings],
        "test accuracy": [f"{t.accuracy[-1]:.1%}" for t in trainings],
        "training, s per epoch": [f"{statistics.median(t.seconds):.3f}" for t in trainings],
        "spikes per sample": [f"{t.spikes:.0f}" for t in trainings],
    }
    return "\n".join(f"{name:<24}" + "".join(f"{cell:>16}" for cell in cells) for name, cells in rows.items())


class Example(NamedTuple):
    """A network of one framework, and how to train it."""

    framework: str
    neuron: str
    build: Callable[[], nn.Module]
    fewer: int  # it trains for this fraction of the epochs: a convolutional network learns more in each
    learning_rate: float


EXAMPLES = (
    Example("snnTorch", "Leaky", Net, 1, 5e-4),
    Example("Norse", "LIFCell", ConvNet, 3, 2e-3),
)


def run(digits: Digits, epochs: int, seed: int, degree: int, figure: Path) -> int:
    """Run the demo; returns the exit status: 1 if a swap changed any output."""
    curves: dict[str, dict[str, list[float]]] = {}
    layers: dict[str, Any] = {}
    for example in EXAMPLES:
        print(f"{example.framework}\n{'=' * len(example.framework)}")
        trainings = compare(example, digits, max(1, epochs // example.fewer), seed, degree)
        if trainings is None:
            return 1
        curves[example.framework] = {t.name: t.accuracy for t in trainings}
        if example.build is Net:
            named = cast("Iterable[tuple[str, nn.Module]]", trainings[1].net.named_modules())
            layers = {name: m for name, m in named if isinstance(m, snn.Leaky)}
    demo_figure(figure, curves, layers, BETA)
    print(f"Figure: {figure}")
    return 0


def compare(example: Example, digits: Digits, epochs: int, seed: int, degree: int) -> list[Training] | None:
    """Train the network as it is and swapped; None if the swap changed any output."""
    torch.manual_seed(seed)
    native = example.build()
    learnable = copy.deepcopy(native)
    print(swap(learnable, degree=degree), end="\n\n")
    print("Comparing all outputs (the first use on a machine compiles the C++ engine).", flush=True)
    equal = same_outputs(native, learnable, digits.test_x)
    images = len(digits.test_y)
    print(
        f"Spikes and membranes of both layers, {images} test images, {STEPS} steps: torch.equal is {equal}.\n",
        flush=True,
    )
    if not equal:
        return None
    batches = epochs * -(-len(digits.train_y) // BATCH)
    trainings = [
        Training(
            name,
            net,
            tqdm(total=batches, desc=f"{name:<14}"),
            torch.Generator().manual_seed(seed),
            example.learning_rate,
        )
        for name, net in ((example.neuron, native), (f"LNM, degree {degree}", learnable))
    ]
    for _ in range(epochs):
        for training in trainings:  # in turn, so that a drift of the machine's speed hits both
            training.epoch(digits)
    for training in trainings:
        training.bar.close()
    error = (trainings[0].accuracy[-1] * (1 - trainings[0].accuracy[-1]) / images) ** 0.5
    print(f"\n{_table(trainings)}\n\nOne seed, {images} test images: the standard error is {error:.1%}.\n")
    return trainings
