"""What a mutant is, and how its place in the code is found."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Mutant:
    """One wrong change.

    Attributes:
        why: what is wrong now, in a few words.
        file: from the root of the repository.
        inside: the function, the ``Class.method`` or the assigned name in whose source the change is made. Empty in
            engines that Python does not run as it is written: the old text then stands in the file letter by letter.
        old, new: code that occurs exactly once inside, and what stands there instead. How the old code is broken
            into lines does not count; further lines of the new code are indented like its first.
        tests: pytest's names of the properties of which the first to run has to fail.
    """

    why: str
    file: str
    inside: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def builds(self) -> bool:
        """It changes what the C++ engine is compiled from, or what writes its kernels."""
        return "/generator/" in self.file or ("/cpp/" in self.file and self.file.endswith((".h", ".cpp")))

    def applied(self, text: str) -> str:
        """``text`` of the file with the change.

        Raises:
            ValueError: the old code does not occur exactly once.
        """
        spans = [(0, len(text))] if not self.inside else source(text, self.inside)
        found = [match.span() for span in spans for match in self._pattern().finditer(text, *span)]
        if len(found) != 1:
            where = f"{self.inside} (defined {len(spans)} times)" if self.inside else "the file"
            raise ValueError(f"{self.file}: {self.old!r} occurs {len(found)} times in {where}, not once ({self.why}).")
        ((begin, end),) = found
        indent = re.match(" *", text[text.rfind("\n", 0, begin) + 1 :])
        new = self.new.replace("\n", f"\n{indent.group()}") if self.inside else self.new
        return text[:begin] + new + text[end:]

    def _pattern(self) -> re.Pattern[str]:
        return code(self.old) if self.inside else re.compile(re.escape(self.old))


@functools.cache
def source(text: str, name: str) -> list[tuple[int, int]]:
    """Where the lines of each definition of ``name`` begin and end: one, or several of a property."""
    starts = [0, *itertools.accumulate(len(line) + 1 for line in text.split("\n"))]
    found = []
    for node in definitions(ast.parse(text), name):
        first = min([node.lineno, *(part.lineno for part in getattr(node, "decorator_list", ()))])
        found.append((starts[first - 1], starts[node.end_lineno] - 1))
    return found


def definitions(node: ast.AST, name: str) -> Iterator[ast.stmt]:
    """The functions, classes and assignments in ``node`` that the dotted ``name`` means."""
    first, _, rest = name.partition(".")
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINITION):
            if child.name == first:
                yield from definitions(child, rest) if rest else [child]
        elif isinstance(child, (ast.Assign, ast.AnnAssign)):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            if name in map(ast.unparse, targets):
                yield child
        else:
            yield from definitions(child, name)


@functools.cache
def code(text: str) -> re.Pattern[str]:
    """``text`` of Python with any spacing and line breaks, and a comma or none before a bracket that closes."""
    words = re.findall(r"\w+|[^\w\s]", text)
    found = [r"\b" if words[0].isidentifier() else "", re.escape(words[0])]
    for word, following in itertools.pairwise(words):
        both = re.fullmatch(r"\w+ \w+", f"{word} {following}")
        found += [r"\s+" if both else r",?\s*" if following in ")]}" else r"\s*", re.escape(following)]
    return re.compile("".join([*found, r"\b" if words[-1].isidentifier() else ""]))
