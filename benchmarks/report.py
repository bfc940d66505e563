"""The results as Markdown: a table for each kind of work, and what was to be reached."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.plan import Plan
from benchmarks.results import Results, Row
from benchmarks.targets import Target, Verdict, judge


@dataclass(frozen=True)
class Section:
    """Works that are told in one table, and what their sizes count."""

    title: str
    sizes: str
    works: tuple[str, ...]
    remark: str = ""


@dataclass(frozen=True)
class Listing:
    """A work of which each subject has a line of its own."""

    title: str
    work: str
    remark: str


REQUESTS = Section(
    "Requests",
    "connections",
    (
        *("put", "put to a follower", "linearizable range", "serializable range"),
        *("compare and swap", "lease keepalive"),
    ),
)
WATCH = Section(
    "Watch",
    "watchers",
    ("watch",),
    "Events per second to all watchers together. The one writer puts again once every watcher has seen the "
    "put before; an event's delay is from its put being sent until it arrived.",
)
GROWTH = (
    Section(
        "Live keys",
        "keys",
        ("put with live keys",),
        "Puts over 64 connections on keys that are there; memory is what the leader's process has of its own "
        "afterwards, without pages of files.",
    ),
    Section("Leases", "leases", ("keepalive of leases",), "Keepalives over 64 connections."),
    Section("Nodes", "nodes", ("put on nodes",), "Puts over 64 connections to the leader."),
)
LOCK = Listing("Lock and unlock from Python", "lock + unlock", "One client, a lock that nobody else wants.")
TASK = Listing(
    "Celery tasks",
    "Celery task",
    "Tasks that do nothing, in a prefork worker of two children, results kept: how many of those that wait "
    "are done per second, and how long one takes from being sent until its result is there. The broker and "
    "the store's three nodes are there in each case.",
)
TAKEOVERS = ("takeover after kill -9", "takeover after SIGTERM")


def markdown(
    plan: Plan, results: Results, machine: Sequence[tuple[str, str]], targets: Sequence[Target]
) -> str:
    return "\n".join(
        [
            "# Ours beside its peers",
            "",
            "Written by `make bench`. Three nodes of each store on one machine, asked through the same JSON "
            f"gateway with `wrk` (one thread); medians of {results.rounds} rounds, in each of which the "
            f"stores take turns, {plan.seconds:g} s a measurement after a warm-up. In its turn a store is "
            "alone on the machine, on empty files of the same disk, and as durable as it is by default. "
            "Only the ratios mean anything on another machine.",
            "",
            "![rates as a ratio to etcd's, and how they change with what a store holds](RESULTS.svg)",
            "",
            *told(targets, results),
            *(line for section in (REQUESTS, WATCH, *GROWTH) for line in compared(section, results)),
            *listed(LOCK, results),
            *listed(TASK, results),
            *takeovers(results),
            "## Machine",
            "",
            *table(("", ""), machine),
        ]
    )


def told(targets: Sequence[Target], results: Results) -> Iterator[str]:
    yield from ("## Targets", "", "At so many connections, unless it says otherwise.", "")
    verdicts = [judge(target, results) for target in targets]
    yield from table(
        ("target", "measured", "bound", "ratio", ""),
        [
            (
                each.target.what,
                number(each.measured),
                f"{each.target.sense} {number(each.bound)}",
                share(each),
                str(each),
            )
            for each in verdicts
        ],
    )


def share(verdict: Verdict) -> str:
    if verdict.measured is None or not verdict.bound:
        return ""
    return f"{verdict.measured / verdict.bound:.2f} × the bound"


def compared(section: Section, results: Results) -> Iterator[str]:
    """Ours beside etcd; nothing when none of it was measured."""
    rows = [row for work in section.works for row in results.rows(work)]
    if not rows:
        return
    has_memory = any(results.median(row, "jobguard", "memory") is not None for row in rows)
    yield from (f"## {section.title}", "", *([section.remark, ""] if section.remark else []))
    heads = [
        "",
        section.sizes,
        "etcd /s",
        "jobguard /s",
        "ratio",
        "etcd p50 / p99 ms",
        "jobguard p50 / p99 ms",
    ]
    yield from table(
        [*heads, "etcd MiB", "jobguard MiB"] if has_memory else heads,
        [line(row, results, has_memory) for row in rows],
    )


def line(row: Row, results: Results, has_memory: bool) -> list[str]:
    etcd, ours = (results.median(row, subject, "rate") for subject in ("etcd", "jobguard"))
    cells = [row.work, f"{row.size:,}", number(etcd), number(ours), ratio(ours, etcd)]
    cells += [latency(row, subject, results) for subject in ("etcd", "jobguard")]
    if has_memory:
        cells += [number(results.median(row, subject, "memory")) for subject in ("etcd", "jobguard")]
    return cells


def listed(listing: Listing, results: Results) -> Iterator[str]:
    """Each subject's numbers; nothing when there are none."""
    rows = results.rows(listing.work)
    if not rows:
        return
    yield from (f"## {listing.title}", "", listing.remark, "")
    yield from table(
        ("", "per second", "p50 / p99 ms"),
        [
            (subject, number(results.median(row, subject, "rate")), latency(row, subject, results))
            for row in rows
            for subject in results.subjects(listing.work)
        ],
    )


def takeovers(results: Results) -> Iterator[str]:
    rows = [row for work in TAKEOVERS for row in results.rows(work)]
    if not rows:
        return
    yield from ("## Takeover by another beat", "")
    yield (
        "Seconds from the signal to the leading beat until another has published. For redbeat it is what is "
        "left of its lock, which a killed beat cannot release: no other beat schedules before."
    )
    yield ""
    yield from table(
        ("", "", "seconds"),
        [
            (row.work, subject, number(results.median(row, subject, "seconds")))
            for row in rows
            for subject in results.subjects(row.work)
        ],
    )


def latency(row: Row, subject: str, results: Results) -> str:
    p50, p99 = (results.median(row, subject, quantity) for quantity in ("p50", "p99"))
    return f"{number(p50)} / {number(p99)}"


def ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f} ×" if ours is not None and theirs else "–"


def number(value: float | None) -> str:
    """With as many digits as mean something."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for cells in lines:
        yield f"| {' | '.join(cells)} |"
    yield ""
