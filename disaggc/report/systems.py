"""Machines for people: every number with its source."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import RenderableType

from disaggc.report.console import amount, table
from disaggc.targets import Library, System, describe


def systems_table(library: Library) -> RenderableType:
    """All declared systems."""
    rows = [
        (
            system.name,
            system.title,
            system.devices,
            f"{amount(system.capacity_bytes, 'B')} {system.device.main.name}",
            amount(system.bytes_per_s, "B/s"),
        )
        for _, system in sorted(library.systems.items())
    ]
    return table(
        "Systems (disaggc targets NAME shows one with its sources)",
        ("name", "is", "devices", "memory", "bandwidth"),
        rows,
        left=2,
    )


def systems_data(library: Library) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "name": system.name,
            "title": system.title,
            "devices": system.devices,
            "memory": system.device.main.name,
            "memory_bytes": system.capacity_bytes,
            "memory_bytes_per_s": system.bytes_per_s,
        }
        for _, system in sorted(library.systems.items())
    ]


def system_data(system: System) -> list[dict[str, Any]]:
    """Everything declared of a system, for programs."""
    return [dataclasses.asdict(row) for row in describe(system)]


def system_table(system: System) -> RenderableType:
    """One system, every figure with confidence and source."""
    rows = [
        (
            row.what,
            f"{row.value} {row.unit}".strip(),
            row.confidence,
            f"{row.source} {row.date}".strip(),
            row.note,
        )
        for row in describe(system)
    ]
    return table(system.title, ("what", "value", "", "source", "note"), rows, left=5)
