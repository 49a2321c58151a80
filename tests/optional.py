"""Which optional packages are here, in versions that can be used."""

from importlib import metadata

OLDEST_TRITON = "3.4"  # snn_lnm.engines.triton.MINIMUM, which not every reader of this may import


def _release(name: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in metadata.version(name).split(".")[:2])
    except metadata.PackageNotFoundError:
        return ()


HAS_SPIKINGJELLY = bool(_release("spikingjelly"))
HAS_TRITON = _release("triton") >= tuple(map(int, OLDEST_TRITON.split(".")))
NO_TRITON = f"triton {OLDEST_TRITON} or newer is not installed"
