"""The ways in which a replica may lie on devices: sizes that nest, and parallelism within a size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from disaggc.cost import Group
from disaggc.targets import System

SPILLS = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5))
"""Shares of experts and of caches in a device's slower memory that are tried, where it has one."""
PIPELINED = ("sram", "wafer")
"""Kinds of devices that hold one copy of a model, as a pipeline of tensor-parallel groups."""
MOST_DEGREES = 12
WIDEST = 32
"""Devices of a tensor-parallel group at most, a few heads a device; SRAM parts go as far as their domain."""


def nested_sizes(devices: int) -> tuple[int, ...]:
    """Sizes each of which divides the next, from one device to all: 1, 2, 4, 8, 24, 72 of 72.

    Replicas of such sizes pack a system without gaps that another of them could have filled, so that
    whether a set of them fits is a few sums (``packs``). Largest prime factors go first, which leaves
    powers of two, the degrees of tensor parallelism, at the small end.
    """
    sizes, rest = [devices], devices
    while rest > 1:
        rest //= _largest_prime(rest)
        sizes.append(rest)
    return tuple(reversed(sizes))


def _largest_prime(number: int) -> int:
    largest, factor = 1, 2
    while number > 1:
        while number % factor == 0:
            largest, number = factor, number // factor
        factor += 1
    return largest


def sizes_of(system: System, count: int) -> tuple[int, ...]:
    """Devices that a replica may set aside: a nested part of one system, or so many whole ones."""
    return nested_sizes(system.devices) + tuple(system.devices * k for k in _multiples(system, count))


def _multiples(system: System, count: int) -> list[int]:
    """How many whole systems a replica may take: any number of SRAM ones, whose capacity rules."""
    if system.device.kind in PIPELINED:
        return list(range(2, count + 1))
    steps = {2**e for e in range(1, 12)} | {3 * 2**e for e in range(11)} | {count}
    return sorted(k for k in steps if 2 <= k <= count)


def packs(system: System, count: int, replicas: dict[int, int]) -> bool:
    """Whether replicas, by size, fit ``count`` systems without one lying across two of them.

    Sizes nest, so that they fit exactly if, for each size, the replicas of that size and above take no
    more than the whole slots of it that the systems have.
    """
    return all(
        sum(size * n for size, n in replicas.items() if size >= least) <= slots(system, count, least)
        for least in replicas
    )


def slots(system: System, count: int, size: int) -> int:
    """Devices of ``count`` systems that replicas of ``size`` and above can take."""
    each = size if size <= system.devices else system.devices
    return count * (system.devices // each) * each


def groups_in(system: System, size: int, layers: int) -> Iterator[Group]:
    """The parallelism of one replica on ``size`` devices.

    Parts with HBM run data-parallel replicas of tensor-parallel groups with experts spread over all, and
    spill cold experts and caches where they have a slower memory; SRAM parts hold one copy, as a
    pipeline. Tensor parallelism stays within a scale-up domain, and in one system where it can.
    """
    count = math.ceil(size / system.devices)
    widest = min(size, system.domain)
    if system.device.kind not in PIPELINED:
        widest = min(widest, WIDEST)
    degrees = [2**e for e in range(MOST_DEGREES) if 2**e <= widest]
    for tp in degrees:
        apart = tp <= system.devices < size
        copies = count * (system.devices // tp) if apart else size // tp
        if system.device.kind in PIPELINED:
            yield Group(system, count, tp, 1, min(copies, layers), size)
        else:
            yield from _spilled(Group(system, count, tp, copies, 1, size))


def _spilled(group: Group) -> Iterator[Group]:
    shares = SPILLS if group.device.slower is not None else SPILLS[:1]
    for experts, cache in shares:
        yield replace(group, spilled_experts=experts, spilled_cache=cache)


def splits(system: System, size: int) -> Iterator[tuple[int, int]]:
    """The ways to part one replica's devices between attention and feed-forward, in any ratio.

    Whole systems are parted by system; within one, feed-forward takes a power of two (its experts spread
    evenly) or leaves one to attention.
    """
    if size > system.devices:
        unit = system.devices
        yield from ((size - k * unit, k * unit) for k in range(1, size // unit))
        return
    powers = [2**e for e in range(MOST_DEGREES) if 2**e < size]
    for forward in sorted({*powers, *(size - p for p in powers)}):
        yield size - forward, forward
