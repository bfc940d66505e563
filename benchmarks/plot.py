"""The results as one SVG: rates as a ratio to etcd's, and how they change with what a store holds.

Its colours follow the reader's, light or dark; all text is text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.report import GROWTH, REQUESTS, WATCH, Section, number, ratio
from benchmarks.results import Point, Results
from benchmarks.targets import Target

WIDTH = 760
LABEL_WIDTH = 220
BAR_WIDTH_MAX = 400
LINE = 21
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600 }
.jobguard { fill: #2563eb } .etcd { fill: #a3a9b1 }
.equal { stroke: #656d76 } .wanted { stroke: #c2410c; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .jobguard { fill: #60a5fa } .etcd { fill: #6e7681 }
  .equal { stroke: #8d96a0 } .wanted { stroke: #fb923c }
}"""


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    subject: str  # whose colour it has
    note: str
    wanted: float | None = None  # a target, in the same measure


def svg(results: Results, targets: Sequence[Target]) -> str:
    sections = [(section, growth_bars(section, results)) for section in GROWTH]
    panels = [
        ("Rate, × etcd's (orange: to reach)", ratio_bars(results, targets), 1.0),
        *((f"{each.title}: {each.works[0]}, per second", bars, None) for each, bars in sections),
    ]
    drawn, height = [], 0
    for title, bars, line_at in panels:
        if bars:
            drawn.append(f'<g transform="translate(0 {height})">{"".join(panel(title, bars, line_at))}</g>')
            height += LINE * (len(bars) + 3)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Rates of jobguard beside those of etcd"><style>{STYLE}</style>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def ratio_bars(results: Results, targets: Sequence[Target]) -> list[Bar]:
    bars = []
    for row in (row for section in (REQUESTS, WATCH) for work in section.works for row in results.rows(work)):
        ours, etcds = (results.median(row, subject, "rate") for subject in ("jobguard", "etcd"))
        if ours is not None and etcds:
            wanted = wanted_rate(Point(row.work, row.size, "jobguard", "rate"), results, targets)
            note = f"{ratio(ours, etcds)}  ({number(ours)} /s)"
            bars.append(Bar(str(row), ours / etcds, "jobguard", note, wanted and wanted / etcds))
    return bars


def wanted_rate(point: Point, results: Results, targets: Sequence[Target]) -> float | None:
    bounds = (target.bound_in(results) for target in targets if target.measured == point)
    return next(bounds, None)


def growth_bars(section: Section, results: Results) -> list[Bar]:
    return [
        Bar(f"{row.size:,}, {subject}", rate, subject, f"{number(rate)} /s")
        for work in section.works
        for row in results.rows(work)
        for subject in ("etcd", "jobguard")
        if (rate := results.median(row, subject, "rate")) is not None
    ]


def panel(title: str, bars: Sequence[Bar], line_at: float | None) -> Iterator[str]:
    """Names to the left, bars from a common edge, numbers behind them."""
    scale = BAR_WIDTH_MAX / max(max(bar.value, bar.wanted or 0.0, line_at or 0.0) for bar in bars)
    yield text(0, LINE, title, "title")
    for index, bar in enumerate(bars):
        top = LINE * (index + 1.5)
        width = max(bar.value, bar.wanted or 0.0, line_at or 0.0) * scale
        yield text(LABEL_WIDTH - 8, top + LINE * 0.7, bar.label, anchor="end")
        yield (
            f'<rect class="{bar.subject}" x="{LABEL_WIDTH}" y="{top + 2:.1f}" '
            f'width="{bar.value * scale:.1f}" height="{LINE - 5}"/>'
        )
        if bar.wanted is not None:
            yield vertical("wanted", bar.wanted * scale, top, top + LINE)
        yield text(LABEL_WIDTH + width + 8, top + LINE * 0.7, bar.note)
    if line_at is not None:
        yield vertical("equal", line_at * scale, LINE * 1.4, LINE * (len(bars) + 1.6))


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def vertical(kind: str, x: float, top: float, bottom: float) -> str:
    x += LABEL_WIDTH
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
