"""The descriptors that a worker process is given, and what both sides know without being told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from disaggc.runtime.messages import Address


@dataclass(frozen=True, slots=True)
class Handles:
    """Open descriptors, by number, and the secret of the run.

    Attributes:
        secret: What the driver says first.
        control: Socket for commands.
        lifeline: Pipe that ends with the driver.
        arena: Shared memory.
        own_bell: The end at which this process waits.
        bells: The ends at which to ring for the driver and for each executor, in order.
    """

    secret: str
    control: int
    lifeline: int
    arena: int
    own_bell: int
    bells: tuple[int, ...]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return (self.control, self.lifeline, self.arena, self.own_bell, *self.bells)


def addresses_of(instances: Mapping[str, int]) -> tuple[Address, ...]:
    """Every executor, in the order of the arena."""
    return tuple(Address(pool, number) for pool in sorted(instances) for number in range(instances[pool]))
