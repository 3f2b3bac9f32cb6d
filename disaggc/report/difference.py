"""What changed from one plan to another, and what it costs to get there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from disaggc.plans import Plan, Pool, RoleLoad
from disaggc.report.console import amount, duration, figure, table

Rates = Mapping[str, float]
"""System to the bytes per second that one of them takes in from outside, where declared."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is not as it was; '' for what was or is not there."""

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Load:
    """Weights that a pool has to load anew.

    Attributes:
        bytes: On all its devices together.
        roles: Whose weights.
        reason: Why.
        seconds: Over its links to the outside with nothing else on them; None where no rate is declared.
    """

    pool: str
    bytes: float
    roles: tuple[str, ...]
    reason: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Caches:
    """What becomes of the caches of requests in flight.

    Attributes:
        fate: 'stay', 'move', 'reshard' or 'drop'.
        bytes: At full load, at most.
        reason: Why.
        seconds: To move them; None where they do not, or no rate is declared.
    """

    pool: str
    fate: str
    bytes: float
    reason: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Everything that differs, and what it takes."""

    changes: tuple[Change, ...]
    loads: tuple[Load, ...]
    caches: tuple[Caches, ...]

    @property
    def is_none(self) -> bool:
        """Whether the plans agree in all that is compared."""
        return not self.changes


def difference(before: Plan, after: Plan, rates: Rates) -> Difference:
    """What differs between two plans.

    Args:
        before: What runs.
        after: What shall run.
        rates: Of the systems of ``after``.
    """
    changes = tuple(
        change
        for change in (
            *_job(before, after),
            *_pools(before, after),
            *_roles(before, after),
            *_predictions(before, after),
        )
        if change.before != change.after
    )
    return Difference(changes, tuple(_loads(before, after, rates)), tuple(_caches(before, after, rates)))


# What changed ----------------------------------------------------------------------------------


def _job(before: Plan, after: Plan) -> Iterator[Change]:
    b, a = before.model, after.model
    yield Change("model", f"{b.name} ({b.sha256[:12]})", f"{a.name} ({a.sha256[:12]})")
    yield Change("tier", before.goal.tier, after.goal.tier)
    for what, one in (("tokens/s/user asked", "tokens_per_s_per_user"), ("first token asked, ms", "ttft_ms")):
        yield Change(what, f"{getattr(before.goal, one):,g}", f"{getattr(after.goal, one):,g}")
    yield Change("objective", before.goal.objective, after.goal.objective)
    for kind in ("weights", "kv", "activations"):
        yield Change(f"format of {kind}", getattr(before.formats, kind), getattr(after.formats, kind))
    yield Change("mode", before.mode, after.mode)
    for what, one in (
        ("micro-batch", "micro_batch"),
        ("micro-batches", "micro_batches"),
        ("context tokens", "context_tokens"),
        ("input tokens", "input_tokens"),
        ("output tokens", "output_tokens"),
    ):
        yield Change(what, f"{getattr(before.schedule, one):,}", f"{getattr(after.schedule, one):,}")


def _pools(before: Plan, after: Plan) -> Iterator[Change]:
    old, new = ({pool.name: pool for pool in plan.pools} for plan in (before, after))
    for name in dict.fromkeys([*old, *new]):
        yield Change(f"pool {name}", _told(old.get(name)), _told(new.get(name)))
        yield Change(f"memory of {name}, full", _full(old.get(name)), _full(new.get(name)))


def _told(pool: Pool | None) -> str:
    if pool is None:
        return ""
    p = pool.parallelism
    return f"{pool.count} x {pool.system}, {pool.devices:,} devices, tp {p.tp} dp {p.dp} pp {p.pp} ep {p.ep}"


def _full(pool: Pool | None) -> str:
    return "" if pool is None else f"{pool.memory.used / pool.memory.capacity:.0%}"


def _roles(before: Plan, after: Plan) -> Iterator[Change]:
    old, new = _places(before), _places(after)
    for key in dict.fromkeys([*old, *new]):
        yield Change(f"{key[1]} in {key[0]}", old.get(key, ""), new.get(key, ""))


def _places(plan: Plan) -> dict[tuple[str, str], str]:
    """Phase and role to the pools that have it."""
    found: dict[tuple[str, str], list[str]] = {}
    for load in plan.loads:
        found.setdefault((load.phase, load.role), []).append(load.pool)
    return {key: " and ".join(sorted(pools)) for key, pools in found.items()}


def _predictions(before: Plan, after: Plan) -> Iterator[Change]:
    b, a = before.prediction, after.prediction
    for what, one, other in (
        ("tokens/s", b.tokens_per_s.conservative, a.tokens_per_s.conservative),
        ("tokens/s/user", b.tokens_per_s_per_user.conservative, a.tokens_per_s_per_user.conservative),
        ("first token, ms", b.ttft_us.conservative / 1e3, a.ttft_us.conservative / 1e3),
        ("tokens/s/MW", b.tokens_per_s_per_mw, a.tokens_per_s_per_mw),
        ("revenue, USD/h", b.revenue_usd_per_h, a.revenue_usd_per_h),
    ):
        yield Change(what, figure(one), figure(other) + growth(one, other))
    yield Change("bottleneck", b.bottleneck, a.bottleneck)


def growth(before: float | None, after: float | None) -> str:
    """' (+4.2%)', or ' (12 x)' where per cents say little; '' where nothing changed."""
    if not before or not after or figure(before) == figure(after):
        return ""
    ratio = after / before
    return f" ({ratio - 1:+.1%})" if 0.1 < ratio < 10 else f" ({ratio:.3g} x)"


# What it costs ---------------------------------------------------------------------------------


def _loads(before: Plan, after: Plan, rates: Rates) -> Iterator[Load]:
    for pool in after.pools:
        old = _matching(before, pool)
        reason = _everything_anew(before, after, old, pool)
        mine = _weights(after, pool.name)
        there = {} if reason or old is None else _weights(before, old.name)
        anew = {role: size for role, size in mine.items() if role not in there and size}
        if anew:
            size = min(sum(anew.values()), pool.memory.weights) * pool.devices
            told = reason or "these roles were not there"
            yield Load(pool.name, size, tuple(anew), told, _seconds(size, pool, rates))


def _matching(before: Plan, pool: Pool) -> Pool | None:
    """The pool that stood where this one shall stand: of its name and system, or alone of its system."""
    same = [old for old in before.pools if old.system == pool.system]
    return next((old for old in same if old.name == pool.name), same[0] if len(same) == 1 else None)


def _everything_anew(before: Plan, after: Plan, old: Pool | None, new: Pool) -> str:
    """Why nothing that lies in a pool can stay; '' if it can."""
    if old is None:
        return "the pool is new"
    if before.model.sha256 != after.model.sha256:
        return "the model is another"
    if before.formats.weights != after.formats.weights:
        return f"weights are {after.formats.weights} instead of {before.formats.weights}"
    if (old.parallelism, old.devices) != (new.parallelism, new.devices):
        return "they are split another way"
    return ""


def _weights(plan: Plan, pool: str) -> dict[str, float]:
    """Role to bytes on one device; both phases share them."""
    found: dict[str, float] = {}
    for load in plan.loads:
        if load.pool == pool:
            found[load.role] = max(found.get(load.role, 0.0), load.weight_bytes)
    return found


def _seconds(size: float, pool: Pool, rates: Rates) -> float | None:
    rate = rates.get(pool.system)
    return None if not rate else size / (rate * pool.count)


def _caches(before: Plan, after: Plan, rates: Rates) -> Iterator[Caches]:
    """One row for each pool that holds caches now."""
    for pool in before.pools:
        held = [load for load in before.loads if load.pool == pool.name and load.cache_bytes]
        if held:
            size = sum(load.cache_bytes for load in held) * pool.devices
            fate, reason, target = _fate(before, after, pool, held)
            moves = target is not None and fate in ("move", "reshard")
            seconds = _seconds(size, target, rates) if moves and target is not None else None
            yield Caches(pool.name, fate, size, reason, seconds)


def _fate(before: Plan, after: Plan, pool: Pool, held: Sequence[RoleLoad]) -> tuple[str, str, Pool | None]:
    if before.model.sha256 != after.model.sha256:
        return "drop", "the model is another", None
    if before.formats.kv != after.formats.kv:
        return "drop", f"caches are {after.formats.kv} instead of {before.formats.kv}", None
    roles = {load.role for load in held}
    names = {load.pool for load in after.loads if load.role in roles and load.cache_bytes}
    target = next((p for p in after.pools if p.name in names), None)
    if target is None:
        return "drop", "the new plan keeps no such cache", None
    if target.system != pool.system or target.name != pool.name:
        return "move", f"they shall be on {target.name}", target
    if (target.parallelism, target.devices) != (pool.parallelism, pool.devices):
        return "reshard", "they are split another way", target
    return "stay", "nothing about them changes", target


# For people and programs -----------------------------------------------------------------------


def difference_tables(found: Difference) -> Iterator[RenderableType]:
    """What changed, and what it costs."""
    if found.is_none:
        yield "The plans agree."
    else:
        rows = [(c.what, c.before or "none", c.after or "none") for c in found.changes]
        yield table("What changed", ("", "before", "after"), rows, left=3)
    yield ""
    yield Text("What it costs to move", style="bold")
    for load in found.loads:
        over = f", {duration(load.seconds * 1e6)} over its links" if load.seconds is not None else ""
        yield Text(
            f"  {load.pool} loads {amount(load.bytes, 'B')} of weights anew{over}: {', '.join(load.roles)} "
            f"({load.reason})"
        )
    if not found.loads:
        yield "  no weights to load"
    yield from (Text(f"  {_cache_line(cache)}") for cache in found.caches)


def _cache_line(cache: Caches) -> str:
    size = amount(cache.bytes, "B")
    over = f", {duration(cache.seconds * 1e6)} over its links" if cache.seconds is not None else ""
    told = {
        "stay": f"caches of {cache.pool} stay",
        "drop": f"caches of {cache.pool}, up to {size} at full load, are dropped and made anew",
        "move": f"caches of {cache.pool}, up to {size} at full load, move{over}, or are made anew",
        "reshard": f"caches of {cache.pool}, up to {size} at full load, are split anew{over}, or made anew",
    }[cache.fate]
    return f"{told} ({cache.reason})"


def difference_data(found: Difference) -> dict[str, Any]:
    """The same for programs."""
    return dataclasses.asdict(found)
