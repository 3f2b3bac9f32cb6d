"""Every declared target by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from disaggc.errors import UnknownTargetError, nearest
from disaggc.targets.device import Device
from disaggc.targets.efficiency import Efficiency
from disaggc.targets.link import Link
from disaggc.targets.source import Source
from disaggc.targets.system import System
from disaggc.targets.tier import Tier

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Library:
    """Every declared target by name.

    Attributes:
        systems: By file stem ('vr-nvl72').
        devices: By file stem ('rubin').
        links: By file stem ('nvlink6').
        efficiencies: By file stem ('gpu').
        tiers: By file stem and table ('gtc2026/premium').
        sources: By tag ('NV-VR-PAGE').
    """

    systems: Mapping[str, System]
    devices: Mapping[str, Device]
    links: Mapping[str, Link]
    efficiencies: Mapping[str, Efficiency]
    tiers: Mapping[str, Tier]
    sources: Mapping[str, Source]

    def system(self, name: str) -> System:
        """The system of this name.

        Raises:
            UnknownTargetError: There is none; the message gives the nearest.
        """
        return _named(name, self.systems, "systems")

    def device(self, name: str) -> Device:
        """The device of this name.

        Raises:
            UnknownTargetError: There is none; the message gives the nearest.
        """
        return _named(name, self.devices, "devices")

    def link(self, name: str) -> Link:
        """The link of this name.

        Raises:
            UnknownTargetError: There is none; the message gives the nearest.
        """
        return _named(name, self.links, "links")

    def tier(self, name: str) -> Tier:
        """The tier of this name, such as 'gtc2026/premium'.

        Raises:
            UnknownTargetError: There is none; the message gives the nearest.
        """
        return _named(name, self.tiers, "tiers")


def _named(name: str, known: Mapping[str, T], folder: str) -> T:
    if name not in known:
        raise UnknownTargetError(f"No target named '{name}' in targets/{folder}.{nearest(name, known)}")
    return known[name]
