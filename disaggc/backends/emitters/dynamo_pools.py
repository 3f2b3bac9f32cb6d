"""A fleet's tiers as pools of Dynamo: one front end, a global router that picks a pool, a global planner.

The global router picks by the times that a request asks for (pool_grid.py), so tiers that ask for the same
ones share a pool. It knows two kinds of pools, those that do both phases and those of one, and a router is of
one kind; a fleet with replicas of both kinds gets two front ends. Each pool is a graph of its own: a local
router, an engine component for each kind of replica, and a planner where there is but one kind to scale.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from disaggc.backends.emitters.dynamo_manifest import (
    check_deployment,
    framework_of,
    gpu_component,
    image_values,
    namespace_of,
    verbatim,
)
from disaggc.backends.emitters.order import Order, Together, Written, write_texts
from disaggc.backends.emitters.planner_profile import profile_texts
from disaggc.backends.emitters.pool_grid import axis, crowded, row, square
from disaggc.backends.emitters.serving import (
    AGGREGATED,
    DECODE,
    LABEL_LENGTH,
    PREFILL,
    Engine,
    deployment_name,
    engine_on,
    is_nvidia_gpu,
    served_checkpoint,
    shape_of,
    slug,
)
from disaggc.backends.emitters.templates import render
from disaggc.plans import Pool, ReplicaPlan, TierPlan

WHOLE, PHASES = "whole", "phases"
"""Kinds of global routers: over pools that do both phases, and over those of one each."""
EXACT = 1e-9
"""What a share of replicas may be off by in floating point before it is rounded up."""
BLOCK_TOKENS = 16
"""Tokens of a KV block for the local routers: vLLM's own, and that of Dynamo's examples."""
MS = 1e3


@dataclass(frozen=True, slots=True)
class Worker:
    """One kind of replica in a pool, and the plan that says what it is."""

    engine: Engine
    order: Order
    tier: TierPlan
    requests_per_s: float


@dataclass(frozen=True, slots=True)
class PoolGraph:
    """One pool: a graph of its own.

    Attributes:
        role: 'aggregated', 'prefill' or 'decode'.
        ttft_ms, itl_ms: The times that its tiers ask for.
    """

    name: str
    role: str
    ttft_ms: float
    itl_ms: float
    workers: tuple[Worker, ...]

    @property
    def gpus(self) -> int:
        """GPUs of all its workers."""
        return sum(w.engine.replicas * w.engine.devices for w in self.workers)

    @property
    def tiers(self) -> tuple[str, ...]:
        """Whom it serves."""
        return tuple(dict.fromkeys(worker.tier.name for worker in self.workers))


def write_pools(together: Together, folder: Path) -> Written | None:
    """Write pools/ into ``folder``; None where no two replicas could share a front end."""
    found, left = workers(together)
    routers = {kind: pools for kind in (WHOLE, PHASES) if (pools := pools_of(together, kind, found))}
    if sum(len(pools) for pools in routers.values()) < 2:
        return None
    close = next(filter(None, map(_crowded, routers.values())), "")
    if close:
        return Written((f"There are no pools: {close}. Give the tiers equal times.",), "")
    texts = {
        f"pools/{kind}/{name}": text
        for kind, pools in routers.items()
        for name, text in _graphs(together, kind, pools).items()
    }
    texts["pools/README.md"] = render("dynamo/pools.md.j2", {"rows": list(_rows(together, routers))})
    write_texts(folder, texts)
    kinds = " and ".join(f"kubectl apply -f pools/{kind}" for kind in routers)
    start = f"or, tiers as pools behind one front end instead of each deployment by itself: {kinds}"
    return Written((*_split_notes(found), *left), start)


def _crowded(pools: Sequence[PoolGraph]) -> str:
    """Why a router cannot tell some pools apart; '' if it can."""
    firsts = [pool.ttft_ms for pool in pools if pool.role != DECODE]
    return crowded(firsts) or crowded([pool.itl_ms for pool in pools if pool.role != PREFILL])


# From replicas to workers ----------------------------------------------------------------------


def workers(together: Together) -> tuple[tuple[Worker, ...], tuple[str, ...]]:
    """What can be in a pool, and a note for each deployment that cannot."""
    tiers = {tier.name: tier for tier in together.fleet.tiers}
    fit = [name for name, order in together.orders.items() if not unfit(order)]
    notes = [
        f"{name} is in no pool: {unfit(order)}. It stays a deployment with a front end of its own."
        for name, order in together.orders.items()
        if name not in fit
    ]
    found = []
    for replica in together.fleet.replicas:
        order = _order_of(together, replica, fit)
        if order is not None and replica.form == "prefill" and unfit(order):
            notes.append(f"{replica.name} is in no pool: {unfit(order)}.")
        elif order is not None:
            found.append(
                Worker(_engine(replica, order), order, tiers[replica.tier], replica.planned_requests_per_s)
            )
    return tuple(found), tuple(notes)


def unfit(order: Order) -> str:
    """Why no pool can hold a deployment; '' if one can."""
    shape = shape_of(order.plan)
    if not (shape.is_colocated or shape.is_split_by_phase):
        return "it divides the layers of a phase, and no published pool has an lpx component"
    odd = [p for p in map(order.pool, (*shape.prefill, *shape.decode)) if not _is_gpu(order, p)]
    return f"its pool '{odd[0].name}' is of no NVIDIA GPUs" if odd else ""


def _is_gpu(order: Order, pool: Pool) -> bool:
    return is_nvidia_gpu(order.system(pool).device)


def _order_of(together: Together, replica: ReplicaPlan, fit: Sequence[str]) -> Order | None:
    """The plan behind a replica, with as many copies as the fleet runs; None where it is in no pool."""
    if replica.name in fit:
        return replace(together.orders[replica.name], copies=replica.replicas)
    if replica.form != "prefill":
        return None
    stream = (replica.tier, replica.home)
    fed = [r for r in together.fleet.replicas if r.form == "decode" and (r.tier, r.home) == stream]
    pooled = [r for r in fed if r.name in fit]
    if not pooled:
        return None
    served = sum(r.planned_requests_per_s for r in fed)
    share = sum(r.planned_requests_per_s for r in pooled) / served if served else 1.0
    copies = max(1, math.ceil(replica.replicas * share - EXACT))
    return _prefilling(together.orders[pooled[0].name], replica, copies)


def _prefilling(order: Order, replica: ReplicaPlan, copies: int) -> Order:
    """A deployment's plan with the prefill of a replica in place of its own, maybe of another shape."""
    (name,) = shape_of(order.plan).prefill
    group = replica.groups[0]
    own = replace(
        order.pool(name),
        system=group.system,
        parallelism=group.parallelism,
        devices=group.devices,
        available=group.devices,
    )
    pools = tuple(own if pool.name == name else pool for pool in order.plan.pools)
    return replace(order, plan=replace(order.plan, pools=pools), prefill_copies=copies)


def _engine(replica: ReplicaPlan, order: Order) -> Engine:
    shape = shape_of(order.plan)
    if replica.form == "prefill":
        return engine_on(order, shape.prefill[0], PREFILL)
    return engine_on(order, shape.decode[0], AGGREGATED if shape.is_colocated else DECODE)


# From workers to pools -------------------------------------------------------------------------


def itl_ms(tier: TierPlan) -> float:
    """The time between tokens that a tier asks for."""
    return MS / tier.tokens_per_s_per_user


def pools_of(together: Together, kind: str, found: Sequence[Worker]) -> tuple[PoolGraph, ...]:
    """The pools of one kind of router, the fastest first; tiers of the same times share one.

    None at all where a role has none: a router over phases needs both.
    """
    roles = (AGGREGATED,) if kind == WHOLE else (PREFILL, DECODE)
    pools = tuple(pool for role in roles for pool in _of_role(together, role, found))
    return pools if {pool.role for pool in pools} == set(roles) else ()


def _of_role(together: Together, role: str, found: Sequence[Worker]) -> Iterator[PoolGraph]:
    by_times: dict[tuple[float, ...], list[Worker]] = {}
    for worker in found:
        if worker.engine.role == role:
            by_times.setdefault(_times(role, worker.tier), []).append(worker)
    for _, alike in sorted(by_times.items()):
        longest = max(worker.engine.context_tokens for worker in alike)
        members = tuple(replace(w, engine=replace(w.engine, context_tokens=longest)) for w in alike)
        tiers = [worker.tier for worker in alike]
        ttft, itl = min(t.ttft_ms for t in tiers), min(map(itl_ms, tiers))
        yield PoolGraph(_pool_name(together, role, tiers), role, ttft, itl, members)


def _times(role: str, tier: TierPlan) -> tuple[float, ...]:
    """What the router tells pools of a role apart by."""
    return {PREFILL: (tier.ttft_ms,), DECODE: (itl_ms(tier),)}.get(role, (itl_ms(tier), tier.ttft_ms))


def _pool_name(together: Together, role: str, tiers: Sequence[TierPlan]) -> str:
    words = dict.fromkeys(slug(tier.name.rpartition("/")[2]) for tier in tiers)
    return graph_name(together, "-".join((*words, role)))


def graph_name(together: Together, part: str) -> str:
    """The name of one graph: the deployment's, shortened so that the part stays whole where it can."""
    own, part = deployment_name(together.any_order), slug(part)[: LABEL_LENGTH - 2].strip("-")
    return f"{own[: max(1, LABEL_LENGTH - len(part) - 1)].strip('-')}-{part}"


# From pools to manifests -----------------------------------------------------------------------


def _graphs(together: Together, kind: str, pools: Sequence[PoolGraph]) -> dict[str, str]:
    """File name to manifest: the front end's, and one for each pool."""
    control = _control(together, kind, pools)
    found = {"control.yaml": render("dynamo/control.yaml.j2", control)}
    for pool in pools:
        found[f"{pool.name}.yaml"] = render("dynamo/pool.yaml.j2", _pool(together, kind, pool))
    for text in found.values():
        for document in yaml.safe_load_all(text):
            if document["kind"] == "DynamoGraphDeployment":
                check_deployment(document)
    return found


def _space(together: Together) -> str:
    """The namespace of Kubernetes, which is part of Dynamo's own names."""
    return namespace_of(together.any_order.settings) or "default"


def dynamo_namespace(together: Together, graph: str) -> str:
    """How Dynamo calls a graph's namespace: the operator makes it of Kubernetes' and the graph's name."""
    return f"{_space(together)}-{graph}"


def _shared(together: Together) -> dict[str, object]:
    settings = together.any_order.settings
    return {
        "namespace": _space(together),
        "checkpoint": verbatim(served_checkpoint(together.any_order)),
        **image_values(settings, framework_of(settings)),
    }


def _control(together: Together, kind: str, pools: Sequence[PoolGraph]) -> dict[str, object]:
    name = graph_name(together, kind)
    slowest = max(pools, key=lambda pool: (pool.itl_ms, pool.ttft_ms))
    first = max(pool.ttft_ms for pool in pools if pool.itl_ms == slowest.itl_ms)
    return {
        **_shared(together),
        "name": name,
        "dynamo_namespace": dynamo_namespace(together, name),
        "config": json.dumps(router_config(together, kind, pools), indent=1),
        "default_ttft_ms": f"{first:g}",
        "default_itl_ms": f"{slowest.itl_ms:g}",
        "managed": [dynamo_namespace(together, pool.name) for pool in pools],
        "max_gpus": str(sum(pool.gpus for pool in pools)),
    }


def router_config(together: Together, kind: str, pools: Sequence[PoolGraph]) -> dict[str, object]:
    """The global router's configuration."""
    if kind == WHOLE:
        first, between = axis([p.ttft_ms for p in pools]), axis([p.itl_ms for p in pools])
        strategy = {
            **_axis("ttft", first.low_ms, first.high_ms, first.buckets),
            **_axis("itl", between.low_ms, between.high_ms, between.buckets),
            "agg_pool_mapping": square(first, between, [(p.ttft_ms, p.itl_ms) for p in pools]),
        }
        return {"mode": "agg", **_named(together, "agg", pools), "agg_pool_selection_strategy": strategy}
    prefill = [pool for pool in pools if pool.role == PREFILL]
    decode = [pool for pool in pools if pool.role == DECODE]
    first, between = axis([p.ttft_ms for p in prefill]), axis([p.itl_ms for p in decode])
    longest = max(w.engine.context_tokens for p in pools for w in p.workers)
    return {
        "mode": "disagg",
        **_named(together, "prefill", prefill),
        **_named(together, "decode", decode),
        "prefill_pool_selection_strategy": {
            **_axis("ttft", first.low_ms, first.high_ms, first.buckets),
            **_lengths("isl", longest),
            "prefill_pool_mapping": [row(first, [p.ttft_ms for p in prefill])],
        },
        "decode_pool_selection_strategy": {
            **_axis("itl", between.low_ms, between.high_ms, between.buckets),
            **_lengths("context_length", longest),
            "decode_pool_mapping": [row(between, [p.itl_ms for p in decode])],
        },
    }


def _axis(name: str, low_ms: float, high_ms: float, buckets: int) -> dict[str, object]:
    return {f"{name}_min_ms": low_ms, f"{name}_max_ms": high_ms, f"{name}_resolution": buckets}


def _lengths(name: str, longest: int) -> dict[str, object]:
    """One bucket: a tier's pools take all of its lengths."""
    return {f"{name}_min": 0, f"{name}_max": longest, f"{name}_resolution": 1}


def _named(together: Together, kind: str, pools: Sequence[PoolGraph]) -> dict[str, object]:
    names = [dynamo_namespace(together, pool.name) for pool in pools]
    return {f"num_{kind}_pools": len(pools), f"{kind}_pool_dynamo_namespaces": names}


def _pool(together: Together, kind: str, pool: PoolGraph) -> dict[str, object]:
    framework = framework_of(together.any_order.settings)
    component = "prefill" if pool.role == PREFILL else "backend"
    own = dynamo_namespace(together, pool.name)
    profile = _profile(pool)
    return {
        **_shared(together),
        "name": pool.name,
        "framework": framework,
        "router_arguments": _local_router(pool.role, f"{own}.{component}.generate", framework),
        "components": list(_components(together, pool, framework)),
        "profile": profile,
        "planner": None if profile is None else _planner(together, kind, pool, framework),
    }


def _local_router(role: str, endpoint: str, framework: str) -> list[str]:
    """As Dynamo's own examples of pools have it: prefill by cached prefixes, decode by load alone."""
    found = ["--endpoint", endpoint, "--router-block-size", str(BLOCK_TOKENS)]
    if framework == "sglang":
        found.append("--no-router-kv-events")
    if role == PREFILL:
        found.append("--no-router-track-active-blocks")
    if role == DECODE:
        found += ["--router-kv-overlap-score-credit", "0"]
    return found


def _components(together: Together, pool: PoolGraph, framework: str) -> Iterator[dict[str, object]]:
    checkpoint = served_checkpoint(together.any_order)
    for k, worker in enumerate(pool.workers, 1):
        made = gpu_component(worker.order.plan, framework, checkpoint, worker.engine, feeds_lpx=False)
        yield {**made, "name": f"{made['name']}-{k}" if len(pool.workers) > 1 else made["name"]}


PLANNER_MODES: Mapping[str, str] = {AGGREGATED: "agg", PREFILL: "prefill", DECODE: "decode"}


def _profile(pool: PoolGraph) -> dict[str, str] | None:
    """What the pool's planner knows of its engine; None for several kinds, or without the model."""
    if len(pool.workers) > 1:
        return None
    (worker,) = pool.workers
    return profile_texts(worker.order, worker.engine)


def _planner(together: Together, kind: str, pool: PoolGraph, framework: str) -> str:
    """The configuration of the planner that scales a pool, through the global one."""
    (worker,) = pool.workers
    mode = PLANNER_MODES[pool.role]
    found: dict[str, object] = {
        "environment": "global-planner",
        "global_planner_namespace": dynamo_namespace(together, graph_name(together, kind)),
        "backend": framework,
        "mode": mode,
        "optimization_target": "sla",
        "throughput_metrics_source": "router",
        "max_gpu_budget": -1,
        "model_name": served_checkpoint(together.any_order),
        "profile_results_dir": "/profile",
    }
    if pool.role != DECODE:
        found["ttft_ms"] = pool.ttft_ms
    if pool.role != PREFILL:
        found["itl_ms"] = pool.itl_ms
    found[f"{'prefill' if pool.role == PREFILL else 'decode'}_engine_num_gpu"] = worker.engine.devices
    return verbatim(json.dumps(found))


# What people must know -------------------------------------------------------------------------


def _rows(together: Together, routers: Mapping[str, Sequence[PoolGraph]]) -> Iterator[dict[str, object]]:
    """Which front end serves a tier, and what its requests must say."""
    for tier in together.fleet.tiers:
        for kind, pools in routers.items():
            mine = [pool.name for pool in pools if tier.name in pool.tiers]
            if mine:
                yield {
                    "tier": tier.name,
                    "graph": graph_name(together, kind),
                    "ttft": f"{tier.ttft_ms:g}",
                    "itl": f"{itl_ms(tier):g}",
                    "pools": ", ".join(mine),
                }


def _split_notes(found: Sequence[Worker]) -> Iterator[str]:
    """Tiers whose requests two front ends share."""
    for name in dict.fromkeys(worker.tier.name for worker in found):
        mine = [w for w in found if w.tier.name == name and w.engine.role != PREFILL]
        whole = sum(w.requests_per_s for w in mine if w.engine.role == AGGREGATED)
        every = sum(w.requests_per_s for w in mine)
        if 0 < whole < every:
            yield (
                f"Tier '{name}' has replicas of both kinds, and a global router is of one: send "
                f"{whole / every:.0%} of its requests to the front end of pools/{WHOLE}, the rest to that of "
                f"pools/{PHASES}."
            )
