"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """One wrong change.

    Attributes:
        why: what is wrong now, in a few words.
        file: from the root of the repository.
        old, new: the text, which occurs exactly once in the file, and what stands there instead.
        tests: pytest's names of the properties of which the first to run has to fail.
    """

    why: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def builds(self) -> bool:
        """It changes what the C++ engine is compiled from."""
        return "/cpp/" in self.file and self.file.endswith((".h", ".cpp"))

    def applied(self, text: str) -> str:
        """``text`` of the file with the change.

        Raises:
            ValueError: the old text does not occur exactly once.
        """
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.file}: {self.old!r} occurs {count} times, not once ({self.why}).")
        return text.replace(self.old, self.new)
