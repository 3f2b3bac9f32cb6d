"""The choice for a fleet that tiers share: patterns priced, the best mix proven, replicas cut exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from disaggc.errors import InfeasiblePlanError
from disaggc.placement.fleet.choose import Choice, Objective, choose, objective_of
from disaggc.placement.fleet.columns import Book, Column, undominated
from disaggc.placement.fleet.conflict import cures, slower, smallest_conflict
from disaggc.placement.fleet.demand import Wanted
from disaggc.placement.fleet.deploy import Deployment, deployment
from disaggc.placement.fleet.economics import Payback, paybacks
from disaggc.placement.fleet.master import Market
from disaggc.placement.fleet.reasons import reason_of
from disaggc.placement.fleet.space import Space
from disaggc.placement.fleet.timetable import Timetable
from disaggc.placement.search import SIMPLICITY
from disaggc.plans import FleetPlan, Kind

KEEP_WITHIN = 0.02
"""Share of the objective that a plan may give up to stay near a present one."""


@dataclass(frozen=True, slots=True)
class Moved:
    """One kind of replica of which a plan runs more or fewer than the present one.

    Attributes:
        worth: What the objective would lose if it were left as it is; None if nothing would then work.
    """

    signature: Kind
    before: int
    after: int
    worth: float | None


@dataclass(frozen=True)
class FleetDecision:
    """What was chosen, and everything that a plan says of it.

    Attributes:
        market: Columns that were chosen among.
        book: What became of every mode.
        deployments: Chosen kinds of replicas that decode, by column.
        table: Times, to price details of the chosen ones.
        paybacks: What each system adds to each tier.
        kept: Whether it was to stay near a present plan; ``moved`` is what it changes.
    """

    wanted: Wanted
    market: Market
    book: Book
    objective: Objective
    choice: Choice
    deployments: Mapping[int, Deployment]
    table: Timetable
    paybacks: tuple[Payback, ...]
    kept: bool = False
    moved: tuple[Moved, ...] = ()

    @property
    def running(self) -> list[tuple[int, Column, int]]:
        """Index, column and replicas of what runs."""
        chosen = zip(self.market.columns, self.choice.mix.replicas, strict=True)
        return [(k, column, n) for k, (column, n) in enumerate(chosen) if n]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the best mix is best at, and near what it should stay.

    Attributes:
        objective, then: Names as in a job; '' for no second one.
        present: Replicas of a present plan, by signature; None for none.
    """

    objective: str
    then: str = ""
    present: Mapping[Kind, int] | None = None


def decide_fleet(wanted: Wanted, wish: Wish, tell: Callable[[str], None] = lambda _: None) -> FleetDecision:
    """The best mix of patterns for all tiers together.

    Raises:
        InfeasiblePlanError: What must be served cannot be, or nothing can; says what is in conflict, why
            each tier's modes fail, and which single changes would help.
        TargetError: The objective needs a price that nobody gives.
    """
    objective = objective_of(wish.objective, wanted.tiers, wanted.fleet)
    then = objective_of(wish.then, wanted.tiers, wanted.fleet, second=True) if wish.then else None
    space = Space(wanted, tell)
    book = space.priced()
    columns = tuple(undominated(book.columns.values()))
    columns += _kept_columns(wanted, book, columns, wish.present or {})
    market = Market(columns, wanted.tiers, wanted.fleet, wanted.budget)
    tell(f"choosing among {len(columns):,} columns")
    present = _by_column(wanted, columns, wish.present)
    tolerance = SIMPLICITY if present is None else KEEP_WITHIN
    choice = choose(market, objective, then, present, tolerance)
    if choice is None or not any(choice.audit.served):
        raise InfeasiblePlanError(_infeasible(wanted, market, book, tell))
    deployments = _deployed(wanted, market, choice, book, tell)
    moved = () if present is None else _moved(wanted, market, objective, then, choice, present)
    gone = _gone(wanted, columns, wish.present or {})
    return FleetDecision(
        wanted,
        market,
        book,
        objective,
        choice,
        deployments,
        space.table,
        tuple(paybacks(market)),
        present is not None,
        (*moved, *gone),
    )


def signature(wanted: Wanted, column: Column) -> Kind:
    """What tells a column's replicas from others across plans."""
    return wanted.tiers[column.tier].name, column.form, column.home, column.uses


def signatures(plan: FleetPlan) -> dict[Kind, int]:
    """How many of each kind of replica a plan runs."""
    found: dict[Kind, int] = {}
    for replica in plan.replicas:
        found[replica.kind] = found.get(replica.kind, 0) + replica.replicas
    return found


def _kept_columns(
    wanted: Wanted, book: Book, columns: Sequence[Column], present: Mapping[Kind, int]
) -> tuple[Column, ...]:
    """Columns of a present plan that a better one would have replaced, at today's prices."""
    known = {signature(wanted, c) for c in columns}
    return tuple(
        c
        for c in book.columns.values()
        if signature(wanted, c) in present and signature(wanted, c) not in known
    )


def _by_column(
    wanted: Wanted, columns: Sequence[Column], present: Mapping[Kind, int] | None
) -> dict[int, int] | None:
    if present is None:
        return None
    signatures = (signature(wanted, c) for c in columns)
    return {k: present[s] for k, s in enumerate(signatures) if s in present}


def _moved(
    wanted: Wanted,
    market: Market,
    objective: Objective,
    then: Objective | None,
    choice: Choice,
    present: Mapping[int, int],
) -> tuple[Moved, ...]:
    """Each change, and what it would cost not to make it."""
    found = []
    for k, (column, after) in enumerate(zip(market.columns, choice.mix.replicas, strict=True)):
        before = present.get(k, 0)
        if before != after:
            without = choose(replace(market, fixed={k: before}), objective, then)
            worth = None if without is None else objective.sign * (choice.value - without.value)
            found.append(Moved(signature(wanted, column), before, after, worth))
    return tuple(found)


def _gone(wanted: Wanted, columns: Sequence[Column], present: Mapping[Kind, int]) -> tuple[Moved, ...]:
    """Replicas of a present plan that serve no tier any more."""
    known = {signature(wanted, c) for c in columns}
    return tuple(Moved(s, n, 0, None) for s, n in present.items() if s not in known)


def _deployed(
    wanted: Wanted, market: Market, choice: Choice, book: Book, tell: Callable[[str], None]
) -> dict[int, Deployment]:
    found = {}
    for k, (column, n) in enumerate(zip(market.columns, choice.mix.replicas, strict=True)):
        if n and column.form != "prefill":
            tell(f"cutting {wanted.tiers[column.tier].name}: {column.mode}")
            feeder = _feeder(market, choice, column) if column.form == "decode" else None
            found[k] = deployment(wanted, column, feeder, book.considered)
    return found


def _feeder(market: Market, choice: Choice, column: Column) -> Column | None:
    """The prefill that most of a column's prompts come from; None for a replica that is kept idle."""
    feeding = [
        (n * c.requests_per_s, c)
        for c, n in zip(market.columns, choice.mix.replicas, strict=True)
        if n and (c.form, c.tier, c.home) == ("prefill", column.tier, column.home)
    ]
    return max(feeding, key=lambda pair: pair[0])[1] if feeding else None


def _infeasible(wanted: Wanted, market: Market, book: Book, tell: Callable[[str], None]) -> str:
    """What is in conflict, why, and what would help."""
    fleet = ", ".join(f"{n} x {s.name}" for s, n in wanted.fleet)
    conflict = smallest_conflict(market)
    lines = [f"No plan on {fleet} serves what must be served."]
    if conflict:
        lines.append("These contradict each other, and no fewer of them do:")
        lines += [f"  {fact.text}" for fact in conflict]
    for tier in _unservable(market):
        lines.append(f"No pattern serves {wanted.tiers[tier].name}:")
        lines += [f"  {text}" for text in _told(wanted, book, tier)]
    found = cures(wanted, market, conflict, tell)
    for tier in _unservable(market):
        found += slower(wanted, book, tier, tell)
    lines.append(
        "Any one of these would make a plan possible:" if found else "No single change of these helps."
    )
    return "\n".join([*lines, *(f"  {cure}" for cure in found)])


def _unservable(market: Market) -> list[int]:
    """Tiers of which no mix serves anything."""
    found = []
    for tier in range(len(market.tiers)):
        mine = [c for c in market.columns if c.tier == tier]
        fed = {c.home for c in mine if c.form == "prefill"} & {c.home for c in mine if c.form == "decode"}
        if not fed and not any(c.form == "whole" for c in mine):
            found.append(tier)
    return found


def _told(wanted: Wanted, book: Book, tier: int) -> list[str]:
    tallies = [(mode, tally) for (of, mode), tally in book.tallies.items() if of == tier]
    return [f"{mode}: {reason_of(tally, wanted.tiers[tier])}" for mode, tally in tallies]
