"""Libraries that are compiled at first use, and kept: where they are, and how processes that start together build once.

They live in PyTorch's folder for extensions (``TORCH_EXTENSIONS_DIR``), each in one of its own, named after everything
that shapes it: sources, flags, CPU. Once a library is there, nothing is written and no compiler is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

__all__ = ["HERE", "built", "compile_library", "compiler_flags", "missing_compiler", "name_of", "said"]

HERE = Path(__file__).parent
# With AVX2 instructions are in the order that suits the machine at hand: the same bits sooner.
_ISA_FLAGS = {
    "AVX512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
    "AVX2": ["-mavx2", "-mfma", "-mf16c", "-mtune=native"],
}
_SHARED = ["-shared", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]


def _compiler() -> str:
    return os.environ.get("CXX", "c++")


def compiler_flags() -> list[str]:
    """Of all that is compiled: the language, and this machine's instructions."""
    return ["-std=c++20", "-fPIC", "-w", *_ISA_FLAGS.get(torch.backends.cpu.get_cpu_capability(), [])]


def missing_compiler() -> str | None:
    """What to do if there is no compiler."""
    if shutil.which(_compiler()) is not None:
        return None
    return (
        f"no C++ compiler found ({_compiler()!r} is not on PATH): install one, for example "
        "`apt install g++` or `conda install cxx-compiler`, or set CXX."
    )


def name_of(kind: str, *identity: str) -> str:
    """``kind`` and a hash of all that shapes the library. (Not the compiler: the bits are the same with any.)"""
    whole = "\n".join([*identity, *compiler_flags(), platform.machine()])
    return f"snn_lnm_{kind}_{hashlib.sha256(whole.encode()).hexdigest()[:16]}"


def _folder(name: str) -> Path:
    from torch import _appdirs  # pyright: ignore[reportPrivateUsage] - where torch.utils.cpp_extension looks, too

    appdirs: Any = _appdirs
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or appdirs.user_cache_dir(appname="torch_extensions")
    return Path(root) / name


def built(name: str, build: Callable[[Path], None], announcement: str | None = None) -> Path:
    """The library called ``name``; ``build`` writes it to the path that it is given, if it is not there yet.

    It appears in its place only when complete. ``announcement``: said where somebody waits at a terminal.

    Raises:
        OSError: it cannot be written.
        RuntimeError: there is no compiler, or it failed.
    """
    folder = _folder(name)
    library = folder / f"{name}.so"
    if library.exists():
        return library
    if (missing := missing_compiler()) is not None:
        raise RuntimeError(missing)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if library.exists():  # another process has built it meanwhile
            return library
        doing = said(f"{announcement}; it is kept in {folder} ..." if announcement else None)
        with doing, tempfile.TemporaryDirectory(prefix="build-", dir=folder) as place:
            build(Path(place) / library.name)
            (Path(place) / library.name).replace(library)
    return library


def compile_library(sources: Sequence[Path], flags: list[str], library: Path, links: Sequence[str] = ()) -> None:
    """Compile ``sources`` side by side (no more than ``MAX_JOBS`` at a time) into ``library``.

    Raises:
        RuntimeError: the compiler's output.
    """
    command = [_compiler(), *compiler_flags(), f"-I{HERE}", *flags]
    if len(sources) == 1:
        _run([*command, str(sources[0]), *_SHARED, *links, "-o", str(library)])
        return
    objects = [str(library.with_name(f"{source.stem}.o")) for source in sources]
    commands = [[*command, "-c", str(source), "-o", to] for source, to in zip(sources, objects, strict=True)]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", len(sources)))) as pool:
        list(pool.map(_run, commands))
    _run([*command, *objects, *_SHARED, *links, "-o", str(library)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        raise RuntimeError(done.stdout or f"{command[0]} ended with {done.returncode}, and said nothing.")


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One process at a time, so that those that start together build once.

    The system gives the lock back when its holder dies. (A lock that is a file's existence outlives a killed build, and
    every later start waits for ever.) What a killed build has left goes away.
    """
    import fcntl  # not on Windows

    with open(folder / "lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: at worst they build twice
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with said("snn_lnm: waiting for another process, which is compiling the C++ engine ..."):
                    fcntl.flock(lock, fcntl.LOCK_EX)
            for left in folder.glob("build-*"):
                shutil.rmtree(left, ignore_errors=True)
        yield


@contextlib.contextmanager
def said(what: str | None) -> Generator[None]:
    """``what`` is going on, in a line on standard error where somebody waits: at a terminal, or in a notebook."""
    if what is None or not ("ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())):
        yield
        return
    start, outcome = time.monotonic(), "stopped"
    print(what, end=" ", file=sys.stderr, flush=True)
    try:
        yield
        outcome = "done"
    finally:
        print(f"{outcome} after {time.monotonic() - start:.0f} s.", file=sys.stderr, flush=True)
