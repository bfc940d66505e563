import pytest

from tests.machine.started import Started


@pytest.fixture
def store() -> Started:
    """A fresh store, at revision 1."""
    return Started()
