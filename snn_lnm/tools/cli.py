"""The command line: `python -m snn_lnm demo | adapters | audit`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from snn_lnm.checks import MAX_DEGREE

__all__ = ["main"]

DEMO_NEEDS = {
    "snntorch": "snntorch",
    "norse": "norse",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
}
"""Import name -> name on PyPI of what only the demo imports."""
AUDIT_TARGETS = ["sm_80", "sm_90", "sm_100", "gfx942"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    return options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m snn_lnm", description="Learnable polynomial neurons for spiking networks."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    adapters = commands.add_parser("adapters", help="list the frameworks that swap() can handle here")
    adapters.set_defaults(run=_adapters)
    demo = commands.add_parser(
        "demo",
        help="train an snnTorch and a Norse network on handwritten digits, as they are and swapped",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.set_defaults(run=_demo)
    demo.add_argument(
        "--data", type=Path, help=".npz with x [n, 8, 8] or [n, 64] and y [n]; None: scikit-learn's digits"
    )
    demo.add_argument(
        "--epochs",
        type=_integer(1, 10_000),
        default=9,
        help="of training; Norse: a third of them",
    )
    demo.add_argument("--seed", type=_integer(0, 2**63 - 1), default=0, help="of weights, spikes and batches")
    demo.add_argument("--degree", type=_integer(1, MAX_DEGREE), default=3, help="of the learned polynomials")
    demo.add_argument("--figure", type=Path, default=Path("outputs/demo.png"), help="where to save it")
    audit = commands.add_parser(
        "audit",
        help="compile the Triton kernels for GPUs that need not be here, and read their machine code",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    audit.set_defaults(run=_audit)
    audit.add_argument("--targets", nargs="+", default=AUDIT_TARGETS, choices=AUDIT_TARGETS, metavar="TARGET")
    audit.add_argument("--only", default="", help="variants whose name contains this")
    audit.add_argument("--jobs", type=_integer(1, 1024), default=1, help="processes that compile")
    audit.add_argument("--json", type=Path, help="also write all facts there")
    return parser


def _integer(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"expected an integer from {lowest} to {highest}, got {text!r}")
        return value

    return parse


def _adapters(options: argparse.Namespace) -> int:
    from snn_lnm import available_adapters

    rows = [("framework", "version", "state", "from", "reason")]
    for row in available_adapters():
        rows.append((row.name, row.framework_version or "-", row.state, row.distribution, row.reason))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _audit(options: argparse.Namespace) -> int:
    from snn_lnm.tools import audit

    try:
        rows = list(audit.run(options.targets, options.only, options.jobs))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    print(audit.table(rows))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    return int(any(row.faults for row in rows) or not rows)


def _demo(options: argparse.Namespace) -> int:
    try:
        from snn_lnm.tools import demo
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in DEMO_NEEDS:
            raise
        print(
            f"The demo needs {DEMO_NEEDS[name]}, which is not installed: pip install 'snn-lnm[demo]'",
            file=sys.stderr,
        )
        return 1
    try:
        digits = demo.load(options.data, options.seed)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return demo.run(digits, options.epochs, options.seed, options.degree, options.figure)
