"""The plan: what the compiler decides and every backend, report and executor reads.

``plan.json`` is this model, field for field; ``plans/plan.schema.json`` is its schema. Bytes are
bytes, times are microseconds unless a name says otherwise; a *step* is one token for every
request of the batch (decode) or one whole prompt (prefill).
"""

from __future__ import annotations

from dataclasses import dataclass, field

FORMAT = "disaggc.plan"
VERSION = 1


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model file: its name, never its path, so that a plan is the same wherever it is made.

    The folder where it lay is in ``model.path`` beside plan.json. Weight files are named as the
    model names them, relative to that folder.
    """

    name: str
    file: str
    sha256: str
    nodes: int
    layers: int
    parameters: int
    weight_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StateRef:
    """A tensor that is kept from step to step in the executor of the stages that use it.

    Attributes:
        past: Input of the model and of a stage's subgraph.
        present: Output that becomes ``past`` in the next step.
        dtype: Element type ('float32').
        shape: Extents; a text is one of 'batch', 'cached', 'capacity' or 'total'. The state of a
            request without tokens has extent 0 where 'cached' stands.
        axis: The axis that counts tokens; None for state of fixed size.
        in_place: ``past`` and ``present`` may be bound to one buffer of 'capacity' tokens.
        fixed_capacity: Tokens that the buffer holds where the model itself fixes it.
    """

    past: str
    present: str
    dtype: str
    shape: tuple[int | str, ...]
    axis: int | None
    in_place: bool
    fixed_capacity: int | None = None


@dataclass(frozen=True, slots=True)
class Feed:
    """A model input that the driver computes for each step, from ``kind`` and the lengths.

    Attributes:
        kind: 'token_ids' [batch, new]; 'position_ids' [batch, new]; 'attention_mask' [batch, total]
            of ones; 'past_lengths' [batch] = total - 1; 'total_length' (scalar or [1]);
            'write_indices' [batch] = cached; 'kv_lengths' [batch] = total; 'unknown'.
        shape: Extents; texts are 'batch', 'new', 'cached', 'total'.
    """

    input: str
    kind: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of ops on one pool between two transfers; one subgraph.

    Attributes:
        index: Position in execution order within its phase.
        pool: Name of the pool that executes it.
        layers: First and last layer whose ops it holds; empty for none.
        roles: What its ops do, in order.
        subgraph: Path of the ONNX subgraph, relative to the plan folder; '' if none was written.
        inputs: Values it reads that another stage or the driver provides (states left out).
        outputs: Values it writes that others read, or model outputs (states left out).
        states: Indices into ``Plan.states`` that it reads and writes.
        time_us: Predicted busy time for one micro-batch, conservative.
        bottleneck: 'compute', 'memory', 'latency' or 'collective'.
        launches: Kernels started.
    """

    index: int
    pool: str
    layers: tuple[int, ...]
    roles: tuple[str, ...]
    subgraph: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    states: tuple[int, ...] = ()
    time_us: float = 0.0
    bottleneck: str = ""
    launches: int = 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """Tensors that cross from one pool to another after a stage.

    Attributes:
        after: Index of the stage that wrote the last of them.
        source, target: Pools.
        tensors: Value names.
        bytes_per_token: Payload for one token of one request.
        time_us: Predicted time for one micro-batch, one way.
    """

    after: int
    source: str
    target: str
    tensors: tuple[str, ...]
    bytes_per_token: float
    time_us: float


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """One phase.

    Attributes:
        stages: In execution order.
        transfers: What crosses between them.
        whole_head: The LM head as one stage, where ``stages`` has it in pieces: for an executor that has one
            micro-batch at a time, and so nobody to serve between two pieces. Its index is the first piece's.
    """

    stages: tuple[Stage, ...]
    transfers: tuple[Transfer, ...] = ()
    whole_head: Stage | None = None


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """Bytes on one device of a pool, against its usable capacity."""

    memory: str
    capacity: float
    weights: float
    kv: float
    activations: float
    reserve: float

    @property
    def used(self) -> float:
        """Everything that is placed, the reserve included."""
        return self.weights + self.kv + self.activations + self.reserve


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Degrees within a pool: tensor, data, pipeline and expert parallel."""

    tp: int = 1
    dp: int = 1
    pp: int = 1
    ep: int = 1


@dataclass(frozen=True, slots=True)
class Pool:
    """Devices of one system that do one part of the work.

    Attributes:
        name: Name in this plan, equal to the system's name.
        system: Declared system ('vr-nvl72') and how many of it.
        device: Declared device ('rubin').
        devices: Devices used, of ``available``.
        roles: What it does in each phase ('decode: core_attention').
        utilisation: Busy share of one decode step, conservative.
        weakest: Confidence of the weakest number its price rests on ('M', 'V', 'V2', 'P', 'I').
    """

    name: str
    system: str
    count: int
    device: str
    devices: int
    available: int
    parallelism: Parallelism
    memory: MemoryMap
    roles: tuple[str, ...]
    utilisation: float
    weakest: str


@dataclass(frozen=True, slots=True)
class Interval:
    """A prediction, at both ends.

    Attributes:
        conservative: Every transfer keeps its sender busy.
        optimistic: Every transfer hides behind work.
    """

    conservative: float
    optimistic: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the cost model says the plan will do.

    Attributes:
        tpot_us: Time per output token of a request.
        ttft_us: Time to first token, without queueing.
        tokens_per_s: Of all requests together.
        tokens_per_s_per_user: Of one request.
        bottleneck: What the time per token is limited by.
        path_us: One micro-batch through all stages and transfers of a step.
        tokens_per_s_per_mw: Conservative, over the power of the systems that are used.
        revenue_usd_per_h: Output tokens at the tier's price, conservative, at full load.
    """

    tpot_us: Interval
    ttft_us: Interval
    tokens_per_s: Interval
    tokens_per_s_per_user: Interval
    bottleneck: str
    path_us: float
    tokens_per_s_per_mw: float | None = None
    revenue_usd_per_h: float | None = None


@dataclass(frozen=True, slots=True)
class Alternative:
    """The best plan of another mode, or why there is none.

    Attributes:
        mode: 'colocated on vr-nvl72', 'P/D: prefill on a, decode on b', 'AFD: attention on a, FFN on b', ...
        feasible: Whether any plan of this mode meets the job.
        tokens_per_s, tpot_us: Of its best plan, conservative; of the nearest one if infeasible.
        loss: Share of the chosen plan's objective that it gives up, 0 for the chosen one.
        reason: What it is limited by, or why it was rejected, with the margin.
        tokens_per_s_per_mw: Of its best plan, over the power of the systems that it uses.
    """

    mode: str
    feasible: bool
    chosen: bool
    reason: str
    batch: int | None = None
    micro_batches: int | None = None
    tokens_per_s: float | None = None
    tpot_us: float | None = None
    loss: float | None = None
    tokens_per_s_per_mw: float | None = None


@dataclass(frozen=True, slots=True)
class RoleLoad:
    """What one role of a phase puts on the busiest device of its pool.

    Attributes:
        role: 'core_attention', 'experts', ...
        pool: Where it is.
        count: How often it occurs, mostly once a layer.
        flops, bytes: Of one micro-batch (decode) or one prompt (prefill), all occurrences.
        time_us: Predicted for the same.
        bottleneck: 'compute', 'memory', 'latency' or 'collective'.
        arithmetic: Number format whose rate prices it ('fp8').
        weight_bytes: Its weights on one device.
        cache_bytes: Caches of all requests in flight on one device (decode).
    """

    phase: str
    role: str
    pool: str
    count: int
    flops: float
    bytes: float
    time_us: float
    bottleneck: str
    arithmetic: str
    weight_bytes: float = 0.0
    cache_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Move:
    """What it would bring to move one role to another pool, everything else as planned.

    Attributes:
        source, target: Pools.
        feasible: Whether memory, formats and the tier allow it.
        reason: What forbids it, with numbers, or what would then limit the plan.
        tpot_us: Time per output token, conservative; None where a device cannot hold it.
        loss: Share of the plan's tokens per second that it gives up; None likewise.
    """

    phase: str
    role: str
    source: str
    target: str
    feasible: bool
    reason: str
    tpot_us: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A plan of one mode that no other of that mode beats in both speed and tokens per megawatt.

    The mode's best cut at other batches and degrees of parallelism, priced by the checker; a few for
    each mode.
    """

    mode: str
    tokens_per_s_per_user: float
    tokens_per_s_per_mw: float
    tokens_per_s: float
    batch: int
    micro_batches: int


@dataclass(frozen=True, slots=True)
class FleetOption:
    """A part of the fleet that was searched for the objective.

    Attributes:
        fleet: '1 vr-nvl72 + 2 groq3-lpx'.
        tokens_per_s: The most that it gives; None if no plan on it meets the tier.
        value: The objective, in ``unit``.
        chosen: Whether the plan is for this part.
    """

    fleet: str
    unit: str
    chosen: bool
    tokens_per_s: float | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """Why the answer is right.

    Attributes:
        objective: What was maximised and its value.
        bound: No plan within the declared search space does better than this.
        gap: (bound - value) / bound.
        status: 'optimal' when the checker agrees with the value and the gap is within the tolerance.
        tolerance: Share that a plan may give up for fewer messages between pools.
        candidates: Configurations (pools, parallelism, batch, micro-batches) considered.
        solved: Cut problems solved exactly; the rest were closed by their bound.
        checked: Whether placement/check.py re-priced the answer without the solver.
    """

    objective: str
    value: float
    bound: float
    gap: float
    status: str
    candidates: int
    solved: int
    checked: bool
    solver: str
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """How micro-batches go round.

    Attributes:
        micro_batch: Requests in one micro-batch.
        micro_batches: How many are in flight (ping-pong from 2).
        context_tokens: Context that memory is reserved for, per request.
        input_tokens, output_tokens: Typical request.
        step_tokens: Tokens of a request that one decode step computes (verifies, with a draft).
        tokens_per_step: Tokens that an answer grows by in a step.
        overhead_us: Engine time of a step that nothing else overlaps.
    """

    micro_batch: int
    micro_batches: int
    context_tokens: int
    input_tokens: int
    output_tokens: int
    step_tokens: int = 1
    tokens_per_step: float = 1.0
    overhead_us: float = 0.0


@dataclass(frozen=True, slots=True)
class Goal:
    """The tier: what had to be met.

    Attributes:
        tier: Its name.
        tokens_per_s_per_user: Least speed of one answer.
        ttft_ms: Longest time to first token.
        price_usd_per_mtok: Of a million output tokens.
        objective: 'throughput', 'tokens_per_mw' or 'cost'.
    """

    tier: str
    tokens_per_s_per_user: float
    ttft_ms: float
    price_usd_per_mtok: float | None = None
    objective: str = "throughput"


@dataclass(frozen=True, slots=True)
class Formats:
    """Number formats the plan is priced in, per kind of tensor ('as stored' or a format name)."""

    weights: str = "as stored"
    kv: str = "as stored"
    activations: str = "as stored"


@dataclass(frozen=True, slots=True)
class SharedOps:
    """Ops of one role that are cut in one way.

    Attributes:
        phase: 'decode' or 'prefill'.
        role: What they are for ('experts').
        rule: 'row parallel' (with the column parallel products before it), 'expert parallel', 'expert term'
            (experts written out one by one), 'expert lookup' (their weights looked up and multiplied in a
            batch) or 'tensor parallel experts'. Each gives partial sums.
        ops: How many.
        layers: First and last layer that has one; empty for none.
    """

    phase: str
    role: str
    rule: str
    ops: int
    layers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sharding:
    """How the feed-forward networks of one pool are shared out among executors.

    Attributes:
        pool: Its name before; a ``Pool`` for each shard stands in its place.
        kind: 'tensor parallel' or 'expert parallel'.
        shards: Names of these pools; the first also does what is not shared out.
        ops: What is cut how; shards.csv has every op.
    """

    pool: str
    kind: str
    shards: tuple[str, ...]
    ops: tuple[SharedOps, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was decided, predicted and proven.

    Attributes:
        format, version: What a reader checks first.
        compiler: Version of disaggc that made it.
        model: The model file.
        goal: What the tier asks for.
        formats: Serving formats that it is priced in.
        mode: The kind of plan, as in ``alternatives``.
        pools: What does the work.
        schedule: Batch, micro-batches, and the requests that they are meant for.
        states: Tensors that are kept from step to step.
        feeds: Inputs that the driver computes.
        logits: The output that a next token is taken from.
        decode, prefill: Stages and transfers.
        prediction: What the cost model says of it.
        alternatives: The best plan of each mode, or why there is none; the best first.
        rejections: Those without a plan, as sentences.
        certificate: Why the answer is right.
        weakest: Confidence of the weakest number that predictions rest on ('M', 'V', 'V2', 'P', 'I').
        inferred: Every inferred number among them.
        warnings: What to know of the model.
        fleets: Parts of the fleet that were searched for the objective, the chosen one first.
        loads: What each role puts on one device.
        moves: What moving one role would bring.
        frontier: A few plans of each mode at other speeds.
        sharding: Pools whose feed-forward networks are shared out (``disaggc shard``); mostly none.
        inputs: SHA-256 of each input by name.
        files: SHA-256 of each file of the folder by path.
    """

    format: str
    version: int
    compiler: str
    model: ModelRef
    goal: Goal
    formats: Formats
    mode: str
    pools: tuple[Pool, ...]
    schedule: Schedule
    states: tuple[StateRef, ...]
    feeds: tuple[Feed, ...]
    logits: str
    decode: PhasePlan
    prefill: PhasePlan
    prediction: Prediction
    alternatives: tuple[Alternative, ...]
    rejections: tuple[str, ...]
    certificate: Certificate
    weakest: str
    inferred: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    fleets: tuple[FleetOption, ...] = ()
    loads: tuple[RoleLoad, ...] = ()
    moves: tuple[Move, ...] = ()
    frontier: tuple[FrontierPoint, ...] = ()
    sharding: tuple[Sharding, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
