"""A system as plain rows, for ``disaggc targets NAME``."""

from __future__ import annotations

from dataclasses import dataclass

from disaggc.targets.figure import Figure
from disaggc.targets.system import System
from disaggc.targets.walk import figures


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a description; a row without provenance is a plain fact.

    Attributes:
        what: The dotted path of the figure ('device.memories.hbm.capacity').
        value: As text, with its interval: '130 (90 to 170)'.
        unit: As declared; empty for a text.
        confidence: The code of ``Confidence``; empty for a text.
        source: The tag; empty for a text.
        date: The source's date; empty for a text.
        note: How it was inferred, or what else to know.
    """

    what: str
    value: str
    unit: str = ""
    confidence: str = ""
    source: str = ""
    date: str = ""
    note: str = ""


def describe(system: System) -> list[Row]:
    """Everything that is declared of a system, its device and its links: texts, then figures."""
    return [*_texts(system), *(_row(what, figure) for what, figure in figures(system))]


def _texts(system: System) -> list[Row]:
    texts = {
        "name": system.name,
        "title": system.title,
        "status": system.status,
        "host": system.host,
        "quantum": f"{system.quantum} devices",
        "device": f"{system.device.vendor} {system.device.name} ({system.device.kind})",
        "device.formats": ", ".join(system.device.formats),
        "device.note": system.device.note,
        "scale_up": f"{system.scale_up.title}, per device",
        "scale_out": f"{system.scale_out.title}, per system",
        "notes": system.notes,
    }
    return [Row(what, text) for what, text in texts.items() if text]


def _row(what: str, figure: Figure) -> Row:
    return Row(
        what=what,
        value=_value(figure),
        unit=figure.unit,
        confidence=figure.confidence.value,
        source=figure.source,
        date=figure.date,
        note=figure.note,
    )


def _value(figure: Figure) -> str:
    if figure.low is None and figure.high is None:
        return _number(figure.value)
    low, high = (figure.value if end is None else end for end in (figure.low, figure.high))
    return f"{_number(figure.value)} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    return f"{value:,.6g}"
