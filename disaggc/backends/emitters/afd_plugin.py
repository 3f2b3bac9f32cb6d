"""vLLM's AFD plugin (vllm-project/afd-plugin): attention on one GPU pool, experts on another.

The plugin cuts at the experts and nowhere else, takes one or two micro-batches, and its CUDA connector
wants a whole number of attention ranks for each FFN rank. What a plan has otherwise is refused, or told.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from disaggc.backends.emitters.engine_arguments import vllm_arguments, vllm_transfer
from disaggc.backends.emitters.order import Order, Written, write_texts
from disaggc.backends.emitters.rank_map import ATTENTION, FFN, RankMap, Side, rank_map
from disaggc.backends.emitters.serving import (
    CUT_ITSELF,
    DECODE,
    PREFILL,
    Engine,
    Shape,
    engine_on,
    format_notes,
    is_nvidia_gpu,
    roles_on,
    served_checkpoint,
    shape_of,
    who_divides,
)
from disaggc.backends.emitters.templates import render
from disaggc.backends.emitters.vllm import check_ranks
from disaggc.errors import JobError, PlanError
from disaggc.ir import Role
from disaggc.placement.pricing import PREFILL_CHUNK
from disaggc.plans import Pool

P2P = "P2pNcclAFDConnector"
OWN = "own"
CONNECTORS = (P2P, OWN)
PORT = 6239
"""Where ranks meet; the plugin takes one port more for each FFN rank."""

_ON_FFN = {Role.EXPERTS.value, Role.ROUTER.value}
"""What the plugin can run on FFN ranks."""


@dataclass(frozen=True, slots=True)
class AfdPluginEmitter:
    """See the module."""

    takes: ClassVar[frozenset[str]] = frozenset(("checkpoint", "connector", "node_devices"))

    def emit(self, order: Order, folder: Path) -> Written:
        """Write rank_map.json and, for the plugin's own connector, a configuration and script a role."""
        connector = order.settings.connector or P2P
        if connector not in CONNECTORS:
            raise JobError(f"--connector '{connector}' is none of {', '.join(CONNECTORS)}.")
        shape = shape_of(order.plan)
        attention, ffn = _sides(order, shape)
        found = rank_map(_side(attention), _side(ffn), order.plan.schedule.micro_batches)
        texts = {"rank_map.json": json.dumps(dataclasses.asdict(found), indent=1) + "\n"}
        if connector == P2P:
            _check_plugin(order, found, attention, ffn)
            prefill = _prefill_pool(order, shape, attention, ffn)
            texts |= _role_files(order, found, {ATTENTION: attention, FFN: ffn}, prefill)
        write_texts(folder, texts)
        start = "AFD_HOST=FIRST_FFN_NODE bash ffn.sh, and bash attention.sh, in either order"
        return Written(
            (*format_notes(order.plan), *_deviations(order, shape, attention, ffn)),
            start if connector == P2P else "read rank_map.json",
        )


EMITTER = AfdPluginEmitter()


def _sides(order: Order, shape: Shape) -> tuple[Pool, Pool]:
    """The pools of attention and of experts.

    Raises:
        PlanError: They are one, or not of GPUs.
    """
    name = f"Backend 'afd-plugin' cannot express this plan ({order.plan.mode})"
    if not shape.is_split_by_side:
        whole = shape.is_colocated or shape.is_split_by_phase
        cure = "Use --backend vllm, sglang or dynamo." if whole else who_divides(order, shape)
        raise PlanError(f"{name}: attention and experts are not on two pools. {cure}")
    attention, ffn = order.pool(shape.attention[0]), order.pool(shape.feed_forward[0])
    for pool in (attention, ffn):
        device = order.system(pool).device
        if not is_nvidia_gpu(device):
            raise PlanError(
                f"{name}: pool '{pool.name}' is of {device.vendor} {device.name}, no CUDA device. Use "
                f"--backend dynamo for LPX racks; {CUT_ITSELF}"
            )
        if pool.parallelism.pp > 1:
            raise PlanError(
                f"{name}: pool '{pool.name}' is a pipeline of {pool.parallelism.pp} stages. {CUT_ITSELF}"
            )
    if Role.EXPERTS.value not in roles_on(order.plan.decode, ffn.name):
        raise PlanError(
            f"{name}: the plugin cuts at the experts, and the model has none on '{ffn.name}'. {CUT_ITSELF}"
        )
    return attention, ffn


def _side(pool: Pool) -> Side:
    return Side(pool.name, pool.parallelism)


def _check_plugin(order: Order, found: RankMap, attention: Pool, ffn: Pool) -> None:
    """What the plugin's CUDA connector asks of a topology.

    Raises:
        PlanError: The plan does not have it.
    """
    a, f = found.attention_ranks, found.ffn_ranks
    if a % f:
        raise PlanError(
            f"{P2P} wants a whole number of attention ranks for each FFN rank; '{attention.name}' has {a}, "
            f"'{ffn.name}' {f}. Change the fleet, or add --connector own for the rank map alone."
        )
    if order.plan.schedule.micro_batches > 2:
        raise PlanError(
            f"The AFD plugin takes one or two micro-batches; the plan has "
            f"{order.plan.schedule.micro_batches}. Compile with [search] micro_batches = [1, 2]."
        )


def _role_files(order: Order, found: RankMap, pools: dict[str, Pool], prefill: Pool | None) -> dict[str, str]:
    """Configuration and script of each role, and those of engines that prefill apart."""
    router = Role.ROUTER.value in roles_on(order.plan.decode, pools[ATTENTION].name)
    texts = {}
    for role, pool in pools.items():
        config = {
            "role": role,
            "connector": P2P,
            "host": "127.0.0.1",
            "port": PORT,
            "num_attention_ranks": found.attention_ranks,
            "num_ffn_ranks": found.ffn_ranks,
            "compute_gate_on_attention": router,
        }
        texts[f"{role}.json"] = json.dumps({"afd": config}, indent=1) + "\n"
        engine = engine_on(order, pool.name, DECODE)
        arguments = _rank_arguments(order, engine, receives=prefill is not None and role == ATTENTION)
        values = _launch_values(order, role, engine, arguments)
        texts[f"{role}.sh"] = render("afd-plugin/launch.sh.j2", values)
    if prefill is not None:
        engine = engine_on(order, prefill.name, PREFILL)
        arguments = [*vllm_arguments(engine, order.plan), *vllm_transfer(engine)]
        values = _launch_values(order, PREFILL, engine, arguments)
        texts["prefill.sh"] = render("vllm/launch.sh.j2", values)
        texts["router.sh"] = render("vllm/router.sh.j2", {"splits_phases": True})
    return texts


def _rank_arguments(order: Order, engine: Engine, receives: bool) -> list[str]:
    """Of attention or FFN ranks; FFN ranks take as many tokens as attention ranks send.

    Args:
        order: What is emitted.
        engine: The ranks.
        receives: Whether caches arrive from engines that prefill apart.
    """
    both = dataclasses.replace(engine, batched_tokens=PREFILL_CHUNK)
    found = [*vllm_arguments(both, order.plan), "--enforce-eager"]
    if order.plan.schedule.micro_batches == 2:
        found.append("--enable-dbo")
    return found + (vllm_transfer(engine) if receives else [])


def _launch_values(order: Order, role: str, engine: Engine, arguments: list[str]) -> dict[str, object]:
    check_ranks(engine)
    return {
        "role": role,
        "checkpoint": served_checkpoint(order),
        "arguments": arguments,
        "engine": engine,
        "splits_engine": engine.nodes > 1 and engine.local_dp > 0,
        "splits_ranks": engine.nodes > 1 and engine.local_dp == 0,
        "transfers": "--kv-transfer-config" in arguments,
    }


def _prefill_pool(order: Order, shape: Shape, attention: Pool, ffn: Pool) -> Pool | None:
    """The pool that prefills apart from both others; None if these prefill, too.

    Raises:
        PlanError: It is no CUDA device.
    """
    if len(shape.prefill) != 1 or shape.prefill[0] in (attention.name, ffn.name):
        return None
    pool = order.pool(shape.prefill[0])
    if not is_nvidia_gpu(order.system(pool).device):
        raise PlanError(
            f"Backend 'afd-plugin' cannot express this plan ({order.plan.mode}): it prefills on "
            f"'{pool.name}', no CUDA device. {CUT_ITSELF}"
        )
    return pool


def _deviations(order: Order, shape: Shape, attention: Pool, ffn: Pool) -> tuple[str, ...]:
    """Where the plugin's ranks do other things than the plan has them do."""
    notes = ["The plugin runs DeepSeek V2, V3 and V3.2 on vLLM 0.26.0; across nodes it is not verified."]
    if order.copies > 1:
        notes.append(f"The fleet has {order.copies} of these: start each with an AFD_HOST of its own.")
    for name in shape.decode:
        allowed = _ON_FFN if name == ffn.name else ()
        moved = [role for role in roles_on(order.plan.decode, name) if role not in allowed]
        if moved and name != attention.name:
            notes.append(
                f"The plan has {', '.join(moved)} on '{name}', which the plugin runs on attention ranks."
            )
    alone = _prefill_pool(order, shape, attention, ffn)
    if alone is None and set(shape.prefill) != set(shape.decode):
        notes.append(
            f"The plan prefills on {', '.join(shape.prefill)} alone; these engines divide prefill, too, so "
            f"that time to first token differs from the plan's."
        )
    return tuple(notes)
