from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.member import Member


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m1.jobguard" / "node.sqlite"


@pytest.fixture
def member(path: Path) -> Iterator[Member]:
    """A member on a new file."""
    member = Member(path)
    yield member
    member.database.close()
