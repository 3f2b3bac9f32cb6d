"""A job: the model, the fleet and the tier that a user wants served. Read from TOML."""

from __future__ import annotations

import tomllib
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
    """

    onnx: str
    weights: str = "as stored"
    kv: str = "as stored"
    activations: str = "as stored"


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
            drafting them is not priced.
        tokens_per_step: Tokens that an answer grows by in a step, 1 to draft_tokens + 1.
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


@dataclass(frozen=True, slots=True)
class Objective:
    """[objective]: what the best plan is best at.

    Attributes:
        maximise: 'throughput' (tokens per second of the whole fleet, the default) or 'tokens_per_mw'
            (of the systems that are used).
        minimise: 'cost', dollars per million tokens of the systems that are used; instead of ``maximise``.
    """

    maximise: str = ""
    minimise: str = ""

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
    """

    batch: tuple[int, ...] = ()
    micro_batches: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a compile is asked for."""

    model: ModelSpec
    fleet: Fleet
    tier: tuple[TierSpec, ...]
    objective: Objective = field(default_factory=Objective)
    search: SearchSpec = field(default_factory=SearchSpec)


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
    if len(job.tier) != 1:
        raise JobError(
            f"{where}: {len(job.tier)} tiers are given; one is compiled at a time. Write one [[tier]] a job."
        )
    _check_objective(job.objective, where)
    _check_tier(job.tier[0], where)
    for name, values in (("batch", job.search.batch), ("micro_batches", job.search.micro_batches)):
        if any(value < 1 for value in values):
            raise JobError(f"{where}: [search] {name} must hold numbers of 1 or more.")


def _check_objective(objective: Objective, where: str) -> None:
    if objective.maximise and objective.minimise:
        raise JobError(f"{where}: [objective] both maximises and minimises. Leave one out.")
    for what, name, known in (
        ("maximise", objective.maximise, ("throughput", "tokens_per_mw")),
        ("minimise", objective.minimise, ("cost",)),
    ):
        if name and name not in known:
            choices = " or ".join(f"'{choice}'" for choice in known)
            raise JobError(f"{where}: [objective] {what} = '{name}' is unknown. Use {choices}.")


_ABOVE_0 = ("turns", "context_tokens", "ttft_ms", "tokens_per_s_per_user", "input_tokens", "output_tokens")


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
    if tier.trace and tier.input_tokens is not None:
        raise JobError(f"{where}: a tier takes its lengths from a trace or from input_tokens. Leave one out.")
    for name in _ABOVE_0:
        value = getattr(tier, name)
        if value is not None and value <= 0:
            raise JobError(f"{where}: {name} = {value} must be more than 0.")


def varied(job: Job, name: str, value: float) -> Job:
    """The job with one number changed: how many there are of a system (0: none), or a field of the tier.

    Raises:
        JobError: The name is neither, or the value is out of range.
    """
    whole = {f.name: "int" in str(f.type) for f in fields(TierSpec) if str(f.type) != "str"}
    if name not in whole and "_" in name:  # systems are written with dashes
        raise JobError(f"'{name}' is no number of the tier.{nearest(name, whole)}")
    if whole.get(name, True) and value != int(value):
        raise JobError(f"{name} = {value:g} must be a whole number.")
    if name in whole:
        changed: dict[str, Any] = {name: int(value) if whole[name] else value}
        other = replace(job, tier=(replace(job.tier[0], **changed),))
    elif value < 0:
        raise JobError(f"{name} = {value:g} must be 0 systems or more.")
    else:
        counts = {**job.fleet, name: int(value)}
        other = replace(job, fleet={system: count for system, count in counts.items() if count})
    _check(other, f"{name} = {value:g}")
    return other
