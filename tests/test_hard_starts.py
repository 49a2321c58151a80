"""Hard starts of the C++ engine: eight at once, no room on the disk, a folder that cannot be written."""

import errno
import tempfile

import pytest
import torch
from test_processes import copying_compiler, end, start

from snn_lnm.engines import cpp
from snn_lnm.engines.cpp import build


@pytest.fixture
def fresh(monkeypatch):
    """This process, as if it had not looked for the engine yet."""
    cpp._find_obstacle.cache_clear()
    yield monkeypatch
    cpp._find_obstacle.cache_clear()


@pytest.mark.slow
def test_eight_cold_starts_build_once(tmp_path):
    environment = copying_compiler(tmp_path)
    found = end(*(start(tmp_path / "extensions", **environment) for _ in range(8)))
    bits = {out for out, _ in found}
    assert len(bits) == 1 and len(bits.pop().strip()) == 64, found
    libraries = [*(tmp_path / "extensions").glob("*/*.so")]
    compilations = (tmp_path / "compilations").read_text().count("x")
    assert compilations == len(cpp._SOURCES), "each source is compiled by one process only"
    # The folders hold a library and the lock: nothing of a build is left.
    assert len(libraries) == 2  # the operator and a kernel
    for library in libraries:
        assert {path.name for path in library.parent.iterdir()} == {library.name, "lock"}


def test_a_read_only_folder_with_the_library_is_enough(tmp_path, fresh):
    """Found, loaded, nothing written."""
    fresh.setattr(cpp, "_build", lambda library: pytest.fail("it is there, and is built again"))
    fresh.setattr(build, "_alone", lambda folder: pytest.fail("it is there, and takes a lock"))
    assert cpp.obstacle() is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT], ids=["full", "read-only", "quota"])
def test_no_room_is_said_and_the_next_start_works(tmp_path, fresh, number):
    """The system's refusal, wherever it comes; then there is room again and the same process builds.

    (Injected: a test cannot fill a disk.)
    """
    fresh.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))

    def refused(*arguments, **words):
        raise OSError(number, "refused in this test")

    with fresh.context() as limited:
        limited.setattr(tempfile, "TemporaryDirectory", refused)
        message = cpp.obstacle()
        assert message is not None and "refused in this test" in message and "TORCH_EXTENSIONS_DIR" in message
    assert not [*tmp_path.rglob("*.so")]
    cpp._find_obstacle.cache_clear()
    fresh.setattr(cpp, "_build", lambda library: library.write_text("a library"))
    fresh.setattr(torch.ops, "load_library", lambda path: None)
    assert cpp.obstacle() is None and len([*tmp_path.rglob("*.so")]) == 1


def name_of_the_library(tmp_path, monkeypatch):
    with monkeypatch.context() as change:
        change.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
        change.setattr(cpp, "_build", lambda library: library.write_text("a library"))
        return cpp._operator().name


def test_the_name_of_the_library_holds_all_that_shapes_it(tmp_path, fresh):
    """Flags, instruction set, sources, PyTorch: another of them is another library, never a stale one."""
    names = {name_of_the_library(tmp_path, fresh)}
    assert names == {name_of_the_library(tmp_path, fresh)}
    changes = [
        (cpp, "_FLAGS", [*cpp._FLAGS, "-DOTHER"]),
        (torch.backends.cpu, "get_cpu_capability", lambda: "OTHER"),
        (cpp, "_HEADERS", cpp._HEADERS[1:]),
        (torch, "__version__", "0.0"),
    ]
    for place, name, value in changes:
        with fresh.context() as change:
            change.setattr(place, name, value)
            names.add(name_of_the_library(tmp_path, fresh))
    assert len(names) == 1 + len(changes)
