"""Plans that decode on NVIDIA's LPX racks, as Dynamo deploys them.

An lpx component is a number of whole engines. Each has a conductor and as many LPU agents as the compiled
build says. In a hybrid the conductor is one or more pods with GPUs of their own, which share the engine's
LPUs, each with requests of its own: so are data-parallel ranks of attention written, one a pod. (From the
operator's sources as read in November 2026, ai-dynamo/dynamo, deploy/operator/internal/dynamo/lpx,
cyborg_runtime.go: as many pods as the build's ioFpgaCount x fanoutFactor, or a multiple; a conductor without
GPUs is one pod.) The build itself comes from a compiler that is not public: a manifest refers to it by its
id, and what it must hold is told beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from disaggc.backends.emitters.op_table import Placed, layers_by_role, ranges
from disaggc.backends.emitters.order import Order
from disaggc.backends.emitters.serving import (
    CUT_ITSELF,
    Shape,
    is_lpx,
    is_nvidia_gpu,
    roles_on,
    served_checkpoint,
)
from disaggc.errors import PlanError
from disaggc.ir import Phase, Role
from disaggc.placement.modes import FEED_FORWARD
from disaggc.plans import Pool

HEAVY = {Role.CORE_ATTENTION.value, *(role.value for role in FEED_FORWARD)}
"""Roles whose time depends on how many devices there are."""


@dataclass(frozen=True, slots=True)
class LpxEngine:
    """The engines of one lpx component.

    Attributes:
        pools: The LPUs, by what they do; one build has them all.
        gpus: The pool of the conductors' GPUs; None for a build of LPUs alone.
        replicas: Whole engines.
        parts: How many of them the pools of one replica of the plan make.
        lpus: LPUs of each.
        conductors: Conductor pods of each.
        conductor_gpus: GPUs of each of those.
        prefill_pool: The GPUs that prefill and hand caches over; None where the engine prefills itself.
        notes: Where it differs from the plan.
    """

    pools: tuple[Pool, ...]
    gpus: Pool | None
    replicas: int
    parts: int
    lpus: int
    conductors: int
    conductor_gpus: int
    prefill_pool: Pool | None
    notes: tuple[str, ...]

    @property
    def mode(self) -> str:
        """How the build is compiled, in the words of its manifest."""
        return "lpuOnly" if self.gpus is None else "hybrid"


def uses_lpx(order: Order, shape: Shape) -> bool:
    """Whether any stage runs on LPUs."""
    return any(is_lpx(order.system(order.pool(name)).device) for name in (*shape.prefill, *shape.decode))


def lpx_engine(order: Order, shape: Shape) -> LpxEngine:
    """The lpx component of a plan.

    Raises:
        PlanError: The plan is of a shape that lpx components do not have.
    """
    lpus = [p for p in map(order.pool, shape.decode) if is_lpx(order.system(p).device)]
    others = [p for p in map(order.pool, shape.decode) if p not in lpus]
    if not lpus or len(others) > 1:
        raise _refused(order, "decodes on other than pools of LPUs and at most one of GPUs")
    if any(not is_nvidia_gpu(order.system(p).device) for p in others):
        raise _refused(order, f"decodes on '{others[0].name}', too, which no conductor can drive")
    gpus = others[0] if others else None
    prefill, notes = _prefill(order, shape, lpus)
    replicas = gcd(*(p.parallelism.dp for p in (*lpus, *others)))
    conductors, conductor_gpus, more = _conductors(order, gpus, replicas)
    return LpxEngine(
        pools=tuple(lpus),
        gpus=gpus,
        replicas=replicas * order.copies,
        parts=replicas,
        lpus=sum(pool.devices for pool in lpus) // replicas,
        conductors=conductors,
        conductor_gpus=conductor_gpus,
        prefill_pool=prefill,
        notes=(*notes, *more, *_unbacked(gpus, prefill)),
    )


def _unbacked(gpus: Pool | None, prefill: Pool | None) -> tuple[str, ...]:
    """What the plan counts on and no published deployment shows."""
    if gpus is not None or prefill is None:
        return ()
    note = (
        f"Caches come from '{prefill.name}' to LPUs without GPUs, which no published deployment shows: the "
        f"conductor gets no arguments for it."
    )
    return (note,)


def _prefill(order: Order, shape: Shape, lpus: Sequence[Pool]) -> tuple[Pool | None, tuple[str, ...]]:
    if set(shape.prefill) <= {pool.name for pool in lpus}:
        return None, ()
    pools = [order.pool(name) for name in shape.prefill]
    if len(pools) == 1:
        if not is_nvidia_gpu(order.system(pools[0]).device):
            raise _refused(order, f"prefills on '{pools[0].name}', which is no NVIDIA GPU")
        return pools[0], ()
    if any(pool in lpus for pool in pools):
        return None, ("Prefill is divided between GPUs and LPUs, as decode is: the build must do both.",)
    raise _refused(order, "divides prefill between pools without LPUs")


def _conductors(order: Order, gpus: Pool | None, replicas: int) -> tuple[int, int, tuple[str, ...]]:
    """Conductor pods of an engine, GPUs of each, and notes; a pod has those of one node at most.

    Each data-parallel rank of attention is a pod; where there is none, one pod has what light roles need.
    """
    if gpus is None:
        return 1, 0, ()
    limit = order.settings.node_devices or order.system(gpus).devices_per_node
    roles, split = roles_on(order.plan.decode, gpus.name), gpus.parallelism
    if HEAVY & set(roles):
        rank = split.tp * split.pp
        if rank > limit:
            raise _refused(
                order,
                f"decodes {', '.join(roles)} on ranks of {rank} GPUs (tp {split.tp}, pp {split.pp}), and a "
                f"conductor pod has the {limit} of one node at most (--node-devices)",
            )
        pods = split.dp // replicas
        return pods, rank, _shared(order, gpus, pods * rank * replicas)
    wanted = gpus.devices // replicas
    if wanted <= limit:
        return 1, wanted, _shared(order, gpus, wanted * replicas)
    note = (
        f"Decode's {', '.join(roles)} were priced on {wanted} GPUs of '{gpus.name}'; a conductor has the "
        f"{limit} of one node."
    )
    return 1, limit, (note, *_shared(order, gpus, limit * replicas))


def _shared(order: Order, gpus: Pool, needed: int) -> tuple[str, ...]:
    """GPUs cannot belong to two pods, so conductors take theirs beside those that prefill."""
    if gpus.name not in {stage.pool for stage in order.plan.prefill.stages}:
        return ()
    spare = gpus.available - gpus.devices
    if spare >= needed:
        return ()
    note = (
        f"The plan prefills and decodes on the same GPUs of '{gpus.name}'; pods cannot share them. "
        f"Conductors need {needed} GPUs, {spare} are spare: take {needed - spare} from prefill or add them."
    )
    return (note,)


def _refused(order: Order, why: str) -> PlanError:
    return PlanError(f"Backend 'dynamo' cannot express this plan ({order.plan.mode}): it {why}. {CUT_ITSELF}")


def build_contents(order: Order, engine: LpxEngine, ops: tuple[Placed, ...]) -> dict[str, object]:
    """What the compiled build must hold, for the text beside the manifest."""
    plan = order.plan
    return {
        "build_id": order.settings.build_id,
        "checkpoint": served_checkpoint(order),
        "plan": plan,
        "engine": engine,
        "partitions": _partitions(order, engine, ops),
    }


def _partitions(order: Order, engine: LpxEngine, ops: tuple[Placed, ...]) -> list[dict[str, object]]:
    """One row for each pipeline stage of LPUs, and one for the GPUs.

    What comes before the first layer is told with the first stage, what comes after the last with the last.
    """
    rows = [row for pool in engine.pools for row in _stages(order, pool, ops)]
    if engine.gpus is not None:
        own = layers_by_role(ops, Phase.DECODE, engine.gpus.name)
        pods = f"{engine.conductors} x " if engine.conductors > 1 else ""
        told = f"{pods}{engine.conductor_gpus} GPUs"
        rows.append(_row("cuda", told, range(order.plan.model.layers), own))
    return rows


def _stages(order: Order, pool: Pool, ops: tuple[Placed, ...]) -> list[dict[str, object]]:
    """The pipeline stages of one pool of LPUs."""
    stages = pool.parallelism.pp
    last = max((op.node for op in ops if op.layer is not None), default=0)
    rows: list[dict[str, object]] = []
    for k in range(stages):
        layers = _share(order.plan.model.layers, stages, k)
        outside = {True: k == stages - 1, False: k == 0}
        own_ops = (op for op in ops if (outside[op.node > last] if op.layer is None else op.layer in layers))
        own = layers_by_role(own_ops, Phase.DECODE, pool.name)
        rows.append(_row("lpu", f"{pool.parallelism.tp} LPUs", layers, own))
    return rows


def _row(kind: str, devices: str, layers: range, roles: dict[str, str]) -> dict[str, object]:
    told = "; ".join(f"{role} ({where})" if where else role for role, where in roles.items())
    return {"kind": kind, "devices": devices, "layers": ranges(layers), "roles": told}


def _share(layers: int, stages: int, k: int) -> range:
    """The layers of pipeline stage ``k``, as evenly as they go."""
    return range(k * layers // stages, (k + 1) * layers // stages)
