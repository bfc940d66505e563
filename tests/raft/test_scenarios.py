"""Stories told to a small cluster: commands, `----`, and what it said.

`pytest tests/raft --rewrite` accepts what it says now; the diff is the review.
"""

from pathlib import Path

import pytest

from jobguard_store.raft import Raft
from tests.raft.script import Script

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


def play(text: str, core: type[Raft] = Raft) -> str:
    """The same story, with what happens now under each block of commands."""
    script = Script(core)
    played: list[str] = []
    lines = iter(text.splitlines())
    said: list[str] = []
    for line in lines:
        played.append(line)
        if line == "----":
            played += said or ["(nothing)"]
            said = []
            for old in lines:
                if not old:
                    played.append(old)
                    break
        elif line and not line.startswith("#"):
            said += script.run(line)
    assert not said, "the last commands have no ---- under them"
    return "\n".join(played) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    told = path.read_text()
    played = play(told)
    if request.config.getoption("--rewrite"):
        path.write_text(played)
    else:
        assert played == told


def test_there_are_scenarios() -> None:
    """A glob that finds nothing would pass everything."""
    assert len(SCENARIOS) >= 10
