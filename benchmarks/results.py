"""What was measured, by row and subject; the medians over the rounds are what is reported."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

# rate per second; p50 and p99 in ms; memory in MiB; seconds of what is done once a round
Quantity = Literal["rate", "p50", "p99", "memory", "seconds"]
Sample = Mapping[Quantity, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work at one size: connections, watchers, keys, leases or nodes, as the work has it."""

    work: str
    size: int

    def __str__(self) -> str:
        return f"{self.work}, {self.size:,}"


@dataclass(frozen=True, slots=True)
class Point:
    """One number of the report."""

    work: str
    size: int
    subject: str
    quantity: Quantity


@dataclass
class Results:
    samples: dict[tuple[Row, str], list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def record(self, row: Row, subject: str, sample: Sample) -> None:
        self.samples[row, subject].append(sample)

    def median(self, row: Row, subject: str, quantity: Quantity) -> float | None:
        """None when no round measured it."""
        found = [sample[quantity] for sample in self.samples.get((row, subject), ()) if quantity in sample]
        return median(found) if found else None

    def at(self, point: Point) -> float | None:
        return self.median(Row(point.work, point.size), point.subject, point.quantity)

    def rows(self, work: str) -> list[Row]:
        return sorted({row for row, _ in self.samples if row.work == work}, key=lambda row: row.size)

    def subjects(self, work: str) -> list[str]:
        """In the order in which they had their first turn."""
        return list(dict.fromkeys(subject for row, subject in self.samples if row.work == work))

    @property
    def rounds(self) -> int:
        return max(map(len, self.samples.values()), default=0)


def spread(seconds: Sequence[float]) -> dict[Quantity, float]:
    """p50 and p99 of some durations, in ms."""
    ordered = sorted(seconds)
    return {
        "p50": 1000 * ordered[int(len(ordered) * 0.50)],
        "p99": 1000 * ordered[int(len(ordered) * 0.99)],
    }
