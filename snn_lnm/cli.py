"""The command line: `python -m snn_lnm demo | adapters`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from snn_lnm import available_adapters

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m snn_lnm", description="Learnable neurons for spiking networks."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("adapters", help="list the frameworks that swap() knows")
    demo = commands.add_parser("demo", help="train an snnTorch model on real digits, before and after swap()")
    demo.add_argument(
        "--data", type=Path, help=".npz with x [n, 8, 8] or [n, 64] and y [n]; default: sklearn's digits"
    )
    demo.add_argument("--epochs", type=int, default=12)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--degree", type=int, default=3)
    demo.add_argument(
        "--figure", type=Path, default=Path("outputs/demo.png"), help="where to save the figure"
    )
    options = parser.parse_args(arguments)
    return _adapters() if options.command == "adapters" else _demo(options)


def _adapters() -> int:
    for row in available_adapters():
        print(
            f"{row.name:<14} {row.framework_version or '-':<10} {row.state:<12} {row.distribution}  {row.reason}".rstrip()
        )
    return 0


def _demo(options: argparse.Namespace) -> int:
    try:
        from snn_lnm.demo import run
    except ModuleNotFoundError as error:
        print(f"The demo needs {error.name}: pip install 'snn-lnm[demo]' (or `make demo` in a clone).")
        return 1
    return run(options.data, options.epochs, options.seed, options.degree, options.figure)
