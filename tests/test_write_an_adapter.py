"""`docs/write-an-adapter.md`, done: its files, installed in a fresh environment, found and proven there."""

import re
import subprocess
import sys
import venv
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "write-an-adapter.md"


def run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_page_s_adapter_is_found_and_passes(tmp_path):
    files = re.findall(r"<!-- (\S+) -->\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [name for name, _ in files] == ["toysnn.py", "toysnn_lnm.py", "pyproject.toml", "test_toysnn.py"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv").glob("lib/*/site-packages")
    # PyTorch and this package come from the environment that runs the test.
    parents = [path for path in sys.path if path.endswith("site-packages")]
    (site / "parent.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in parents))
    listing = run(python, "-m", "snn_lnm", "adapters", cwd=tmp_path / "venv")
    assert "toysnn" not in listing
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist", cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(python, "-m", "zipfile", "-e", wheel, site, cwd=tmp_path)  # what pip does with a pure wheel
    (tests := tmp_path / "tests").mkdir()
    (tmp_path / "test_toysnn.py").rename(tests / "test_toysnn.py")
    listing = run(python, "-m", "snn_lnm", "adapters", cwd=tests)
    assert re.search(r"^toysnn +1\.0 +available +toysnn$", listing, re.MULTILINE), listing
    out = run(python, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_toysnn.py", cwd=tests)
    assert re.search(r"\d\d passed", out) and "failed" not in out, out
