"""`jobguard health`: what a probe on a beat's host is told, in every state that a beat can be in."""

import signal
import tempfile

import pytest
from click.testing import CliRunner, Result

from jobguard import pulse
from jobguard.cli import main
from jobguard.session import boottime
from tests.plugin.beats import beats
from tests.plugin.bench import Bench, until
from tests.stores import Node


@pytest.fixture
def bench(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(tempfile, "tempdir", str(bench.directory))  # of the beats of this bench alone
    return bench


def probe(bench: Bench, *options: str) -> Result:
    environment = {"JOBGUARD_ENDPOINTS": bench.store.url, "JOBGUARD_NAMESPACE": bench.namespace}
    return CliRunner(env=environment).invoke(main, ["health", *options], catch_exceptions=False)


def told(bench: Bench, exit_code: int, text: str, *options: str) -> bool:
    """Whether one probe says so. Where the host stands still, the store seems away to a probe or two."""
    result = probe(bench, *options)
    return result.exit_code == exit_code and text in result.stdout


def test_a_beat_is_seen_to_lead_to_follow_to_hang_and_to_be_gone(
    bench: Bench, store: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (probe(bench).exit_code, "no jobguard beat" in probe(bench).stdout) == (1, True)
    with beats(bench) as on:
        first = on.start(TEST_SCHEDULE={"yearly": 3e7})
        until(lambda: told(bench, 0, "leader, last tick "), "it leads")
        second = on.start(TEST_SCHEDULE={"yearly": 3e7})
        until(lambda: len(pulse.beats(bench.namespace)) == 2, "both beat")
        until(lambda: told(bench, 0, '"state": "follower"', "-o", "json"), "the worse of two is told")

        store.pause()
        try:
            until(lambda: told(bench, 6, "no quorum"), "the store is away")
        finally:
            store.resume()
            store.wait_until_ready()
        until(lambda: probe(bench).exit_code == 0, "both are well again")

        first.process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(pulse, "STALLED_S", 1.5)
        until(lambda: told(bench, 1, "stalled, last tick "), "one hangs")
        first.kill()
        until(lambda: told(bench, 0, "pid"), "the other is well")
        assert [each.pid for each in pulse.beats(bench.namespace)] == [second.process.pid]
        second.terminate()
    assert list(bench.directory.glob("jobguard-beat-*")) == []


def test_a_pulse_is_of_its_namespace_and_of_one_who_lives(bench: Bench) -> None:
    mine = pulse.Pulse("mine")
    assert pulse.beats("mine") == []  # made for a banner
    mine.tick("leader", "x" * 1000)
    (beat,) = pulse.beats("mine")
    assert (beat.role, beat.trouble) == ("leader", "x" * 300)
    assert 0 <= boottime() - beat.at < 5
    assert pulse.beats("another") == []
    mine.close()
    mine.close()
    assert pulse.beats("mine") == []
    (bench.directory / "jobguard-beat-1-of-the-dead").write_bytes(b"{}")
    (bench.directory / "jobguard-beat-2-just-made").touch()
    assert pulse.beats("mine") == []
    assert [path.name for path in bench.directory.glob("jobguard-beat-*")] == ["jobguard-beat-2-just-made"]


def test_beat_goes_on_without_a_place_for_its_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    pulse.Pulse("mine").tick("leader", "")
    assert pulse.beats("mine") == []
