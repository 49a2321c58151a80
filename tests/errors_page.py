"""docs/errors.md from the tests: `python -m tests.errors_page` writes it, `test_errors_page.py` keeps it true."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
SOURCE = ROOT / "tests" / "test_bad_input.py"
HEAD = """# Errors

What a wrong call raises, and when: before anything has changed. A module that raised one of these is as it was before
(`tests/test_bad_input.py` checks each line, and that). The texts name what came, what was expected and, where there is
one way to mend it, that way.

This page is written by `python -m tests.errors_page` from those tests. In the calls, `X` is a float32 input of shape
`[3, 2, 4]`, `THETA` is `torch.tensor([0.0, 0.9])`, and `functional` is `snn_lnm.functional`.

| call | raises |
|---|---|
"""


def calls() -> dict[str, str]:
    """Name of each misuse -> the code of its call, as the test has it."""
    for node in ast.parse(SOURCE.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CALLS":
            table = ast.literal_eval(ast.Dict([*node.value.keys], [ast.Constant(0) for _ in node.value.keys]))
            bodies = (ast.unparse(row.elts[2].body) for row in node.value.values)
            return dict(zip(table, bodies, strict=True))
    raise ValueError(f"{SOURCE} has no table CALLS.")


def text_of(call) -> str:
    """``Kind: text`` of what ``call`` raises, without addresses."""
    try:
        call()
    except Exception as error:  # of any kind: the page shows which
        text = re.sub(r" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}")
        return text.split("\nException raised from")[0]  # PyTorch adds its own call stack to errors from C++
    raise AssertionError("nothing was raised")


def page(table: dict) -> str:
    """The page for ``table``, the tests' CALLS."""
    rows = []
    for name, code in calls().items():
        text = text_of(table[name][2]).replace("|", "\\|").replace("\n", " ")
        rows.append(f"| `{code.replace('|', chr(92) + '|')}` | {text} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    sys.path.insert(0, str(SOURCE.parent))
    from test_bad_input import CALLS

    PAGE.write_text(page(CALLS))
