"""Answers to what people ask of a fleet, tier by tier, in sentences with the plan's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from disaggc.errors import JobError, nearest
from disaggc.plans import FleetPlan, ModeReport, Plan, ReplicaPlan, TierPlan
from disaggc.report.console import duration, figure
from disaggc.report.fleet import group_words
from disaggc.report.prose import joined
from disaggc.report.questions import parts_of, place_of, roles_of, what_binds, why

KINDS = {
    "afd": ("AFD: ",),
    "pd": ("decode on ", "prefill on "),
    "p/d": ("decode on ", "prefill on "),
    "colocated": ("colocated on ",),
    "drafter": ("drafter ",),
}
"""What people call kinds of modes, and how a fleet's begin: prefill and decode are modes of their own."""


@dataclass(frozen=True)
class Fleet:
    """A fleet's plan with the plans of its replicas that decode, by their names."""

    plan: FleetPlan
    deployed: Mapping[str, Plan]

    def replicas(self, tier: TierPlan) -> list[ReplicaPlan]:
        """What runs for a tier."""
        return [replica for replica in self.plan.replicas if replica.tier == tier.name]


def tiers_named(plan: FleetPlan, name: str) -> list[TierPlan]:
    """The tier of a name, in full or without its table; all of them for ''.

    Raises:
        JobError: There is no such tier.
    """
    found = [t for t in plan.tiers if name in ("", t.name, t.name.rpartition("/")[2])]
    if not found:
        known = [word for t in plan.tiers for word in (t.name.rpartition("/")[2], t.name)]
        raise JobError(f"The fleet serves no tier named '{name}'.{nearest(name, known)}")
    return found


# What binds? -----------------------------------------------------------------------------------


def fleet_what_binds(fleet: Fleet, tier: TierPlan) -> list[str]:
    """Why a tier gets no more, and what each of its replicas is limited by."""
    return [_gets(fleet.plan, tier), *_running(fleet, tier)]


def _gets(plan: FleetPlan, tier: TierPlan) -> str:
    asked = "" if tier.requests_per_s is None else f" of {figure(tier.requests_per_s)}"
    earned = f", {tier.revenue_usd_per_h:,.0f} USD/h" if tier.revenue_usd_per_h else ""
    full = [s.system for s in plan.systems if s.available and s.used == s.available]
    everything = (
        f" All {joined(full)} of the fleet {'are' if len(full) > 1 else 'is'} in use."
        if full and "in use" not in tier.reason
        else ""
    )
    return (
        f"{tier.name} gets {figure(tier.served_requests_per_s)}{asked} requests/s "
        f"({tier.tokens_per_s:,.0f} tokens/s{earned}): {tier.reason}.{everything}"
    )


def _running(fleet: Fleet, tier: TierPlan) -> Iterator[str]:
    for replica in fleet.replicas(tier):
        yield _used(replica, tier)
        if replica.name in fleet.deployed:
            yield from (f"{replica.name}: {told}" for told in what_binds(fleet.deployed[replica.name]))


def _used(replica: ReplicaPlan, tier: TierPlan) -> str:
    many = "one replica" if replica.replicas == 1 else f"{replica.replicas:,} replicas, each"
    could = replica.replicas * replica.requests_per_s
    took, asked = duration(replica.ttft_us), f"{tier.ttft_ms:,.4g} ms asked"
    first = f", a first token within {took} of the {asked}, queue included" if replica.ttft_us else ""
    return (
        f"{replica.name}: {many} on {group_words(replica)}, {replica.form}; {replica.utilisation:.0%} used, "
        f"{figure(replica.planned_requests_per_s)} of the {figure(could)} requests/s that fit the tier's "
        f"times{first}."
    )


# Why is this here? -----------------------------------------------------------------------------


def fleet_why(fleet: Fleet, tier: TierPlan, part: str) -> list[str]:
    """Why a part of the model is where it is in each replica of a tier, and what it would be elsewhere.

    Raises:
        JobError: No plan of the fleet has such a part.
    """
    if not any(roles_of(plan, part) for plan in fleet.deployed.values()):
        known = dict.fromkeys(word for plan in fleet.deployed.values() for word in parts_of(plan))
        raise JobError(f"No deployment has a part named '{part}'.{nearest(part, known)}")
    told = list(_why_here(fleet, tier, part))
    return [*told, *_elsewhere(fleet, tier, part)] if told else [_unserved(tier)]


def _why_here(fleet: Fleet, tier: TierPlan, part: str) -> Iterator[str]:
    for replica in fleet.replicas(tier):
        plan = fleet.deployed.get(replica.name)
        if plan is not None and roles_of(plan, part):
            yield from (f"{replica.name}: {told}" for told in why(plan, part))


def _unserved(tier: TierPlan) -> str:
    return f"{tier.name} has no replica that decodes: {tier.reason}."


def _elsewhere(fleet: Fleet, tier: TierPlan, part: str) -> Iterator[str]:
    """The best modes that decode it on other machines, or what rules them out."""
    plans = [fleet.deployed[r.name] for r in fleet.replicas(tier) if r.name in fleet.deployed]
    for role in dict.fromkeys(role for plan in plans for role in roles_of(plan, part)):
        pools = {load.pool for plan in plans for load in plan.loads if _decodes(load.phase, load.role, role)}
        here = {pool.system for plan in plans for pool in plan.pools if pool.name in pools}
        for place in dict.fromkeys(place_of(mode.mode, role) for mode in tier.modes):
            if place and place not in here:
                yield _at(tier, place, [m for m in tier.modes if place_of(m.mode, role) == place])


def _decodes(phase: str, role: str, wanted: str) -> bool:
    return (phase, role) == ("decode", wanted)


def _at(tier: TierPlan, place: str, modes: Sequence[ModeReport]) -> str:
    best = next((mode for mode in modes if mode.feasible), None)
    if best is not None:
        return f"Decoded on {place}, the best is {best.mode} ({best.reason}){_by_power(tier, best)}."
    refused = "; ".join(f"{mode.mode}: {mode.reason}" for mode in modes)
    return f"Decoded on {place}, no pattern meets the tier ({refused})."


def _by_power(tier: TierPlan, mode: ModeReport) -> str:
    """What it gives by the power of its devices, against the best that runs."""
    running = [m.tokens_per_s_per_kw for m in tier.modes if m.chosen and m.tokens_per_s_per_kw]
    if mode.tokens_per_s_per_kw is None or not running:
        return ""
    return f", {figure(mode.tokens_per_s_per_kw)} tokens/s/kW against {figure(max(running))} of what runs"


# Why not another mode? -------------------------------------------------------------------------


def fleet_why_not(fleet: Fleet, tier: TierPlan, asked: str) -> list[str]:
    """What modes give a tier, or why they have no pattern that meets it.

    Raises:
        JobError: No mode of any tier is called so.
    """
    if not any(_modes(each, asked) for each in fleet.plan.tiers):
        known = dict.fromkeys([*KINDS, *(m.mode for each in fleet.plan.tiers for m in each.modes)])
        raise JobError(f"No mode named '{asked}' was searched.{nearest(asked, known)}")
    found = _modes(tier, asked)
    if not found:
        return [f"No such mode was searched for {tier.name}."]
    return [*(_against(tier, mode) for mode in found), *_proven(fleet.plan, found)]


def _modes(tier: TierPlan, asked: str) -> list[ModeReport]:
    """The modes of a tier that are meant: of a kind, or by a part of their names."""
    begin = KINDS.get(asked.lower())
    if begin is not None:
        return [mode for mode in tier.modes if mode.mode.startswith(begin)]
    return [mode for mode in tier.modes if asked.lower() in mode.mode.lower()]


def _against(tier: TierPlan, mode: ModeReport) -> str:
    if not mode.feasible:
        return f"{mode.mode} has no pattern that meets {tier.name}: {mode.reason}."
    if mode.chosen:
        return f"{mode.mode} runs; at its best, {mode.reason}."
    return f"{mode.mode} meets the tier: {mode.reason}{_by_power(tier, mode)}."


def _proven(plan: FleetPlan, modes: Sequence[ModeReport]) -> Iterator[str]:
    """What the certificate says of modes that would work and do not run."""
    if any(mode.feasible and not mode.chosen for mode in modes):
        gap = plan.certificate.gap
        most = f"more than {gap:.2%} better {plan.objective}" if gap >= 5e-5 else f"better {plan.objective}"
        yield (
            f"What would work and does not run is not missed: no mix with it has {most} than the one that "
            f"runs."
        )
