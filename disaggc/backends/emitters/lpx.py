"""Plans that decode on NVIDIA's LPX racks, as Dynamo deploys them.

An lpx component is a number of whole engines. Each has one conductor, which has GPUs of its own where the
build is a hybrid, and as many LPU agents as the compiled build says. The build itself comes from a
compiler that is not public: a manifest refers to it by its id, and what it must hold is told beside it.
"""

from __future__ import annotations

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
        pool: The LPUs.
        gpus: The pool of the conductors' GPUs; None for a build of LPUs alone.
        replicas: Whole engines.
        lpus: LPUs of each.
        conductor_gpus: GPUs of each conductor.
        prefill_pool: The GPUs that prefill and hand caches over; None where the engine prefills itself.
        notes: Where it differs from the plan.
    """

    pool: Pool
    gpus: Pool | None
    replicas: int
    lpus: int
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
    if len(lpus) != 1 or len(others) > 1:
        raise _refused(order, "decodes on other than one pool of LPUs and at most one of GPUs")
    if any(not is_nvidia_gpu(order.system(p).device) for p in others):
        raise _refused(order, f"decodes on '{others[0].name}', too, which no conductor can drive")
    gpus = others[0] if others else None
    prefill, notes = _prefill(order, shape, lpus[0])
    replicas = lpus[0].parallelism.dp if gpus is None else gcd(lpus[0].parallelism.dp, gpus.parallelism.dp)
    conductor_gpus, more = _conductor(order, gpus, replicas)
    return LpxEngine(
        pool=lpus[0],
        gpus=gpus,
        replicas=replicas * order.copies,
        lpus=lpus[0].devices // replicas,
        conductor_gpus=conductor_gpus,
        prefill_pool=prefill,
        notes=(*notes, *more),
    )


def _prefill(order: Order, shape: Shape, lpus: Pool) -> tuple[Pool | None, tuple[str, ...]]:
    if shape.prefill == (lpus.name,):
        return None, ()
    pools = [order.pool(name) for name in shape.prefill]
    if len(pools) == 1:
        if not is_nvidia_gpu(order.system(pools[0]).device):
            raise _refused(order, f"prefills on '{pools[0].name}', which is no NVIDIA GPU")
        return pools[0], ()
    if lpus in pools:
        return None, ("Prefill is divided between GPUs and LPUs, as decode is: the build must do both.",)
    raise _refused(order, "divides prefill between pools without LPUs")


def _conductor(order: Order, gpus: Pool | None, replicas: int) -> tuple[int, tuple[str, ...]]:
    """GPUs of one conductor, which is one pod: those of one node at most."""
    if gpus is None:
        return 0, ()
    wanted = gpus.devices // replicas
    limit = order.settings.node_devices or order.system(gpus).devices_per_node
    roles = roles_on(order.plan.decode, gpus.name)
    if wanted <= limit:
        return wanted, _shared(order, gpus, wanted * replicas)
    if HEAVY & set(roles):
        raise _refused(
            order,
            f"decodes {', '.join(roles)} on {wanted} GPUs of one engine, and a conductor is one pod, with "
            f"the {limit} GPUs of one node at most (--node-devices)",
        )
    note = (
        f"Decode's {', '.join(roles)} were priced on {wanted} GPUs of '{gpus.name}'; a conductor has the "
        f"{limit} of one node."
    )
    return limit, (note, *_shared(order, gpus, limit * replicas))


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
    pool, stages = engine.pool, engine.pool.parallelism.pp
    last = max((op.node for op in ops if op.layer is not None), default=0)
    rows: list[dict[str, object]] = []
    for k in range(stages):
        layers = _share(order.plan.model.layers, stages, k)
        outside = {True: k == stages - 1, False: k == 0}
        own_ops = (op for op in ops if (outside[op.node > last] if op.layer is None else op.layer in layers))
        own = layers_by_role(own_ops, Phase.DECODE, pool.name)
        rows.append(_row("lpu", f"{pool.parallelism.tp} LPUs", layers, own))
    if engine.gpus is not None:
        own = layers_by_role(ops, Phase.DECODE, engine.gpus.name)
        rows.append(_row("cuda", f"{engine.conductor_gpus} GPUs", range(order.plan.model.layers), own))
    return rows


def _row(kind: str, devices: str, layers: range, roles: dict[str, str]) -> dict[str, object]:
    told = "; ".join(f"{role} ({where})" if where else role for role, where in roles.items())
    return {"kind": kind, "devices": devices, "layers": ranges(layers), "roles": told}


def _share(layers: int, stages: int, k: int) -> range:
    """The layers of pipeline stage ``k``, as evenly as they go."""
    return range(k * layers // stages, (k + 1) * layers // stages)
