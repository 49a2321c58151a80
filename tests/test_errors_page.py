"""docs/errors.md says what is raised."""

import pytest
from errors_page import HEAD, PAGE, SOURCES, section
from optional import HAS_SPIKINGJELLY


@pytest.mark.parametrize("title", SOURCES)
def test_the_page_is_up_to_date(title):
    if title == "SpikingJelly" and not HAS_SPIKINGJELLY:
        pytest.skip("spikingjelly is not installed")  # the section is what its calls raise
    assert section(title) in PAGE.read_text(), "run `python -m tests.errors_page`"


def test_the_page_has_nothing_else():
    headings = [line for line in PAGE.read_text().splitlines() if line.startswith("## ")]
    assert headings == [f"## {title}" for title in SOURCES] and PAGE.read_text().startswith(HEAD)
