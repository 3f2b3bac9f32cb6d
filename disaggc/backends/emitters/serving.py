"""A plan as serving engines see it: which pool does what, how many engines, on how many nodes.

An engine computes all layers of a phase on one pool. A plan that divides the layers of a phase between
pools needs a stack that can do that; each emitter says which plans it takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from disaggc.backends.emitters.order import Order
from disaggc.errors import JobError, PlanError
from disaggc.ir import Role
from disaggc.placement.modes import FEED_FORWARD
from disaggc.placement.pricing import PREFILL_CHUNK
from disaggc.plans import PhasePlan, Plan, Pool
from disaggc.targets import Device, System

LABEL_LENGTH = 40
"""Of a deployment's name: operators append to it, and Kubernetes allows 63."""

AGGREGATED, PREFILL, DECODE = "aggregated", "prefill", "decode"
"""What an engine does: both phases, or one of them."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The pools of a plan by what they do; each tuple in order of first use.

    Attributes:
        prefill, decode: Pools that have any stage of the phase.
        attention: Pools of core attention in decode.
        feed_forward: Pools of FFN and experts in decode.
    """

    prefill: tuple[str, ...]
    decode: tuple[str, ...]
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]

    @property
    def is_colocated(self) -> bool:
        """Whether one pool does everything."""
        return len(self.decode) == 1 and self.prefill == self.decode

    @property
    def is_split_by_phase(self) -> bool:
        """Whether one pool does all of prefill, and another all of decode."""
        return len(self.prefill) == len(self.decode) == 1 and self.prefill != self.decode

    @property
    def is_split_by_side(self) -> bool:
        """Whether one pool does all attention of decode, and another all FFN and experts."""
        return len(self.attention) == len(self.feed_forward) == 1 and self.attention != self.feed_forward


def shape_of(plan: Plan) -> Shape:
    """Which pools do what."""
    return Shape(
        _pools(plan.prefill),
        _pools(plan.decode),
        _pools(plan.decode, (Role.CORE_ATTENTION,)),
        _pools(plan.decode, FEED_FORWARD),
    )


def _pools(phase: PhasePlan, roles: Iterable[Role] | None = None) -> tuple[str, ...]:
    wanted = None if roles is None else {role.value for role in roles}
    return tuple(dict.fromkeys(s.pool for s in phase.stages if wanted is None or wanted & set(s.roles)))


def roles_on(phase: PhasePlan, pool: str) -> tuple[str, ...]:
    """What a pool does in a phase, each role once, in order of first use."""
    return tuple(dict.fromkeys(role for s in phase.stages if s.pool == pool for role in s.roles))


def is_nvidia_gpu(device: Device) -> bool:
    """Whether a device runs CUDA."""
    return device.kind == "gpu" and device.vendor == "NVIDIA"


def is_amd_gpu(device: Device) -> bool:
    """Whether a device runs ROCm."""
    return device.kind == "gpu" and device.vendor == "AMD"


def is_lpx(device: Device) -> bool:
    """Whether a device is an LPU of NVIDIA's LPX racks."""
    return device.kind == "sram" and device.vendor.startswith("NVIDIA")


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of serving engine, and how many equal ones of it there are.

    Attributes:
        role: 'aggregated', 'prefill' or 'decode'.
        pool: The pool it runs on.
        system: What the pool is of.
        tp, pp, dp: Degrees within one engine.
        expert_parallel: Whether experts are spread over all of tp x dp.
        replicas: Equal engines, each with the whole model.
        node_devices: Devices of it on each of its nodes.
        requests: In flight on each data-parallel rank; None where the plan sets no such limit.
        context_tokens: Tokens that memory is reserved for, per request.
        batched_tokens: Tokens of prompts computed in one step; None where no prompts are.
        memory_share: Of each device's memory, what the engine may fill.
        static_share: Of each device's memory, what weights and caches may fill.
    """

    role: str
    pool: Pool
    system: System
    tp: int
    pp: int
    dp: int
    expert_parallel: bool
    replicas: int
    node_devices: int
    requests: int | None
    context_tokens: int
    batched_tokens: int | None
    memory_share: float
    static_share: float

    @property
    def devices(self) -> int:
        """Devices of one engine."""
        return self.tp * self.pp * self.dp

    @property
    def nodes(self) -> int:
        """Nodes of one engine."""
        return self.devices // self.node_devices

    @property
    def local_dp(self) -> int:
        """Data-parallel ranks on each node; 0 if a rank spans nodes."""
        return self.node_devices // (self.tp * self.pp)


def engines_of(order: Order) -> tuple[Engine, ...]:
    """The engines of a plan that divides no phase between pools, prefill first.

    Raises:
        PlanError: It does.
    """
    shape = shape_of(order.plan)
    if shape.is_colocated:
        return (engine_on(order, shape.decode[0], AGGREGATED),)
    if shape.is_split_by_phase:
        return (engine_on(order, shape.prefill[0], PREFILL), engine_on(order, shape.decode[0], DECODE))
    raise PlanError(
        f"This plan ({order.plan.mode}) divides the layers of a phase between pools, and a serving engine "
        f"has them all. {who_divides(order, shape)}"
    )


CUT_ITSELF = "--backend onnx, ort-package or ort-genai writes the cut itself."
"""The cure where no serving stack has words for a plan."""


def who_divides(order: Order, shape: Shape) -> str:
    """Which backends can express a plan that divides a phase, as a sentence."""
    devices = [order.system(order.pool(name)).device for name in shape.decode]
    if any(map(is_lpx, devices)):
        return f"Use --backend dynamo, which has LPX components; {CUT_ITSELF}"
    if shape.is_split_by_side and all(map(is_nvidia_gpu, devices)):
        return f"Use --backend afd-plugin, which divides attention and experts between GPUs; {CUT_ITSELF}"
    return f"No serving stack that disaggc knows divides them like that on these systems; {CUT_ITSELF}"


def engine_on(order: Order, pool_name: str, role: str) -> Engine:
    """The engines of one role on one pool.

    Without experts the data-parallel replicas have nothing in common, so each is an engine of its own.
    """
    plan, pool = order.plan, order.pool(pool_name)
    system, degrees = order.system(pool), pool.parallelism
    experts = _has_experts(plan) and degrees.ep > 1
    dp, replicas = (degrees.dp, 1) if experts else (1, degrees.dp)
    replicas *= order.prefill_copies if role == PREFILL else order.copies
    in_flight = plan.schedule.micro_batch * plan.schedule.micro_batches
    limit = order.settings.node_devices or system.devices_per_node
    memory = pool.memory
    return Engine(
        role=role,
        pool=pool,
        system=system,
        tp=degrees.tp,
        pp=degrees.pp,
        dp=dp,
        expert_parallel=experts,
        replicas=replicas,
        node_devices=node_share(degrees.tp * degrees.pp, dp, limit),
        requests=None if role == PREFILL else -(-in_flight // degrees.dp),
        context_tokens=plan.schedule.context_tokens,
        batched_tokens=None if role == DECODE else PREFILL_CHUNK,
        memory_share=round(1 - memory.reserve / memory.capacity, 3),
        static_share=round(1 - (memory.reserve + memory.activations) / memory.capacity, 3),
    )


def node_share(rank_devices: int, ranks: int, limit: int) -> int:
    """Devices of an engine on each of its nodes: as many as fit, equally many, no rank cut unevenly.

    Args:
        rank_devices: Devices of one data-parallel rank.
        ranks: Data-parallel ranks of the engine.
        limit: Devices of one node.
    """
    total = rank_devices * ranks
    return next(
        share
        for share in range(min(limit, total), 0, -1)
        if total % share == 0 and (share % rank_devices == 0 or rank_devices % share == 0)
    )


def _has_experts(plan: Plan) -> bool:
    return any(Role.EXPERTS.value in stage.roles for stage in plan.decode.stages)


def slug(text: str) -> str:
    """A text as a DNS label, which names of Kubernetes objects, services and Slurm jobs are."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    label = "-".join(part for part in kept.split("-") if part)[:LABEL_LENGTH].strip("-")
    return label if label[:1].isalpha() else f"plan-{label}".strip("-")


def deployment_name(order: Order) -> str:
    """What the deployment is called: as asked, else after the model."""
    return slug(order.settings.name or order.plan.model.name)


def served_checkpoint(order: Order) -> str:
    """The model that the stack loads.

    Raises:
        JobError: Nobody said; an ONNX file is nothing that it could load. Or it reads as an option.
    """
    name = order.settings.required(
        "checkpoint",
        "A serving stack loads the model's checkpoint, a Hugging Face name or a folder, not the ONNX file.",
    )
    if name.startswith("-"):
        raise JobError(f"--checkpoint {name!r} would be read as an option. Write a path as './{name}'.")
    return name


def format_notes(plan: Plan) -> tuple[str, ...]:
    """What the engine's command line cannot say about number formats and drafts."""
    found = []
    if plan.formats.weights != "as stored":
        found.append(f"The plan is priced with weights in {plan.formats.weights}: serve a checkpoint in it.")
    if plan.formats.activations != "as stored":
        found.append(f"The plan is priced with activations in {plan.formats.activations}.")
    if plan.schedule.step_tokens > 1:
        found.append(
            f"The plan verifies {plan.schedule.step_tokens} tokens a step and counts on "
            f"{plan.schedule.tokens_per_step:g} accepted: add your drafter to the decode engine's arguments."
        )
    return tuple(found)
