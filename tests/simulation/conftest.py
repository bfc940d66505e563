"""Which histories run: some that always do, some nobody has seen before, or the one asked for."""

import secrets

import pytest

FIXED = range(150)
FRESH = 200  # about ten seconds


@pytest.fixture
def fixed_seeds(request: pytest.FixtureRequest) -> list[int]:
    asked: int | None = request.config.getoption("--seed")
    return list(FIXED) if asked is None else [asked]


@pytest.fixture
def fresh_seeds(request: pytest.FixtureRequest) -> list[int]:
    asked: int | None = request.config.getoption("--seed")
    return [secrets.randbelow(1 << 48) for _ in range(FRESH)] if asked is None else [asked]
