"""Whether a target was reached is told as it is."""

import pytest

from benchmarks.results import Point, Results, Row
from benchmarks.targets import TARGETS, Target, judge

PUT = Row("put", 64)
OURS = Point("put", 64, "jobguard", "rate")
ETCDS = Point("put", 64, "etcd", "rate")


def measured(**rates: list[float]) -> Results:
    results = Results()
    for subject, found in rates.items():
        for rate in found:
            results.record(PUT, subject, {"rate": rate})
    return results


def at_least(factor: float) -> Target:
    return Target(what="rate", measured=OURS, sense="≥", bound=((factor, ETCDS),))


def at_most(factor: float, plus: float = 0.0) -> Target:
    return Target(what="rate", measured=OURS, sense="≤", bound=((factor, ETCDS),), plus=plus)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (at_least(1.0), "met"),
        (at_least(1.2), "met"),
        (at_least(1.5), "**missed by 20.0%**"),
        (at_most(1.2), "met"),
        (at_most(1.0), "**missed by 20.0%**"),
        (at_most(0.5, plus=500.0), "**missed by 20.0%**"),
    ],
)
def test_a_target_that_was_missed_is_told_by_how_much(target: Target, words: str) -> None:
    assert str(judge(target, measured(jobguard=[1200.0], etcd=[1000.0]))) == words


def test_the_median_counts() -> None:
    results = measured(jobguard=[1.0, 1100.0, 90_000.0], etcd=[1000.0, 999.0, 1001.0])
    verdict = judge(at_least(1.1), results)
    assert (verdict.measured, verdict.bound, verdict.met) == (1100.0, 1100.0, True)


def test_what_was_not_measured_is_not_met() -> None:
    for results in (measured(etcd=[1000.0]), measured(jobguard=[1000.0]), measured()):
        verdict = judge(at_least(1.0), results)
        assert not verdict.met
        assert str(verdict) == "not measured"


def test_a_bound_may_be_a_plain_number() -> None:
    target = Target(what="rate", measured=OURS, sense="≤", bound=(), plus=1000.0)
    assert str(judge(target, measured(jobguard=[1100.0]))) == "**missed by 10.0%**"


def test_each_target_is_there_once() -> None:
    assert len({target.what for target in TARGETS}) == len(TARGETS)
