"""What a run draws follows the commit, and every part gets its turn."""

import pytest
import rotation
from hypothesis import core, settings


@pytest.fixture
def at(monkeypatch):
    monkeypatch.delenv("SNN_LNM_TURN", raising=False)
    return lambda commit: monkeypatch.setattr(rotation, "commit", lambda: commit)


def test_by_the_commit_or_without_one_always_the_same(at, monkeypatch):
    at("0000002a77")
    assert rotation.number() == 42 and rotation.reason() == "commit 0000002a"
    at("")
    assert rotation.number() == 0 and "no commit" in rotation.reason()
    monkeypatch.setenv("SNN_LNM_TURN", "7")
    assert rotation.number() == 7


def test_every_part_gets_its_turn(at):
    due = set()
    for number in range(5):
        at(f"{number:08x}")
        due.add(rotation.turn(5))
    assert due == {"1/5", "2/5", "3/5", "4/5", "5/5"}


@pytest.mark.turns(3)
@pytest.mark.parametrize("case", range(9))
def test_of_the_cases_that_take_turns_others_are_slow(case, request):
    is_slow = request.node.get_closest_marker("slow") is not None
    assert is_slow == ((case + 1 + rotation.number()) % 3 > 0)


def test_the_seed_is_that_of_the_first_lines(request):
    """And nothing else decides: no examples of earlier runs."""
    assert core.global_force_seed == int(request.config.option.hypothesis_seed)
    assert settings.default.database is None
