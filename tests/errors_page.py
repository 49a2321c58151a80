"""docs/errors.md from the tests: `python -m tests.errors_page` writes it, `test_errors_page.py` keeps it true."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "errors.md"
SOURCES = {
    "The neuron": (
        "test_bad_input.py",
        "`X` is a float32 input of shape `[3, 2, 4]`, `THETA` is `torch.tensor([0.0, 0.9])`.",
    ),
    "swap": (
        "test_swap_choice.py",
        "`model()` has an snnTorch `Leaky`, a Norse `LIFCell` and a `Synaptic`; the optimizers are PyTorch's.",
    ),
    "snnTorch": (
        "snntorch/test_host.py",
        "`LNM` is `snn_lnm_snntorch.LNM`, `NEURON` is `LNM(0.9)`, `X` is `torch.ones(2, 3)`.",
    ),
    "Norse": ("norse/test_modules.py", "`FAST` are `LNMParameters`."),
    "SpikingJelly": ("jelly/test_jelly_node.py", "`NODE` is an `LNMNode` in step mode `m` with three channels."),
    "fuse_time": ("fuse/test_fuse_layers.py", "`FUSED` is a fused network."),
    "fuse_time, models that are no step": (
        "fuse/test_fuse_refusals.py",
        "The classes are models with the fault that is named.",
    ),
}
HEAD = """# Errors

What a wrong call raises, and when: before anything has changed. A module that raised one of these is as it was before.
The texts name what came, what was expected and, where there is one way to mend it, that way.

This page is written by `python -m tests.errors_page` from the tests named, which check each line.
"""


def rows(source: str) -> list[tuple[str, Any]]:
    """The code and the function of each call in the table CALLS of a test file, or those that its `rows` gives."""
    for folder in (TESTS, (TESTS / source).parent):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    module = importlib.import_module(Path(source).stem)
    if hasattr(module, "rows"):
        return module.rows()
    table = module.CALLS
    calls = [row[2] for row in (table.values() if isinstance(table, dict) else table)]
    for node in ast.parse((TESTS / source).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CALLS":
            lines = node.value.values if isinstance(node.value, ast.Dict) else node.value.elts
            return [(ast.unparse(line.elts[2].body), call) for line, call in zip(lines, calls, strict=True)]
    raise ValueError(f"{source} has no table CALLS.")


def text_of(call) -> str:
    """``Kind: text`` of what ``call`` raises, without addresses."""
    try:
        call()
    except Exception as error:  # of any kind: the page shows which
        text = re.sub(r" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}")
        text = re.sub(r"\.py:\d+", ".py:LINE", text)
        return text.split("\nException raised from")[0]  # PyTorch adds its own call stack to errors from C++
    raise AssertionError("nothing was raised")


def section(title: str) -> str:
    """One heading and its table."""
    source, names = SOURCES[title]
    lines = [f"\n## {title}\n`tests/{source}`. {names}\n\n| call | raises |\n|---|---|\n"]
    for code, call in rows(source):
        text = text_of(call).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| `{code.replace('|', chr(92) + '|')}` | {text} |\n")
    return "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(HEAD + "".join(map(section, SOURCES)))
