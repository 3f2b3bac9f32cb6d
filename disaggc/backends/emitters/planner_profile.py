"""A profile for Dynamo's planner: what the cost model says of one engine, over lengths and loads.

The planner reads ``selected_prefill_interpolation/raw_data.npz`` (time to first token by prompt length) and
``selected_decode_interpolation/raw_data.npz`` (inter-token latency by use of the cache and context); it
usually gets them by measuring. Times are milliseconds, of an engine as the plan has it; the plan's own
point is among them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disaggc.backends.emitters.op_table import read_ops
from disaggc.backends.emitters.order import Order
from disaggc.backends.emitters.serving import DECODE, PREFILL, Engine
from disaggc.backends.emitters.source_model import model_path, planned_model
from disaggc.cost import Formats, Group
from disaggc.frontends import read_graph
from disaggc.passes import load_pipeline, run
from disaggc.placement.formulation import step_overhead_s
from disaggc.placement.pieces import Pieces, fold
from disaggc.placement.pricing import Load, Pricing

MS = 1e3
POINTS = 8
"""Prompt lengths, and contexts, that are priced."""


@dataclass(frozen=True, slots=True)
class PricedEngine:
    """One engine of a plan, and what prices it."""

    engine: Engine
    order: Order
    pieces: Pieces

    def prefill_s(self, tokens: int) -> float:
        """Seconds that it computes a prompt for."""
        return float(sum(self._pricing(tokens).prefill_seconds[:, 0]))

    def decode_s(self, requests: int, context: int) -> float:
        """Seconds per token of an answer with ``requests`` in flight, each ``context`` tokens long."""
        pricing, schedule = self._pricing(context), self.order.plan.schedule
        rounds = min(schedule.micro_batches, requests)
        path = busy = 0.0
        for piece in self.pieces.pieces:
            seconds = piece.count * float(pricing.decode_times(piece, 0, -(-requests // rounds)).total)
            path += seconds
            busy += seconds * pricing.pipeline_share(piece, 0)
        return (max(path, rounds * busy) + step_overhead_s(pricing.groups)) / schedule.tokens_per_step

    @property
    def kv_tokens(self) -> int:
        """Tokens that the caches of all its ranks hold, in all the memory that nothing else needs."""
        memory, plan = self.engine.pool.memory, self.order.plan
        room = memory.capacity - memory.reserve - memory.weights - memory.activations
        placed = (self.engine.requests or 1) * plan.schedule.context_tokens
        return int(room / memory.kv * placed) * self.engine.dp if memory.kv else placed * self.engine.dp

    def _pricing(self, tokens: int) -> Pricing:
        engine, plan = self.engine, self.order.plan
        group = Group(engine.system, engine.pool.count, engine.tp, engine.dp, engine.pp)
        load = Load(tokens, 0, 0, max(tokens, plan.schedule.context_tokens), plan.schedule.step_tokens)
        formats = Formats(plan.formats.weights, plan.formats.kv, plan.formats.activations)
        return Pricing(self.pieces, (group,), load, formats)


def write_profile(order: Order, engines: tuple[Engine, ...], folder: Path) -> None:
    """Write the profile of a plan's engines into ``folder``.

    Raises:
        ModelError: The model is not at hand.
    """
    pieces = _pieces(order)
    for engine in engines:
        priced = PricedEngine(engine, order, pieces)
        if engine.role != DECODE:
            _save(folder / "selected_prefill_interpolation", **prefill_points(priced))
        if engine.role != PREFILL:
            _save(folder / "selected_decode_interpolation", **decode_points(priced))


def profile_texts(order: Order, engine: Engine) -> dict[str, str] | None:
    """The same of one engine as texts, by the names that a planner looks for; None without the model."""
    if not (order.model_folder / order.plan.model.file).is_file():
        return None
    priced = PricedEngine(engine, order, _pieces(order))
    found = {}
    if engine.role != DECODE:
        found["prefill_raw_data.json"] = _json(prefill_points(priced))
    if engine.role != PREFILL:
        points = decode_points(priced)
        found["decode_raw_data.json"] = _json({**points, "max_kv_tokens": priced.kv_tokens})
    return found


def _json(points: dict[str, object]) -> str:
    return json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in points.items()})


def _pieces(order: Order) -> Pieces:
    graph = run(read_graph(model_path(order), planned_model(order, read_ops(order.folder))), load_pipeline())
    return fold(graph)


def prefill_points(priced: PricedEngine) -> dict[str, object]:
    """Time to first token by length of the prompt."""
    schedule = priced.order.plan.schedule
    lengths = _lengths(schedule.context_tokens, schedule.input_tokens)
    ttft = np.array([priced.prefill_s(length) * MS for length in lengths])
    per_gpu = np.array(lengths) / ttft * MS / priced.engine.devices * priced.engine.dp
    return {"prefill_isl": np.array(lengths), "prefill_ttft": ttft, "prefill_thpt_per_gpu": per_gpu}


def decode_points(priced: PricedEngine) -> dict[str, object]:
    """Inter-token latency by use of the cache and length of the context."""
    schedule, limit = priced.order.plan.schedule, priced.kv_tokens
    planned = schedule.input_tokens + schedule.output_tokens // 2
    in_flight = (priced.engine.requests or 1) * priced.engine.dp
    points = [
        (n, context)
        for context in _lengths(schedule.context_tokens, planned)
        for n in _loads(in_flight, limit // context)
    ]
    requests, contexts = np.array([n for n, _ in points]), np.array([c for _, c in points])
    latency = np.array([priced.decode_s(n, context) * MS for n, context in points])
    return {
        "x_kv_usage": requests * contexts / limit,
        "y_context_length": contexts,
        "z_itl": latency,
        "z_thpt_per_gpu": requests / latency * MS / priced.engine.devices,
        "max_kv_tokens": np.array([limit]),
    }


def _lengths(longest: int, planned: int) -> list[int]:
    """Lengths up to the longest, each as many times the one before it; the plan's own among them."""
    spread = np.geomspace(min(128, longest), longest, POINTS)
    return sorted({planned, *(int(length) for length in spread)})


def _loads(planned: int, most: int) -> list[int]:
    """Requests in flight: powers of two as far as the cache goes, and the plan's own number."""
    powers = [2**k for k in range(max(1, most).bit_length())]
    return sorted({n for n in (*powers, planned) if n <= max(1, most)})


def _save(folder: Path, **arrays: object) -> None:
    folder.mkdir(parents=True)
    with (folder / "raw_data.npz").open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stubs have allow_pickle among the arrays
