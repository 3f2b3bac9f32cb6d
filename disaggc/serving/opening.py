"""From a plan folder to what serves it: one deployment for a plan, one or more for each tier of a fleet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from disaggc.errors import JobError, PlanError, nearest
from disaggc.plans import Plan, is_fleet, open_fleet, open_plan
from disaggc.runtime import Execution, Service, Text, deploy, tokens_that_fit
from disaggc.runtime.execution import kv_budget
from disaggc.serving.asking import Language
from disaggc.serving.chat_template import CONFIG, load_chat_template, read_json, spelling
from disaggc.serving.tiers import Lineup, make_tiers

MEMORY_SHARE = 0.5
"""Of the free memory, for the caches of all deployments."""
_ENDS = ("generation_config.json", "config.json", "genai_config.json")
"""Files beside a model that say which tokens end an answer."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user may choose.

    Attributes:
        model_folder: Where the model lies; as the plan says if None.
        threads: Of each executor.
        execution: How plans are executed; ``instances`` go to the deployments that have such pools.
        deployments: Of a fleet these; all if empty.
        weights: Tiers that share a single plan, with their weights; the plan's own if empty.
        queue_size: Requests that may wait in a tier.
        context: Tokens that a request may have; the plan's if None.
        name: What the model is called; as in the plan if ''.
        quantum_s: About how long executors may work without a word.
        chat_template: A template to use instead of the model's.
        stop_ids: Tokens that end an answer, besides those that the model's files name.
    """

    model_folder: Path | None = None
    threads: int = 1
    execution: Execution = Execution()  # noqa: RUF009 - it is frozen
    deployments: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    queue_size: int = 256
    context: int | None = None
    name: str = ""
    quantum_s: float = 0.01
    chat_template: Path | None = None
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A plan that is to be served.

    Attributes:
        name: The deployment's.
        folder: Of its plan.
        model_folder: Of its model.
        tiers: What it serves, with weights.
    """

    name: str
    plan: Plan
    folder: Path
    model_folder: Path
    tiers: Mapping[str, float]


def parts_of(folder: Path, choices: Choices) -> list[Part]:
    """The plans to serve.

    Raises:
        PlanError: The folder does not hold what it should.
        JobError: There is no such deployment or pool.
    """
    if is_fleet(folder):
        found = _parts_of_fleet(folder, choices)
    else:
        if choices.deployments:
            raise JobError(f"'{folder}' is a single plan. Leave --deployment out.")
        plan = open_plan(folder)
        tiers = choices.weights or {plan.goal.tier or "default": 1.0}
        found = [Part(plan.model.name, plan, folder, _model_folder(folder, choices), tiers)]
    pools = {pool.name for part in found for pool in part.plan.pools}
    for pool in choices.execution.instances:
        if pool not in pools:
            raise JobError(f"No plan here has a pool '{pool}'.{nearest(pool, pools)}")
    return found


def _parts_of_fleet(folder: Path, choices: Choices) -> list[Part]:
    if choices.weights:
        raise JobError("--tier is for a single plan; a fleet's deployments serve the tiers that it names.")
    replicas = {Path(r.plan).name: r for r in open_fleet(folder).replicas if r.plan}
    for name in choices.deployments:
        if name not in replicas:
            raise JobError(f"The fleet has no deployment '{name}'.{nearest(name, replicas)}")
    found = []
    for name, replica in replicas.items():
        if choices.deployments and name not in choices.deployments:
            continue
        own = folder / replica.plan
        if not own.resolve().is_relative_to(folder.resolve()):
            raise PlanError(
                f"Fleet '{folder}' names the plan '{replica.plan}', outside its own folder. Compile it again."
            )
        tiers = {replica.tier: 1.0}
        found.append(Part(name, open_plan(own), own, _model_folder(own, choices), tiers))
    if not found:
        raise PlanError(f"Fleet '{folder}' has no deployment, so there is nothing to serve.")
    return found


def _model_folder(folder: Path, choices: Choices) -> Path:
    """Where the model lies: as asked, else where it was compiled from."""
    if choices.model_folder is not None:
        return choices.model_folder
    try:
        return Path((folder / "model.path").read_text(encoding="utf-8").strip())
    except OSError as error:
        raise PlanError(f"'{folder}' does not say where its model is. Add --model FOLDER.") from error


def open_lineup(
    parts: Sequence[Part], choices: Choices, stack: ExitStack, tell: Callable[[str], None]
) -> Lineup:
    """Open every plan's executors.

    Args:
        parts: The plans.
        choices: How.
        stack: Closes them.
        tell: Told what is being done.

    Raises:
        DisaggcError: One cannot be opened.
    """
    served = []
    for number, part in enumerate(parts):
        tell(f"opening {part.name}, {number + 1} of {len(parts)}")
        execution = _execution(part.plan, choices, len(parts))
        deployment = deploy(part.plan, part.folder, part.model_folder, choices.threads, execution)
        stack.callback(deployment.close)
        service = Service(part.name, deployment, part.tiers, choices.quantum_s)
        stack.callback(service.close)
        served.append((service, tuple(part.tiers), _context(part.plan, service, choices)))
    names = list(dict.fromkeys(tier for part in parts for tier in part.tiers))
    tiers = make_tiers(served, names, choices.queue_size)
    return Lineup(choices.name or parts[0].plan.model.name, tiers, tuple(s for s, _, _ in served))


def _execution(plan: Plan, choices: Choices, sharers: int) -> Execution:
    """Within what this machine has memory for, where a plan is made for a larger one."""
    execution = choices.execution
    own = {pool.name for pool in plan.pools}
    instances = {pool: n for pool, n in execution.instances.items() if pool in own}
    kv_tokens = execution.kv_tokens
    if kv_tokens is None:
        limits = (kv_budget(plan, execution), tokens_that_fit(plan, MEMORY_SHARE / sharers))
        kv_tokens = min((limit for limit in limits if limit), default=None)
    return replace(execution, instances=instances, kv_tokens=kv_tokens)


def _context(plan: Plan, service: Service, choices: Choices) -> int:
    """Tokens that a request may have."""
    fixed = [state.fixed_capacity for state in plan.states]
    limits = [choices.context, plan.schedule.context_tokens, service.kv_tokens, *fixed]
    return min((limit for limit in limits if limit), default=2**31)


def language_of(part: Part, choices: Choices) -> Language:
    """How the text of a plan's model becomes tokens.

    Raises:
        DisaggcError: What lies beside the model does not read.
    """
    folder = part.model_folder
    text = Text(folder) if (folder / "tokenizer.json").is_file() else None
    chat = load_chat_template(folder, choices.chat_template)
    return Language(text, chat, frozenset(choices.stop_ids) | _end_ids(folder, text))


def _end_ids(folder: Path, text: Text | None) -> frozenset[int]:
    """Tokens that end an answer, by the files beside the model."""
    found: set[int] = set()
    for name in _ENDS:
        config = read_json(folder / name)
        for owner in (config, config.get("model")):
            ids = owner.get("eos_token_id") if isinstance(owner, dict) else None
            found.update(i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int))
    end = spelling(read_json(folder / CONFIG), "eos_token")
    own = text.id_of(end) if text is not None and end else None
    return frozenset(found if own is None else found | {own})
