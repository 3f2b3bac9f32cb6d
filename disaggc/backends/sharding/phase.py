"""One phase of a plan with some pools shared out: its stages, their graphs, and what goes between them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import onnx

from disaggc.backends.emitters.op_table import Placed
from disaggc.backends.sharding.op_work import read_work
from disaggc.backends.sharding.scheme import Degree, Scheme, has_network, scheme_of
from disaggc.backends.sharding.segments import Segment, received, segments_of
from disaggc.backends.sharding.sending import transfers
from disaggc.backends.sharding.stage_graph import ModelValues, StageGraph, check_opset, read_stage
from disaggc.errors import JobError
from disaggc.ir import DType, Phase
from disaggc.plans import PhasePlan, Plan, Stage


@dataclass(frozen=True, slots=True)
class Turn:
    """A stage of the plan that shards carry out.

    Attributes:
        stage: As it stands in the plan.
        model: Its graph.
        origin: The stage of the plan as it was, of which it is a part.
        level: Its turn within that stage.
        shard: Which shard takes it; 0 for what is not shared.
        nodes: Nodes of that stage's subgraph that it computes.
    """

    stage: Stage
    model: onnx.ModelProto
    origin: StageGraph
    level: int
    shard: int
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lowered:
    """A phase after its pools are shared out.

    Attributes:
        plan: Its stages and transfers.
        turns: The stages with their graphs.
        schemes: Subgraph of the plan as it was to how it is shared out.
    """

    plan: PhasePlan
    turns: tuple[Turn, ...]
    schemes: Mapping[str, Scheme]


def shard_name(pool: str, shard: int) -> str:
    """The pool that stands for one shard of a pool."""
    return f"{pool}/{shard}"


class PhaseLowering:
    """Goes through the stages of a phase in order of execution."""

    def __init__(
        self, plan: Plan, folder: Path, model: Path, ops: Sequence[Placed], degrees: Mapping[str, Degree]
    ) -> None:
        """Prepare.

        Args:
            plan: As compiled.
            folder: Its folder.
            model: The model that it was compiled from, if that is still there.
            ops: Where each op runs.
            degrees: Pools to share out.
        """
        self._plan, self._folder, self._degrees = plan, folder, degrees
        self._values = ModelValues(model)
        self._ops: dict[tuple[Phase, int], list[Placed]] = defaultdict(list)
        for op in ops:
            self._ops[op.phase, op.stage].append(op)
        self._origin = {shard_name(p, i): p for p, d in degrees.items() for i in range(d.shards)}
        self._work = read_work(folder)
        self._states = {name: i for i, s in enumerate(plan.states) for name in (s.past, s.present)}
        self._kept = {plan.logits, *(state.present for state in plan.states)}

    def lowered(self, phase: Phase, planned: PhasePlan) -> Lowered:
        """The phase after its pools are shared out.

        Raises:
            JobError: A network can't be cut as asked.
            PlanError: The plan folder is at fault.
        """
        arriving: dict[str, frozenset[int]] = {}
        turns: list[Turn] = []
        schemes: dict[str, Scheme] = {}
        for stage in planned.stages:
            graph = read_stage(self._folder, stage.subgraph, self._ops[phase, stage.index], self._values)
            scheme = self._scheme(stage, graph)
            if scheme is None:
                turns.append(self._whole(stage, graph, arriving))
                continue
            schemes[stage.subgraph] = scheme
            shards = self._degrees[stage.pool].shards
            turns += [self._turn(stage, graph, s) for s in segments_of(graph, scheme, shards, arriving)]
            arriving |= {name: scheme.partial[name] for name in graph.outputs if name in scheme.partial}
        timed = self._timed(turns, schemes, phase)
        return Lowered(
            PhasePlan(
                tuple(t.stage for t in timed),
                tuple(transfers([t.stage for t in timed], _bytes(timed), planned, self._origin)),
            ),
            timed,
            schemes,
        )

    def _timed(self, turns: Sequence[Turn], schemes: Mapping[str, Scheme], phase: Phase) -> tuple[Turn, ...]:
        """The turns with their numbers, and their shares of what the stage was predicted to take."""
        found = []
        for index, turn in enumerate(turns):
            scheme = schemes.get(turn.origin.path)
            share = 1.0 if scheme is None else self._shares(turn.origin, scheme, phase)[turn.level]
            stage = replace(
                turn.stage,
                index=index,
                time_us=turn.stage.time_us * share,
                launches=round(turn.stage.launches * share),
            )
            found.append(replace(turn, stage=stage))
        return tuple(found)

    def _shares(self, graph: StageGraph, scheme: Scheme, phase: Phase) -> dict[int, float]:
        """How a stage's time is spread over its turns: by flops and bytes, half and half."""
        work: dict[int, np.ndarray] = {level: np.zeros(2) for level in scheme.level.values()}
        for i, level in scheme.level.items():
            op = graph.ops[i]
            if op is not None:
                work[level] += self._work.get((phase, op.node), (0.0, 0.0))
        total = np.maximum(sum(work.values()), 1e-30)
        shares = {level: float(np.mean(amount / total)) for level, amount in work.items()}
        return shares if any(shares.values()) else dict.fromkeys(work, 1.0 / len(work))

    def _scheme(self, stage: Stage, graph: StageGraph) -> Scheme | None:
        """How a stage is shared out; None if it stays with its owner."""
        degree = self._degrees.get(stage.pool)
        if degree is None or not has_network(graph):
            return None
        check_opset(graph)
        scheme = scheme_of(graph, degree, self._kept, frozenset(self._states))
        if scheme.faults or not scheme.seeds:
            asked = f"{stage.pool}={degree.kind}{degree.shards}"
            why = next(iter(scheme.faults), f"no way is known to cut '{stage.subgraph}'")
            raise JobError(f"Pool '{stage.pool}' can't be cut as {asked}: {why}. Give another --degree.")
        return scheme

    def _whole(self, stage: Stage, graph: StageGraph, arriving: Mapping[str, frozenset[int]]) -> Turn:
        pool = shard_name(stage.pool, 0) if stage.pool in self._degrees else stage.pool
        model = received(graph.model, arriving)
        nodes = tuple(i for i, op in enumerate(graph.ops) if op is not None)
        return Turn(self._stated(replace(stage, pool=pool), model), model, graph, 0, 0, nodes)

    def _turn(self, stage: Stage, graph: StageGraph, segment: Segment) -> Turn:
        path = PurePosixPath(stage.subgraph)
        name = f"{path.stem}.{segment.level}"
        name += f".{segment.shard}" if segment.is_shared else ""
        segment.model.graph.name = name
        ops = [op for i in segment.nodes if (op := graph.ops[i]) is not None]
        layers = [op.layer for op in ops if op.layer is not None]
        named = replace(
            stage,
            pool=shard_name(stage.pool, segment.shard),
            subgraph=str(path.with_name(f"{name}.onnx")),
            layers=(min(layers), max(layers)) if layers else (),
            roles=tuple(dict.fromkeys(op.role for op in ops if op.role != "auxiliary")) or ("auxiliary",),
        )
        stated = self._stated(named, segment.model)
        return Turn(stated, segment.model, graph, segment.level, segment.shard, segment.nodes)

    def _stated(self, stage: Stage, model: onnx.ModelProto) -> Stage:
        """A stage with the ports that its graph has."""
        inputs = [value.name for value in model.graph.input]
        outputs = [value.name for value in model.graph.output]
        return replace(
            stage,
            inputs=tuple(name for name in inputs if name not in self._states),
            outputs=tuple(name for name in outputs if name not in self._states),
            states=tuple(sorted({self._states[n] for n in (*inputs, *outputs) if n in self._states})),
        )


def _bytes(turns: Sequence[Turn]) -> dict[str, float]:
    """For each value that crosses, the bytes of one token as stored, as far as extents are known."""
    found = {}
    for turn in turns:
        for value in turn.model.graph.output:
            tensor = value.type.tensor_type
            known = [dim.dim_value for dim in tensor.shape.dim if dim.dim_value]
            bits = DType[onnx.TensorProto.DataType.Name(tensor.elem_type)].bits
            found[value.name] = math.prod(known) * bits / 8
    return found
