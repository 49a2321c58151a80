"""What `swap` says of what it did: a row per neuron."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from snn_lnm.table import table

__all__ = ["Outcome", "SwapReport", "SwapRow", "obstacles"]

Outcome = Literal["swapped", "kept", "refused"]


class SwapRow(NamedTuple):
    """One neuron of the model.

    Attributes:
        path: where it is; a neuron that is shared has a row for each place.
        before: its class, and the degree of a learnable neuron.
        after: what is in its place now; empty if it was left as it is.
        reason: why it was left, or what else is to be known of it.
        outcome: ``"swapped"``; ``"kept"``, for a neuron that need not be swapped (it does not spike, it is learnable
            already, the user excluded it); or ``"refused"``, for one that could not be.
    """

    path: str
    before: str
    after: str
    reason: str
    outcome: Outcome = "swapped"


@dataclass(frozen=True)
class SwapReport:
    """What :func:`snn_lnm.swap` or :func:`snn_lnm.swap_back` did. Prints as a table.

    Attributes:
        rows: in the model's order.
        parameters: what became of the parameters, in a sentence; empty if there are no new ones.
        nothing: what it prints without any row.
    """

    rows: tuple[SwapRow, ...]
    parameters: str = ""
    nothing: str = "no known spiking neuron in this model; nothing was changed."

    @property
    def swapped(self) -> list[SwapRow]:
        return [row for row in self.rows if row.outcome == "swapped"]

    @property
    def kept(self) -> list[SwapRow]:
        return [row for row in self.rows if row.outcome == "kept"]

    @property
    def refused(self) -> list[SwapRow]:
        return [row for row in self.rows if row.outcome == "refused"]

    @property
    def skipped(self) -> list[SwapRow]:
        """All that were left as they are: kept and refused."""
        return [row for row in self.rows if row.outcome != "swapped"]

    def __str__(self) -> str:
        if not self.rows:
            return self.nothing
        words = {"kept": "kept", "refused": "not swapped"}
        lines = table(
            ("layer", "before", "after", "note"),
            [(row.path, row.before, words.get(row.outcome, row.after), row.reason) for row in self.rows],
        )
        return "\n".join([*lines, self.parameters] if self.parameters else lines)


def obstacles(refused: Iterable[SwapRow], held: Iterable[str]) -> str:
    """The error of ``strict``: only what stands in the way, for nothing was done."""
    lines = [f"{row.path} ({row.before}): {row.reason}" for row in refused]
    return "\n  ".join(["strict: some neurons cannot be swapped, nothing was changed.", *lines, *held])
