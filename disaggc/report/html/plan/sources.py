"""Every hardware number with where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from disaggc.report.html.tables import Machine
from disaggc.report.html.views import SourceRow, Sources
from disaggc.targets import Confidence, Figure, Source

UNPRICED = (".sparse.", "bandwidth_both_ways")
"""Parts of the names of figures that no prediction rests on."""


def sources(
    used: set[str], machines: Mapping[str, Machine], known: Mapping[str, Source]
) -> tuple[Sources, ...]:
    """Every figure that predictions or prices rest on, by system, those that are used first."""
    ordered = sorted(machines.values(), key=lambda m: m.name not in used)
    return tuple(_sources(machine, known) for machine in ordered)


def _sources(machine: Machine, known: Mapping[str, Source]) -> Sources:
    told = [(n, f) for n, f in machine.figures.items() if not any(part in f".{n}" for part in UNPRICED)]
    counts = Counter(figure.confidence.value for _, figure in told)
    ordered = tuple((code.value, counts[code.value]) for code in Confidence if counts[code.value])
    return Sources(machine.name, machine.title, tuple(_row(n, f, known) for n, f in told), ordered)


def _row(name: str, figure: Figure, known: Mapping[str, Source]) -> SourceRow:
    source = known.get(figure.source)
    ends = (figure.value if end is None else end for end in (figure.low, figure.high))
    known_ends = figure.low is not None or figure.high is not None
    interval = " to ".join(f"{end:,.6g}" for end in ends) if known_ends else ""
    return SourceRow(
        name,
        f"{figure.value:,.6g} {figure.unit}",
        interval,
        figure.confidence.value,
        figure.source,
        source.title if source is not None else "",
        source.url if source is not None else "",
        figure.date,
        figure.note,
    )
