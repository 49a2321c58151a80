"""docs/errors.md says what is raised."""

from errors_page import PAGE, calls, page
from test_bad_input import CALLS


def test_the_page_is_up_to_date():
    assert [*calls()] == [*CALLS]
    assert PAGE.read_text() == page(CALLS), "run `python -m tests.errors_page`"
