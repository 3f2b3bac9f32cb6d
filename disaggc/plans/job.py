"""A job: the model, the fleet and the tier that a user wants served. Read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from disaggc.errors import JobError, nearest
from disaggc.records import structure

Fleet = dict[str, int]
"""System name to how many of it there are, an upper bound."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """[model]: the ONNX file and the formats that it is served in.

    Attributes:
        onnx: Path, relative to the job file.
        weights: Serving format of weights: 'fp8', 'nvfp4', 'bf16', ... or 'as stored'.
        kv: Serving format of caches.
        activations: Serving format of activations, which is also what crosses links.
        draft: Path of a smaller ONNX model that drafts tokens for this one to verify, to be placed, too, for
            tiers that give draft_tokens; relative to the job file.
    """

    onnx: str
    weights: str = "as stored"
    kv: str = "as stored"
    activations: str = "as stored"
    draft: str = ""


@dataclass(frozen=True, slots=True)
class TierSpec:
    """[[tier]]: what a token sells for and how fast it must come.

    A field that is left out comes from the declared tier that ``like`` names.

    Attributes:
        like: A declared tier, 'gtc2026/premium'.
        name: As reported; default: ``like``.
        context_tokens: Tokens that a request may reach; memory is reserved for them.
        ttft_ms: Time to first token.
        tokens_per_s_per_user: Speed of one answer.
        price_usd_per_mtok: Price of a million output tokens.
        input_tokens: Length of a prompt; default: what the context leaves beside the answer.
        output_tokens: Length of an answer.
        prefix_hit: Share of a prompt that a prefix cache supplies, 0 to 1.
        trace: A CSV file of requests, relative to the job file, whose mean lengths are taken: columns
            input_tokens and output_tokens.
        turns: Requests of a session (an agent's), each behind the cache of those before it.
        draft_tokens: Tokens that a draft puts before the model in each step (speculative decoding);
            drafting them is priced where [model] names a draft.
        tokens_per_step: Tokens that an answer grows by in a step, 1 to draft_tokens + 1.
        requests_per_s: How many requests arrive; without a demand a tier takes whatever the fleet makes.
        demand_tokens_per_s: The same in output tokens.
        concurrency: The same in requests under way at the tier's slowest (Little's law).
        least_share: Share of the demand that must be served, 0 to 1; the rest is served where it pays.
    """

    like: str = ""
    name: str = ""
    context_tokens: int | None = None
    ttft_ms: float | None = None
    tokens_per_s_per_user: float | None = None
    price_usd_per_mtok: float | None = None
    input_tokens: int | None = None
    output_tokens: int = 1000
    prefix_hit: float = 0.0
    trace: str = ""
    turns: int = 1
    draft_tokens: int = 0
    tokens_per_step: float = 1.0
    requests_per_s: float | None = None
    demand_tokens_per_s: float | None = None
    concurrency: float | None = None
    least_share: float = 1.0

    @property
    def has_demand(self) -> bool:
        """Whether it says how much is asked for."""
        return any(getattr(self, name) is not None for name in DEMANDS)


DEMANDS = ("requests_per_s", "demand_tokens_per_s", "concurrency")
"""The three ways to say how much is asked for."""


@dataclass(frozen=True, slots=True)
class Objective:
    """[objective]: what the best plan is best at.

    Attributes:
        maximise: 'throughput' (tokens per second of the whole fleet, the default), 'revenue' (dollars an
            hour that its output tokens sell for), 'profit' (revenue less what the systems that are used cost)
            or 'tokens_per_mw' (of the systems that are used).
        minimise: 'cost', dollars of the systems that are used: an hour, or per million tokens where demand
            is open; instead of ``maximise``.
        then: A second objective among the plans that are best at the first.
    """

    maximise: str = ""
    minimise: str = ""
    then: str = ""

    @property
    def name(self) -> str:
        """The one objective."""
        return self.minimise or self.maximise or "throughput"


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """[search]: narrows the grid that is searched; empty means everything.

    Attributes:
        batch: Requests in one micro-batch.
        micro_batches: Micro-batches in flight.
        mode: 'afd', 'pd', 'colocated' or a part of a mode's name; plans of other modes are left out.
        some_layers: Whether the feed-forward of only some of the layers that are alike may be parted from
            attention: as many as keep both sides busy, or as fit. Takes longer, and few serving stacks can
            express such plans; the executors here run them.
    """

    batch: tuple[int, ...] = ()
    micro_batches: tuple[int, ...] = ()
    mode: str = ""
    some_layers: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """[budget]: what the systems that are used may take, beside how many there are.

    Attributes:
        power_kw: Their power.
        usd_per_h: What they cost to own and run.
    """

    power_kw: float | None = None
    usd_per_h: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a compile is asked for."""

    model: ModelSpec
    fleet: Fleet
    tier: tuple[TierSpec, ...]
    objective: Objective = field(default_factory=Objective)
    search: SearchSpec = field(default_factory=SearchSpec)
    budget: Budget = field(default_factory=Budget)

    @property
    def shares_fleet(self) -> bool:
        """Whether replicas share the fleet: several tiers, a demand, a budget, or an objective over them.

        Otherwise one tier takes all of the fleet that helps it, as one replica.
        """
        alone = len(self.tier) == 1 and not self.tier[0].has_demand and self.budget == Budget()
        return not alone or bool(
            self.objective.then or self.objective.name in ("revenue", "profit") or self.model.draft
        )


MAXIMISED = ("throughput", "revenue", "profit", "tokens_per_mw")
MINIMISED = ("cost",)


def load_job(path: Path) -> Job:
    """The job in a TOML file.

    Raises:
        JobError: The file cannot be read, is no TOML, or a field does not check.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"Cannot read job '{path}': {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobError(f"Job '{path}' is not TOML: {error}.") from error
    return parse_job(data, path.name)


def parse_job(data: dict[str, Any], where: str) -> Job:
    """The job that a TOML parser returned.

    Raises:
        JobError: A key is unknown or missing, or a value is out of range; says which.
    """
    job = structure(data, Job, where, JobError)
    _check(job, where)
    return job


def _check(job: Job, where: str) -> None:
    if not job.fleet:
        raise JobError(f"{where}: [fleet] is empty. Name at least one system, such as vr-nvl72 = 1.")
    for name, count in job.fleet.items():
        if count < 1:
            raise JobError(
                f"{where}: [fleet] {name} = {count} must be 1 or more. Leave the line out for none."
            )
    if not job.tier:
        raise JobError(f"{where}: No tier is given. Write a [[tier]], such as like = 'gtc2026/premium'.")
    names = [tier.name or tier.like for tier in job.tier]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise JobError(f"{where}: Two tiers are called '{twice}'. Give each [[tier]] a name of its own.")
    _check_objective(job.objective, where)
    for tier in job.tier:
        _check_tier(tier, where)
    _check_budget(job, where)
    if job.shares_fleet and job.search != SearchSpec():
        raise JobError(
            f"{where}: [search] narrows the grid of a single tier without demand; tiers that share a fleet "
            f"are searched whole. Leave it out."
        )
    for name, values in (("batch", job.search.batch), ("micro_batches", job.search.micro_batches)):
        if any(value < 1 for value in values):
            raise JobError(f"{where}: [search] {name} must hold numbers of 1 or more.")


def _check_objective(objective: Objective, where: str) -> None:
    if objective.maximise and objective.minimise:
        raise JobError(f"{where}: [objective] both maximises and minimises. Leave one out.")
    for what, name, known in (
        ("maximise", objective.maximise, MAXIMISED),
        ("minimise", objective.minimise, MINIMISED),
        ("then", objective.then, (*MAXIMISED, *MINIMISED)),
    ):
        if name and name not in known:
            *others, last = (f"'{choice}'" for choice in known)
            choices = f"{', '.join(others)} or {last}" if others else last
            raise JobError(f"{where}: [objective] {what} = '{name}' is unknown. Use {choices}.")
    if objective.then == objective.name:
        raise JobError(f"{where}: [objective] then = '{objective.then}' is the first objective already.")


def _check_budget(job: Job, where: str) -> None:
    for name, value in (("power_kw", job.budget.power_kw), ("usd_per_h", job.budget.usd_per_h)):
        if value is not None and value <= 0:
            raise JobError(
                f"{where}: [budget] {name} = {value:g} must be more than 0. Leave it out for none."
            )


_ABOVE_0 = (
    "turns",
    "context_tokens",
    "ttft_ms",
    "tokens_per_s_per_user",
    "input_tokens",
    "output_tokens",
    *DEMANDS,
)


def _check_tier(tier: TierSpec, where: str) -> None:
    if not 0.0 <= tier.prefix_hit < 1.0:
        raise JobError(f"{where}: prefix_hit = {tier.prefix_hit} must be from 0 to less than 1.")
    if tier.draft_tokens < 0:
        raise JobError(f"{where}: draft_tokens = {tier.draft_tokens} must be 0 or more.")
    if not 1 <= tier.tokens_per_step <= tier.draft_tokens + 1:
        raise JobError(
            f"{where}: tokens_per_step = {tier.tokens_per_step:g} must be from 1 to draft_tokens + 1 = "
            f"{tier.draft_tokens + 1}: a step gives the next token and at most all that were drafted."
        )
    if sum(getattr(tier, name) is not None for name in DEMANDS) > 1:
        raise JobError(f"{where}: a tier gives its demand once. Keep one of {', '.join(DEMANDS)}.")
    if not 0.0 <= tier.least_share <= 1.0:
        raise JobError(f"{where}: least_share = {tier.least_share:g} must be from 0 to 1.")
    if tier.trace and tier.input_tokens is not None:
        raise JobError(f"{where}: a tier takes its lengths from a trace or from input_tokens. Leave one out.")
    for name in _ABOVE_0:
        value = getattr(tier, name)
        if value is not None and value <= 0:
            raise JobError(f"{where}: {name} = {value} must be more than 0.")


def varied(job: Job, name: str, value: float) -> Job:
    """The job with one number changed: how many there are of a system (0: none), or a field of the tiers.

    'lpx' stands for the one system of the fleet with that word in its name; 'premium.requests_per_s' changes
    one tier, 'requests_per_s' all.

    Raises:
        JobError: The name is neither, or the value is out of range.
    """
    whole = {
        f.name: "int" in str(f.type)
        for f in fields(TierSpec)
        if "int" in str(f.type) or "float" in str(f.type)
    }
    tier, _, number = name.rpartition(".")
    if tier or (number not in whole and "_" in number):  # systems are written with dashes
        _check_known(job, tier, number, whole)
    if whole.get(number, True) and value != int(value):
        raise JobError(f"{name} = {value:g} must be a whole number.")
    if number in whole:
        changed: dict[str, Any] = {number: int(value) if whole[number] else value}
        tiers = (replace(t, **changed) if tier in ("", *_names(t)) else t for t in job.tier)
        other = replace(job, tier=tuple(tiers))
    elif value < 0:
        raise JobError(f"{name} = {value:g} must be 0 systems or more.")
    else:
        counts = {**job.fleet, _system(job, name): int(value)}
        other = replace(job, fleet={system: count for system, count in counts.items() if count})
    _check(other, f"{name} = {value:g}")
    return other


def _check_known(job: Job, tier: str, number: str, numbers: Iterable[str]) -> None:
    known = [name for t in job.tier for name in _names(t)]
    if tier and tier not in known:
        raise JobError(f"'{tier}' is no tier of the job.{nearest(tier, known)}")
    if number not in numbers:
        raise JobError(f"'{number}' is no number of the tier.{nearest(number, numbers)}")


def _names(tier: TierSpec) -> tuple[str, str]:
    """What a tier may be called: in full, and without the table that it comes from."""
    name = tier.name or tier.like
    return name, name.rpartition("/")[2]


def _system(job: Job, name: str) -> str:
    """A system of the fleet by its name or by one word of it; a name that is neither is taken as it is."""
    alike = [system for system in job.fleet if name in system.split("-")]
    return alike[0] if name not in job.fleet and len(alike) == 1 else name
