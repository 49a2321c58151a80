"""What a first build of the C++ engine says, leaves behind, and advises when it fails. Nothing is compiled here."""

import fcntl
import io
import os
import pty
import re
import sys

import pytest

from snn_lnm.engines import cpp
from snn_lnm.engines.cpp import build
from snn_lnm.engines.cpp.remedies import complaint, remedy


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def builds(monkeypatch, tmp_path):
    """Looks for the engine anew, in an empty folder; what it would compile is noted, or fails."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    built = []

    def write(library):
        built.append(library)
        library.write_text("a library")

    monkeypatch.setattr(cpp, "_build", write)
    monkeypatch.setattr(cpp.torch.ops, "load_library", lambda path: None)
    cpp._find_obstacle.cache_clear()
    yield built
    cpp._find_obstacle.cache_clear()


@pytest.mark.parametrize("where", ["terminal", "notebook"])
def test_one_line_where_somebody_waits(builds, monkeypatch, where):
    monkeypatch.setattr(sys, "stderr", Terminal() if where == "terminal" else io.StringIO())
    if where == "notebook":
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert cpp.obstacle() is None
    (library,) = builds
    line = sys.stderr.getvalue()
    start = "snn_lnm: compiling the C++ engine's operator for this machine, once, which takes up to half a minute; "
    start += f"it is kept in {library.parent.parent}"
    assert re.fullmatch(rf"{re.escape(start)} \.\.\. done after \d+ s\.\n", line)


@pytest.mark.parametrize("stderr", [io.StringIO(), None], ids=["a file", "none"])
def test_nothing_where_nobody_does(builds, monkeypatch, capsys, stderr):
    monkeypatch.setattr(sys, "stderr", stderr)
    assert cpp.obstacle() is None and len(builds) == 1
    assert not capsys.readouterr().out and not (stderr and stderr.getvalue())


def test_nothing_when_it_is_there(builds, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert cpp.obstacle() is None
    sys.stderr.truncate(0)
    cpp._find_obstacle.cache_clear()
    loaded = []
    monkeypatch.setattr(cpp.torch.ops, "load_library", loaded.append)
    assert cpp.obstacle() is None and len(loaded) == 1 and not sys.stderr.getvalue().strip("\0")


def test_a_build_that_fails_or_is_stopped_ends_its_line(builds, monkeypatch):
    def stops(*arguments):
        raise RuntimeError("no such thing") if attempts else KeyboardInterrupt

    attempts = []
    monkeypatch.setattr(cpp, "_build", stops)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyboardInterrupt):
        cpp.obstacle()
    attempts.append(1)
    assert cpp.obstacle() == "the C++ engine does not compile here: no such thing"
    assert re.fullmatch(r"(snn_lnm: compiling .* \.\.\. stopped after \d+ s\.\n){2}", sys.stderr.getvalue())


def test_a_pseudo_terminal_is_one(builds, monkeypatch):
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert cpp.obstacle() is None
        assert re.fullmatch(r"snn_lnm: compiling [^\n]* done after \d+ s\.\r\n", os.read(leader, 9999).decode())
    os.close(leader)


def test_who_waits_says_so(builds, monkeypatch):
    """And takes what the other has built."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    calls, flock = [], fcntl.flock

    def busy(lock, how):
        calls.append(how)
        if how & fcntl.LOCK_NB:
            raise BlockingIOError
        sys.stderr.write("<waits> ")
        return flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", busy)
    assert cpp.obstacle() is None
    assert calls == [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX]
    first, second, _ = sys.stderr.getvalue().split("\n")
    waits = (
        r"snn_lnm: waiting for another process, which is compiling the C\+\+ engine \.\.\. <waits> done after \d+ s\."
    )
    assert re.fullmatch(waits, first) and second.startswith("snn_lnm: compiling")


def test_what_a_killed_build_left_goes_away(builds, tmp_path):
    """But not where the file system has no locks, and the other may be at work."""
    assert cpp.obstacle() is None
    (library,) = builds
    folder = library.parent.parent
    left = folder / "build-killed"
    for locks in (False, True):
        left.mkdir(exist_ok=True)
        (left / library.name).write_text("half a library")
        with pytest.MonkeyPatch.context() as change:
            if not locks:
                change.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError("no locks")))
            with build._alone(folder):
                assert left.exists() != locks
    assert (folder / library.name).read_text() == "a library"  # and what it held never counted


@pytest.mark.parametrize(
    "says, advice",
    [
        ("clang: error: unsupported option '-fopenmp'", "brew install llvm"),
        ("ld: library not found for -lomp", "libomp-dev"),
        ("/usr/bin/ld: cannot find -lgomp: No such file or directory", "libomp-dev"),
        ("ATen/ParallelOpenMP.h:14:10: fatal error: 'omp.h' file not found", "libomp-dev"),
        ("a.h:9:10: fatal error: omp.h: No such file or directory", "libomp-dev"),
        ("g++: error: unrecognized command line option '-std=c++20'; did you mean '-std=c++2a'?", "g++ 11"),
        ("c++: error: unrecognized command-line option ‘-mavx512dq’", "g++ 11"),
        ("error: invalid value 'c++20' in '-std=c++20'", "g++ 11"),
        ("forward.cpp:3:10: fatal error: cstdint: No such file or directory", "build-essential"),
        ("fatal error: 'cstdint' file not found", "xcode-select --install"),
        ("xcrun: error: invalid active developer path (/Library/Developer/CommandLineTools)", "xcode-select --install"),
        ("You have not agreed to the Xcode license agreements.", "xcodebuild -license accept"),
        ("fatal error: error writing to /tmp/x.s: No space left on device", "TORCH_EXTENSIONS_DIR (and TMPDIR"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "MAX_JOBS=1"),
        ("x.so: version `GLIBCXX_3.4.32' not found", "libstdcxx-ng"),
        ("x.so: failed to map segment from shared object", "programs may not run"),
        ("something that nobody has seen yet", None),
    ],
)
def test_advice(says, advice):
    found = remedy(says)
    assert found is None if advice is None else advice in found
    assert complaint(says) == says


def failing_compiler(folder, says):
    path = folder / "c++"
    path.write_text(f'#!/bin/sh\ncase $1 in -*v*) exec c++ $1;; esac\necho "{says}" 1>&2; exit 1\n')
    path.chmod(0o755)
    return str(path)


def test_a_compiler_that_complains_is_answered(monkeypatch, tmp_path):
    """In the compiler's own words."""
    says = "clang: error: unsupported option '-fopenmp'"
    monkeypatch.setenv("CXX", failing_compiler(tmp_path, says))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    cpp._find_obstacle.cache_clear()
    message = cpp.obstacle()
    cpp._find_obstacle.cache_clear()
    start, end = message.split("\nWhat helps: ")
    assert start.splitlines()[0] == f"the C++ engine does not compile here: {says}" and end.startswith(
        "Apple's compiler"
    )
    left = {path.name for path in (tmp_path / "extensions").glob("*/*")}
    assert left == {"lock"}


def test_a_library_that_cannot_be_loaded_is_answered(builds, monkeypatch):
    def refuses(*arguments):
        raise OSError("x.so: version `GLIBCXX_3.4.32' not found")

    monkeypatch.setattr(cpp, "_build", refuses)
    assert "cannot be written or loaded" in (message := cpp.obstacle()) and "libstdcxx-ng" in message
