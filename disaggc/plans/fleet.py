"""The plan of a fleet that several tiers share: which replicas run on which machines, and what they earn.

A fleet's folder holds ``plan.json`` (this model, field for field; ``plans/fleet.schema.json`` is its schema)
one ordinary plan folder for each kind of replica that decodes, under ``deployments/``, and ``job.json``, the
job with nothing left open, which ``disaggc explain --one-more`` compiles again. Rates are requests
or output tokens per second; a replica *sets aside* devices whether it keeps them busy or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from disaggc.plans.model import Certificate, Formats, ModelRef, Parallelism

FLEET_FORMAT = "disaggc.fleet"


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Devices of one replica that do one part of the work.

    Attributes:
        part: 'everything', 'prefill', 'decode', 'attention', 'ffn', 'verifier' or 'drafter'.
        system: Declared system that they are in.
        devices: How many are set aside.
        spilled_experts, spilled_cache: Share of the experts' weights and of the caches that lie in the
            devices' slower memory.
    """

    part: str
    system: str
    devices: int
    parallelism: Parallelism
    spilled_experts: float = 0.0
    spilled_cache: float = 0.0


Kind = tuple[str, str, str, tuple[tuple[str, int], ...]]
"""Tier, form, home and devices set aside: what tells one kind of replica from another across plans."""


def kind_words(kind: Kind) -> str:
    """A kind as ``Change.replica`` has it: 'decode on 8 of vr-nvl72'."""
    _, form, home, uses = kind
    where = " + ".join(f"{n} of {name}" for name, n in uses)
    return f"{form} for {home} on {where}" if form == "prefill" else f"{form} on {where}"


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """One kind of replica, and how many of it run.

    Attributes:
        name: Name in this plan ('premium-1').
        tier: Whom it serves.
        form: 'whole' (prefill and decode), 'decode' or 'prefill'.
        home: The system that holds the caches of running requests: its own, or where prefill sends them.
        replicas: How many run.
        micro_batch, micro_batches: Requests of a micro-batch of one replica, and how many are in flight.
        requests_per_s: What one replica serves at most within the tier's times.
        planned_requests_per_s: What all its replicas serve together in this plan.
        utilisation: The share of what they could serve.
        step_us: Time of one decode step with all requests in flight; 0 for prefill.
        ttft_us: Time to the first token at full rate, queueing and hand-over included; 0 for decode.
        plan: Its plan folder, relative to this one; '' for prefill alone, which is in those of its decode.
    """

    name: str
    tier: str
    form: str
    mode: str
    home: str
    replicas: int
    groups: tuple[GroupPlan, ...]
    requests_per_s: float
    planned_requests_per_s: float
    utilisation: float
    micro_batch: int = 0
    micro_batches: int = 0
    step_us: float = 0.0
    ttft_us: float = 0.0
    plan: str = ""

    @property
    def kind(self) -> Kind:
        """What it is, across plans."""
        uses: dict[str, int] = {}
        for group in self.groups:
            uses[group.system] = uses.get(group.system, 0) + group.devices
        return self.tier, self.form, self.home, tuple(sorted(uses.items()))


@dataclass(frozen=True, slots=True)
class ModeReport:
    """What one mode could do for a tier.

    Attributes:
        feasible: Whether any pattern of it meets the tier.
        chosen: Whether the plan runs any.
        considered: Patterns priced: shapes, cuts, batches and micro-batches.
        tokens_per_s_per_kw: Of its best pattern, by the power of the devices that it sets aside.
        reason: What rules it out, with the margin; or its best pattern.
    """

    mode: str
    feasible: bool
    chosen: bool
    considered: int
    reason: str
    tokens_per_s_per_kw: float | None = None


@dataclass(frozen=True, slots=True)
class TierPlan:
    """What a tier asked for and gets.

    Attributes:
        requests_per_s: Demand; None where the tier takes whatever is made.
        least_share: Share of the demand that had to be served.
        served_requests_per_s, tokens_per_s: What it gets; output tokens.
        in_flight: Requests under way at that rate (Little's law).
        usd_per_mtok_in: What a million prompt tokens cost that are computed anew: the price an hour of the
            devices that prefill for the tier, by what they compute.
        usd_per_mtok_out: The same of output tokens and decode.
        reason: Why it gets no more.
        modes: Every mode, the best first.
    """

    name: str
    context_tokens: int
    tokens_per_s_per_user: float
    ttft_ms: float
    price_usd_per_mtok: float
    requests_per_s: float | None
    least_share: float
    served_requests_per_s: float
    tokens_per_s: float
    in_flight: float
    revenue_usd_per_h: float
    usd_per_mtok_in: float | None
    usd_per_mtok_out: float | None
    reason: str
    modes: tuple[ModeReport, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemUse:
    """One kind of machine.

    Attributes:
        available, used: Systems in the fleet, and those that any replica lies on.
        devices, set_aside: Devices of the used systems, and those that replicas set aside.
        power_kw, usd_per_h: Of the used systems.
        roles: What it does: 'premium: attention'.
        weakest: Confidence of the weakest number that its prices rest on.
    """

    system: str
    available: int
    used: int
    devices: int
    set_aside: int
    power_kw: float
    usd_per_h: float | None
    roles: tuple[str, ...]
    weakest: str


@dataclass(frozen=True, slots=True)
class Economics:
    """What the fleet earns and takes.

    Attributes:
        usd_per_h: To own and run the used systems; None where a price is missing.
        hbm_freed_bytes: Memory for caches on the devices that hold them, beyond what the best colocated
            pattern of the same tier has on as many of them: weights that moved elsewhere; negative where
            there is less.
    """

    tokens_per_s: float
    revenue_usd_per_h: float
    usd_per_h: float | None
    power_kw: float
    tokens_per_s_per_mw: float
    hbm_freed_bytes: float


@dataclass(frozen=True, slots=True)
class BreakEven:
    """From which price of output tokens a system pays for itself in a tier.

    Attributes:
        count: How many of it.
        usd_per_mtok: Its price an hour over the output tokens that it adds an hour when the whole fleet
            serves this tier; None if it adds none.
        added_tokens_per_s: With all of it against none.
    """

    system: str
    count: int
    tier: str
    added_tokens_per_s: float
    usd_per_mtok: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """One difference from the plan that was to be kept.

    Attributes:
        replica: Which, as ``kind_words`` has it.
        before, after: Replicas.
        worth: What the objective would lose if this were left as it was; None if nothing would then work.
    """

    tier: str
    replica: str
    before: int
    after: int
    worth: float | None


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """Everything that was decided for a fleet.

    Attributes:
        objective, unit, value: What it is best at.
        then: The second objective; '' for none.
        kept: Whether it was chosen to stay near a present plan.
    """

    format: str
    version: int
    compiler: str
    model: ModelRef
    formats: Formats
    objective: str
    unit: str
    value: float
    systems: tuple[SystemUse, ...]
    tiers: tuple[TierPlan, ...]
    replicas: tuple[ReplicaPlan, ...]
    economics: Economics
    certificate: Certificate
    weakest: str
    then: str = ""
    break_even: tuple[BreakEven, ...] = ()
    kept: bool = False
    changes: tuple[Change, ...] = ()
    inferred: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
