"""The table and the plot of a run."""

import xml.etree.ElementTree as ET

import pytest

from benchmarks.plan import FULL
from benchmarks.plot import svg
from benchmarks.report import markdown
from benchmarks.results import Results, Row
from benchmarks.targets import TARGETS

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def results() -> Results:
    results = Results()
    for ours, etcds in ((12_000.0, 10_000.0), (9_000.0, 10_001.0), (12_001.0, 9_000.0)):
        results.record(Row("put", 64), "jobguard", {"rate": ours, "p50": 5.0, "p99": 12.34})
        results.record(Row("put", 64), "etcd", {"rate": etcds, "p50": 5.0, "p99": 20.0})
    for keys, rate in ((1_000, 12_000.0), (1_000_000, 11_000.0)):
        sample = {"rate": rate, "p50": 5.0, "p99": 12.0, "memory": 400.4}
        results.record(Row("put with live keys", keys), "jobguard", sample)
    results.record(Row("lock + unlock", 1), "PySyncObj", {"rate": 4.9, "p50": 203.0, "p99": 240.0})
    results.record(Row("Celery task", 2), "plain Celery", {"rate": 1000.0, "p50": 2.0, "p99": 5.0})
    results.record(Row("takeover after kill -9", 2), "redbeat", {"seconds": 1499.9})
    return results


def test_the_report_has_the_medians_and_what_they_are_worth(results: Results) -> None:
    lines = markdown(FULL, results, [("Python", "3.11")], TARGETS).splitlines()
    assert "| put | 64 | 10,000 | 12,000 | 1.20 × | 5.00 / 20.0 | 5.00 / 12.3 |" in lines
    assert "| put with live keys | 1,000,000 | – | 11,000 | – | – / – | 5.00 / 12.0 | – | 400 |" in lines
    assert "| PySyncObj | 4.90 | 203 / 240 |" in lines
    assert "| plain Celery | 1,000 | 2.00 / 5.00 |" in lines
    assert "| takeover after kill -9 | redbeat | 1,500 |" in lines
    assert "| Python | 3.11 |" in lines
    (missed,) = (line for line in lines if line.startswith("| put at 64: rate"))
    assert missed.endswith("| **missed by 20.0%** |")
    (met,) = (line for line in lines if line.startswith("| put at 64: p99"))
    assert met.endswith("| met |")


def test_what_was_not_measured_has_no_table(results: Results) -> None:
    assert "## Watch" not in markdown(FULL, results, [], TARGETS)
    assert "## Requests" not in markdown(FULL, Results(), [], TARGETS)


def test_the_plot_draws_bars_to_scale_and_what_was_to_be_reached(results: Results) -> None:
    root = ET.fromstring(svg(results, TARGETS))
    bars = [float(bar.get("width", "")) for bar in root.iter(f"{SVG}rect")]
    ratio, few, many = bars
    (wanted,) = (line for line in root.iter(f"{SVG}line") if line.get("class") == "wanted")
    (equal,) = (line for line in root.iter(f"{SVG}line") if line.get("class") == "equal")
    begin = float(equal.get("x1", "")) - ratio / 1.2  # where the bars begin
    assert float(wanted.get("x1", "")) - begin == pytest.approx(ratio / 1.2 * 1.5, abs=0.2)
    assert many / few == pytest.approx(11 / 12, abs=0.01)
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert "put, 64" in words
    assert "1.20 ×  (12,000 /s)" in words


def test_the_plot_of_nothing_is_a_picture_too() -> None:
    assert ET.fromstring(svg(Results(), TARGETS)).tag == f"{SVG}svg"
