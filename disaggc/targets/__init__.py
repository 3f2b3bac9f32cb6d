"""Machines, links and price tiers, read from ``targets/*.toml``; every number carries its source.

A ``Figure`` is a number with unit, source, date, confidence and interval. Figures make up a
``Device`` (memories, dense rates, efficiencies), a ``Link``, a ``System`` (devices bought and
powered together) and a ``Tier`` (what a token sells for and how fast it must come).
"""

from disaggc.targets.describe import Row, describe
from disaggc.targets.device import Device, Memory
from disaggc.targets.efficiency import KINDS, NODE_KINDS, Efficiency
from disaggc.targets.figure import Confidence, Figure, weakest
from disaggc.targets.formats import FORMATS
from disaggc.targets.library import Library
from disaggc.targets.link import Link
from disaggc.targets.load import load_library
from disaggc.targets.source import Source
from disaggc.targets.system import Hop, System
from disaggc.targets.tier import Tier
from disaggc.targets.walk import figures

__all__ = [
    "FORMATS",
    "KINDS",
    "NODE_KINDS",
    "Confidence",
    "Device",
    "Efficiency",
    "Figure",
    "Hop",
    "Library",
    "Link",
    "Memory",
    "Row",
    "Source",
    "System",
    "Tier",
    "describe",
    "figures",
    "load_library",
    "weakest",
]
