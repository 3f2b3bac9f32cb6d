"""What runs on a device of each pool, against what it can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from disaggc.plans import Plan, Pool
from disaggc.report.html.tables import Machine
from disaggc.report.html.views import OpClass, RolePoint, Roof, Roofline


def rooflines(
    plan: Plan, machines: Mapping[str, Machine], ops: Mapping[str, Sequence[OpClass]]
) -> tuple[Roofline, ...]:
    """One for each pool whose machine's figures are in the plan folder."""
    found = []
    for pool in plan.pools:
        machine = machines.get(pool.system)
        if machine is not None:
            found.append(_roofline(plan, pool, machine, tuple(ops.get(pool.name, ()))))
    return tuple(view for view in found if view.points)


def _roofline(plan: Plan, pool: Pool, machine: Machine, ops: tuple[OpClass, ...]) -> Roofline:
    loads = [load for load in plan.loads if load.pool == pool.name]
    formats = dict.fromkeys(load.arithmetic for load in loads)
    roofs = [Roof(name, machine.figures[f"rate.{name}"].si) for name in formats]
    points = [
        RolePoint(
            load.role,
            load.phase,
            load.flops / load.bytes,
            load.flops / (load.time_us / 1e6),
            load.bottleneck,
            load.time_us,
        )
        for load in loads
        if load.flops > 0 and load.bytes > 0 and load.time_us > 0
    ]
    return Roofline(
        pool.name,
        machine.device,
        pool.memory.memory,
        machine.figures[f"device.memories.{pool.memory.memory}.bandwidth"].si,
        tuple(roofs),
        tuple(points),
        ops,
    )
