"""`docs/write-an-adapter.md`, done: its files, installed into a fresh environment, found and proven there."""

import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "write-an-adapter.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(\S+\.\w+)`\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = [line.split() for text in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
            for line in text.splitlines()]  # fmt: skip
ENTRY_POINT = '[project.entry-points."snn_lnm.adapters"]\ntoysnn = "toysnn_lnm:adapter"\n'


class Place:
    """The page's files, and an environment with nothing of its own installed yet."""

    def __init__(self, root):
        self.root = root
        for name, text in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
        venv.create(root / "venv", with_pip=False, symlinks=True)
        self.python = root / "venv" / "bin" / "python"
        (site,) = (root / "venv").glob("lib/*/site-packages")
        # PyTorch, pip, hatchling and this package come from the environment that runs the test, whose own .pth files
        # (editable installs) count too.
        parents = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (site / "parent.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in parents))

    def change(self, name, old, new):
        text = (self.root / name).read_text(encoding="utf-8")
        assert old in text
        (self.root / name).write_text(text.replace(old, new), encoding="utf-8")

    def call(self, module, *words):
        """Exit status and output of ``python -m module words`` there."""
        command = [str(self.python), "-m", module, *words]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def install(self, *distributions):
        offline = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--no-cache-dir"]
        status, output = self.call("pip", "install", *offline, *distributions)
        assert status == 0, output

    def adapters(self):
        status, output = self.call("snn_lnm", "adapters")
        assert status == 0, output
        return output

    def test(self, *words):
        return self.call("pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir=.", *words)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_the_page_shows_every_file_by_name():
    assert [*FILES] == [
        "toysnn/toysnn.py",
        "toysnn/pyproject.toml",
        "toysnn-lnm/toysnn_lnm/neuron.py",
        "toysnn-lnm/toysnn_lnm/__init__.py",
        "toysnn-lnm/pyproject.toml",
        "toysnn-lnm/tests/test_toysnn_lnm.py",
    ]
    assert len(re.findall(r"^```(?:python|toml)$", PAGE, re.MULTILINE)) == len(FILES)
    assert [words[2] for words in COMMANDS] == ["pip", "snn_lnm", "pytest"]


def test_the_page_s_adapter_is_found_and_passes(place):
    (_, _, _, _, *distributions), (_, _, *listing), (_, _, _, tests) = COMMANDS
    place.install(*distributions)
    status, output = place.call(*listing)
    shown = re.search(r"`(toysnn +1\.0 +.*?)`", PAGE)
    assert status == 0 and shown is not None
    assert shown[1].split() in [line.split() for line in output.splitlines()], output
    status, output = place.test(tests)
    found = re.search(r"(\d+) passed", output)
    assert status == 0 and found is not None and int(found[1]) >= 16, output


@pytest.mark.slow
def test_without_its_entry_point_it_is_not_found(place):
    place.change("toysnn-lnm/pyproject.toml", ENTRY_POINT, "")
    place.install("./toysnn", "./toysnn-lnm")
    assert "toysnn" not in place.adapters()
    status, output = place.test("toysnn-lnm/tests", "-k", "entry_point")
    assert status == 1 and "1 failed" in output, output


@pytest.mark.slow
def test_a_wrong_adapter_fails(place):
    place.change("toysnn-lnm/toysnn_lnm/neuron.py", "gain=number(self.tau)", "gain=number(self.tau + 1e-6)")
    place.install("./toysnn", "./toysnn-lnm")
    status, output = place.test("toysnn-lnm/tests", "-k", "float64 or cut_anywhere")
    assert status == 1 and "1 failed, 1 passed" in output, output
