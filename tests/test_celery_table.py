"""docs/celery.md names a test for each trap, thing tried, crash point, trouble, option, policy, complaint."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from jobguard.policy import Policy
from tests.test_pitfalls import REFERENCE, exists

TABLE = (Path(__file__).resolve().parent.parent / "docs" / "celery.md").read_text()
ROWS = {row[1]: row[2] for row in re.finditer(r"^\| ([\w]+) \|[^|]*\| (.*) \|$", TABLE, re.MULTILINE)}
ROWS.pop("id")
COUNTS = (("T", 20), ("C", 14), ("X", 7), ("B", 15), ("O", 8))
WANTED = [
    *(f"{kind}{number}" for kind, count in COUNTS for number in range(1, count + 1)),
    *(each.name for each in fields(Policy)),
    *(f"P{number}" for number in range(1, 16)),
]


def test_none_is_left_out() -> None:
    assert list(ROWS) == WANTED


@pytest.mark.parametrize("id_", ROWS)
def test_each_has_its_test_or_says_what_is_open(id_: str) -> None:
    tests, _, open_ = ROWS[id_].partition("Open: ")
    named = REFERENCE.findall(tests)
    assert named or open_, "neither a test nor a word on what is missing"
    assert ", ".join(named) == tests.rstrip(". "), "a word in which a gap could hide"
    for reference in named:
        assert exists(f"plugin/{reference}"), reference
