"""A link between devices of a system, or between systems."""

from __future__ import annotations

from dataclasses import dataclass

from disaggc.errors import DeclarationError
from disaggc.targets.checks import check_base
from disaggc.targets.figure import Figure


@dataclass(frozen=True, slots=True)
class Link:
    """Latency and bandwidth of one port; whose port it is, the system says.

    Attributes:
        name: The file's stem.
        title: What it is, for people.
        latency: One way, for the first byte, s.
        bandwidth_one_way: Bytes per second in one direction.
        bandwidth_both_ways: Both directions added, where the vendor states that; never used in
            place of the one-way rate.
        occupancy: Time that a message keeps each of its two ends from working (LogP's o); None where
            engines of their own copy.
    """

    name: str
    title: str
    latency: Figure
    bandwidth_one_way: Figure
    bandwidth_both_ways: Figure | None = None
    occupancy: Figure | None = None

    def __post_init__(self) -> None:
        check_base("latency", self.latency, "s")
        check_base("bandwidth_one_way", self.bandwidth_one_way, "B/s")
        check_base("bandwidth_both_ways", self.bandwidth_both_ways, "B/s")
        check_base("occupancy", self.occupancy, "s")
        both = self.bandwidth_both_ways
        if both is not None and both.si < self.bandwidth_one_way.si:
            raise DeclarationError("'bandwidth_both_ways' is less than 'bandwidth_one_way'.")
