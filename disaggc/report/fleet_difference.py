"""What changed from one plan of a fleet to another: tiers, replicas, money, and what it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from disaggc.plans import FleetPlan, GroupPlan, Kind, Plan, Pool, ReplicaPlan, TierPlan, kind_words
from disaggc.report.console import amount, duration, figure, table, wrapped
from disaggc.report.difference import Change, Rates, difference, growth
from disaggc.report.fleet import group_words
from disaggc.report.fleet_questions import Fleet


@dataclass(frozen=True, slots=True)
class ReplicaChange:
    """One kind of replica that comes, goes, or goes on otherwise.

    Attributes:
        replica: What it is and where.
        before, after: How many run.
        fate: 'starts', 'stops', 'stays', or 'restarts' (other settings on the same devices).
        reason: Why it restarts; '' else.
        weight_bytes: To load onto the devices of all that start or restart; None where no deployment says.
        cache_bytes: Of requests in flight on all that stop or restart, at full load, at most.
        worth: What the objective would lose if it were left as it is, where the plan was made to keep
            another; None where nobody knows.
    """

    tier: str
    replica: str
    before: int
    after: int
    fate: str
    reason: str
    weight_bytes: float | None
    cache_bytes: float
    worth: float | None


@dataclass(frozen=True, slots=True)
class SystemLoad:
    """Weights that one kind of machine takes in.

    Attributes:
        bytes: Of all replicas that start on it, known ones.
        seconds: Over the links to the outside of the systems used; None where no rate is declared.
    """

    system: str
    bytes: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class FleetDifference:
    """Everything that differs between two plans of a fleet."""

    changes: tuple[Change, ...]
    replicas: tuple[ReplicaChange, ...]
    loads: tuple[SystemLoad, ...]
    unit: str

    @property
    def is_none(self) -> bool:
        """Whether the plans agree in all that is compared."""
        return not self.changes and not any(r.fate != "stays" for r in self.replicas)


def fleet_difference(before: Fleet, after: Fleet, rates: Rates) -> FleetDifference:
    """What differs between two plans of a fleet.

    Args:
        before: What runs.
        after: What shall run.
        rates: Of the systems of ``after``.
    """
    moved = list(_moved(before, after))
    replicas = tuple(change for change, _ in moved)
    loads = _loads(after.plan, [parts for _, parts in moved], rates)
    return FleetDifference(plan_changes(before.plan, after.plan), replicas, tuple(loads), after.plan.unit)


# What changed ----------------------------------------------------------------------------------


def plan_changes(before: FleetPlan, after: FleetPlan) -> tuple[Change, ...]:
    """What two plans say differently of the job, the machines, the tiers and the money."""
    told = (*_job(before, after), *_machines(before, after), *_tiers(before, after), *_money(before, after))
    return tuple(change for change in told if change.before != change.after)


def _job(before: FleetPlan, after: FleetPlan) -> Iterator[Change]:
    b, a = before.model, after.model
    yield Change("model", f"{b.name} ({b.sha256[:12]})", f"{a.name} ({a.sha256[:12]})")
    for kind in ("weights", "kv", "activations"):
        yield Change(f"format of {kind}", getattr(before.formats, kind), getattr(after.formats, kind))
    yield Change("objective", _goal(before), _goal(after))
    if before.unit == after.unit:
        told = figure(after.value) + growth(before.value, after.value)
        yield Change(f"objective: {after.objective}, {after.unit}", figure(before.value), told)


def _goal(plan: FleetPlan) -> str:
    return f"{plan.objective}, then {plan.then}" if plan.then else plan.objective


def _machines(before: FleetPlan, after: FleetPlan) -> Iterator[Change]:
    old, new = ({s.system: f"{s.used} of {s.available}" for s in plan.systems} for plan in (before, after))
    for name in dict.fromkeys([*old, *new]):
        yield Change(f"{name} used", old.get(name, ""), new.get(name, ""))


def _tiers(before: FleetPlan, after: FleetPlan) -> Iterator[Change]:
    old, new = ({tier.name: tier for tier in plan.tiers} for plan in (before, after))
    for name in dict.fromkeys([*old, *new]):
        yield from _tier(name, old.get(name), new.get(name))


TIER_FIGURES = (
    ("asks requests/s", "requests_per_s"),
    ("gets requests/s", "served_requests_per_s"),
    ("tokens/s", "tokens_per_s"),
    ("tokens/s/user asked", "tokens_per_s_per_user"),
    ("first token asked, ms", "ttft_ms"),
    ("sells at, USD/Mtok", "price_usd_per_mtok"),
    ("earns, USD/h", "revenue_usd_per_h"),
    ("answers cost, USD/Mtok", "usd_per_mtok_out"),
    ("prompts cost, USD/Mtok", "usd_per_mtok_in"),
)


def _tier(name: str, old: TierPlan | None, new: TierPlan | None) -> Iterator[Change]:
    for what, one in TIER_FIGURES:
        b, a = (None if tier is None else getattr(tier, one) for tier in (old, new))
        yield Change(f"{name}: {what}", figure(b), figure(a) + growth(b, a))


def _money(before: FleetPlan, after: FleetPlan) -> Iterator[Change]:
    for what, one in (
        ("tokens/s", "tokens_per_s"),
        ("tokens/s/MW", "tokens_per_s_per_mw"),
        ("power, kW", "power_kw"),
        ("revenue, USD/h", "revenue_usd_per_h"),
        ("machines, USD/h", "usd_per_h"),
    ):
        b, a = getattr(before.economics, one), getattr(after.economics, one)
        yield Change(what, figure(b), figure(a) + growth(b, a))
    yield Change("revenue less machines, USD/h", figure(margin(before)), figure(margin(after)))


def margin(plan: FleetPlan) -> float | None:
    """What is left of the revenue, USD/h; None where a price is missing."""
    e = plan.economics
    return None if e.usd_per_h is None else e.revenue_usd_per_h - e.usd_per_h


# Replicas --------------------------------------------------------------------------------------

Parts = Mapping[str, float]
"""System to bytes of weights that one kind of replica loads there, all of them."""


def _moved(before: Fleet, after: Fleet) -> Iterator[tuple[ReplicaChange, Parts]]:
    """Each pair of what ran and shall run; kinds of one signature are paired in order."""
    old, new = _by_kind(before.plan), _by_kind(after.plan)
    for kind in dict.fromkeys([*old, *new]):
        left, right = old.get(kind, []), new.get(kind, [])
        for k in range(max(len(left), len(right))):
            was, shall = (side[k] if k < len(side) else None for side in (left, right))
            yield _change(before, after, was, shall)


def _by_kind(plan: FleetPlan) -> dict[Kind, list[ReplicaPlan]]:
    found: dict[Kind, list[ReplicaPlan]] = {}
    for replica in plan.replicas:
        found.setdefault(replica.kind, []).append(replica)
    return found


def _change(
    before: Fleet, after: Fleet, was: ReplicaPlan | None, shall: ReplicaPlan | None
) -> tuple[ReplicaChange, Parts]:
    """What becomes of one kind: those of it that go on, and those that start or stop beside them."""
    n, m = (0 if r is None else r.replicas for r in (was, shall))
    known = shall or was
    assert known is not None
    reason = "" if was is None or shall is None else _anew(before, after, was, shall)
    restarted = min(n, m) if reason else 0
    each = {} if shall is None else _weights(after, shall)
    loaded = max(0, m - n) + restarted
    parts = {} if each is None else {system: size * loaded for system, size in each.items()}
    total = None if each is None and loaded else sum(parts.values())
    dropped = 0.0 if was is None else _cache(before, was) * (max(0, n - m) + restarted)
    fate = "starts" if m > n else "stops" if m < n else "restarts" if reason else "stays"
    change = ReplicaChange(
        known.tier, named_replica(known), n, m, fate, reason, total, dropped, _worth(after.plan, known, n, m)
    )
    return change, parts


def named_replica(replica: ReplicaPlan) -> str:
    """What it is and where: 'decode on 8 vr-nvl72'."""
    return f"{replica.form} on {group_words(replica)}"


def _anew(before: Fleet, after: Fleet, was: ReplicaPlan, shall: ReplicaPlan) -> str:
    """Why replicas that stay where they are must load their weights again; '' if they need not."""
    if before.plan.model.sha256 != after.plan.model.sha256:
        return "the model is another"
    if before.plan.formats != after.plan.formats:
        return "formats are others"
    if was.groups != shall.groups:
        return "they are split another way"
    old, new = before.deployed.get(was.name), after.deployed.get(shall.name)
    if old is None or new is None:
        return ""
    own = {pool.name for pool in _own(new)}
    moved = [load for load in difference(old, new, {}).loads if load.pool in own]
    return moved[0].reason if moved else ""


def _own(plan: Plan) -> list[Pool]:
    """The pools of a deployment that are its replica's: not the prefill that feeds it from elsewhere."""
    decodes = {stage.pool for stage in plan.decode.stages}
    return [pool for pool in plan.pools if pool.name in decodes]


def _weights(fleet: Fleet, replica: ReplicaPlan) -> Parts | None:
    """Bytes of weights of one replica, by system; None where no deployment has them."""
    plan = fleet.deployed.get(replica.name)
    pools = _own(plan) if plan is not None else _feeding(fleet, replica.groups)
    found: dict[str, float] = {}
    for pool in pools:
        found[pool.system] = found.get(pool.system, 0.0) + pool.memory.weights * pool.devices
    return found or None


def _feeding(fleet: Fleet, groups: Sequence[GroupPlan]) -> list[Pool]:
    """The pool of a prefill replica, in the plan of any deployment that such a one feeds."""
    group = groups[0]
    key = (group.system, group.devices, group.parallelism)
    for plan in fleet.deployed.values():
        decodes = {stage.pool for stage in plan.decode.stages}
        for pool in plan.pools:
            if pool.name not in decodes and (pool.system, pool.available, pool.parallelism) == key:
                return [pool]
    return []


def _cache(fleet: Fleet, replica: ReplicaPlan) -> float:
    """Caches of one replica at full load."""
    plan = fleet.deployed.get(replica.name)
    return 0.0 if plan is None else sum(pool.memory.kv * pool.devices for pool in _own(plan))


def _worth(plan: FleetPlan, replica: ReplicaPlan, before: int, after: int) -> float | None:
    """What a plan that was made to keep another says that the change is worth."""
    told = (replica.tier, kind_words(replica.kind), before, after)
    same = (c.worth for c in plan.changes if (c.tier, c.replica, c.before, c.after) == told)
    return next(same, None)


def _loads(plan: FleetPlan, parts: Sequence[Parts], rates: Rates) -> Iterator[SystemLoad]:
    for use in plan.systems:
        size = sum(part.get(use.system, 0.0) for part in parts)
        if size:
            rate = rates.get(use.system)
            yield SystemLoad(use.system, size, size / (rate * use.used) if rate and use.used else None)


# For people and programs -----------------------------------------------------------------------


def fleet_difference_tables(found: FleetDifference) -> Iterator[RenderableType]:
    """What changed, what becomes of each replica, and what it costs."""
    if found.is_none:
        yield "The plans agree."
        return
    if found.changes:
        rows = [(c.what, c.before or "none", c.after or "none") for c in found.changes]
        yield table("What changed", ("", "before", "after"), rows, left=3)
        yield ""
    yield _replicas(found)
    yield ""
    yield Text("What it costs to move", style="bold")
    yield from (wrapped(line, "  ") for line in _costs(found))


def _replicas(found: FleetDifference) -> RenderableType:
    rows = [
        (
            r.tier,
            r.replica,
            f"{r.before} -> {r.after}" if r.before != r.after else str(r.after),
            f"{r.fate}: {r.reason}" if r.reason else r.fate,
            "" if r.worth is None else figure(r.worth),
        )
        for r in found.replicas
    ]
    worth = any(r.worth is not None for r in found.replicas)
    columns = ("tier", "replica", "of them", "", f"worth {found.unit}")
    kept = [row if worth else row[:-1] for row in rows]
    return table("What becomes of each replica", columns if worth else columns[:-1], kept, left=4)


def _costs(found: FleetDifference) -> Iterator[str]:
    for load in found.loads:
        over = (
            f", {duration(load.seconds * 1e6)} over the links of those used"
            if load.seconds is not None
            else ""
        )
        yield f"{load.system} loads {amount(load.bytes, 'B')} of weights anew{over}"
    if not found.loads:
        yield "no weights to load"
    for r in found.replicas:
        if r.weight_bytes is None:
            yield f"{r.tier}, {r.replica}: weights to load are not known (no deployment has that pool)"
    dropped = sum(r.cache_bytes for r in found.replicas)
    if dropped:
        many = sum(
            max(0, r.before - r.after) or (r.after if r.fate == "restarts" else 0) for r in found.replicas
        )
        yield (
            f"{many:,} replica{'s stop or restart' if many > 1 else ' stops or restarts'}: their requests "
            f"end first, or up to {amount(dropped, 'B')} of caches at full load are made anew"
        )
    else:
        yield "no caches are lost"


def fleet_difference_data(found: FleetDifference) -> dict[str, Any]:
    """The same for programs."""
    return dataclasses.asdict(found)
