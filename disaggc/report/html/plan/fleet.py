"""Pools as cards, and what crosses between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from disaggc.plans import Plan, Pool
from disaggc.report.console import amount, duration
from disaggc.report.html.tables import Machine
from disaggc.report.html.views import FleetPicture, MemoryPart, PoolCard
from disaggc.report.prose import joined, role_name


def fleet_view(plan: Plan, machines: Mapping[str, Machine]) -> FleetPicture:
    """Pools as cards, what crosses between them, and systems of the fleet that are not used."""
    used = {pool.system for pool in plan.pools}
    unused = [f"{m.count} x {m.title or m.name} ({name})" for name, m in machines.items() if name not in used]
    return FleetPicture(
        tuple(_card(pool, machines.get(pool.system)) for pool in plan.pools),
        tuple(_crossings(plan)),
        tuple(unused),
    )


def _card(pool: Pool, machine: Machine | None) -> PoolCard:
    p, m = pool.parallelism, pool.memory
    layout = f"tensor {p.tp} x data {p.dp} x pipeline {p.pp}" + (f", experts over {p.ep}" if p.ep > 1 else "")
    parts = (("weights", m.weights), ("cache", m.kv), ("activations", m.activations), ("reserve", m.reserve))
    duties = [duty.partition(": ") for duty in pool.roles]
    return PoolCard(
        name=pool.name,
        title=machine.title if machine is not None else pool.system,
        device=pool.device,
        devices=pool.devices,
        available=pool.available,
        layout=layout,
        duties=tuple((phase, _duty(what)) for phase, _, what in duties),
        memory=m.memory,
        capacity=m.capacity,
        parts=tuple(MemoryPart(kind, size) for kind, size in parts),
        busy=pool.utilisation,
        confidence=pool.weakest,
    )


def _duty(what: str) -> str:
    if what == "everything":
        return what
    but = "everything but " if what.startswith("everything but ") else ""
    return but + joined([role_name(name) for name in what.removeprefix("everything but ").split(", ")])


def _crossings(plan: Plan) -> Iterator[str]:
    """One line for each phase and direction that something crosses."""
    for phase, found in (("decode", plan.decode), ("prefill", plan.prefill)):
        pairs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for t in found.transfers:
            pairs[t.source, t.target].append((t.bytes_per_token, t.time_us))
        for (source, target), sent in pairs.items():
            moved, took = sum(size for size, _ in sent), sum(time for _, time in sent)
            yield (
                f"{phase}: {source} to {target}, {len(sent)} message{'s' if len(sent) > 1 else ''} "
                f"of {amount(moved, 'B')} a token together, {duration(took)}"
            )
