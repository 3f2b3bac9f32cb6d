"""The whole vocabulary of the compiler: a graph, what is in it, and what passes find out.

A frontend builds a ``Graph`` of ``Node``, ``Value`` and ``Weight``; each pass returns a new graph
with one more annotation filled in: ``workload`` and ``states`` (what flows from step to step),
``marks`` and ``layers`` (what each op is), ``costs`` (what it takes), ``segments`` (what is placed).
Everything is frozen; names are an exporter's and carry no meaning.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from disaggc.ir.dims import Expr

Dim = int | str
"""An extent, or a symbolic expression such as 'batch' or 'past + seq'."""

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


class DType(enum.Enum):
    """An element type by its ONNX name; ``bits`` is its stored width."""

    FLOAT = ("float32", 32)
    DOUBLE = ("float64", 64)
    FLOAT16 = ("float16", 16)
    BFLOAT16 = ("bfloat16", 16)
    FLOAT8E4M3FN = ("float8_e4m3fn", 8)
    FLOAT8E4M3FNUZ = ("float8_e4m3fnuz", 8)
    FLOAT8E5M2 = ("float8_e5m2", 8)
    FLOAT8E5M2FNUZ = ("float8_e5m2fnuz", 8)
    FLOAT8E8M0 = ("float8_e8m0", 8)
    FLOAT6E2M3 = ("float6_e2m3", 6)
    FLOAT6E3M2 = ("float6_e3m2", 6)
    FLOAT4E2M1 = ("float4_e2m1", 4)
    INT64 = ("int64", 64)
    INT32 = ("int32", 32)
    INT16 = ("int16", 16)
    INT8 = ("int8", 8)
    INT4 = ("int4", 4)
    INT2 = ("int2", 2)
    UINT64 = ("uint64", 64)
    UINT32 = ("uint32", 32)
    UINT16 = ("uint16", 16)
    UINT8 = ("uint8", 8)
    UINT4 = ("uint4", 4)
    UINT2 = ("uint2", 2)
    BOOL = ("bool", 8)
    STRING = ("string", 8)
    COMPLEX64 = ("complex64", 64)
    COMPLEX128 = ("complex128", 128)

    def __init__(self, label: str, bits: int) -> None:
        self.label = label
        self.bits = bits

    @property
    def is_float(self) -> bool:
        """Whether it holds real numbers (of any width)."""
        return "float" in self.label


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that flows: its element type and shape, None where nobody declared them."""

    name: str
    dtype: DType | None
    shape: tuple[Dim, ...] | None


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Where a weight's bytes lie: a file relative to the model's folder, offset and length in bytes."""

    location: str
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant tensor. ``file`` is None if its bytes are in the model file itself.

    ``integers`` holds the elements of small integer constants (axes, shapes, the k of TopK):
    structure, not weights.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: WeightFile | None = None
    integers: tuple[int, ...] | None = None

    @property
    def elements(self) -> int:
        """How many elements it has."""
        count = 1
        for dim in self.shape:
            count *= dim
        return count

    @property
    def nbytes(self) -> int:
        """Its size in bytes as stored, sub-byte types packed."""
        return (self.elements * self.dtype.bits + 7) // 8


@dataclass(frozen=True, slots=True)
class Node:
    """One op. An empty string stands for an optional input or output that is absent.

    ``captures`` are values of the graph that its control-flow bodies read.
    """

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=lambda: MappingProxyType({}))
    captures: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The op with its domain: 'MatMul', 'com.microsoft::MoE'."""
        return f"{self.domain}::{self.op}" if self.domain else self.op

    @property
    def reads(self) -> tuple[str, ...]:
        """Every value it reads, absent ones left out."""
        named = self.inputs + self.captures if self.captures else self.inputs
        return named if "" not in named else tuple(name for name in named if name)

    @property
    def writes(self) -> tuple[str, ...]:
        """Every value it writes, absent ones left out."""
        return self.outputs if "" not in self.outputs else tuple(name for name in self.outputs if name)


class Phase(enum.StrEnum):
    """The two phases of inference."""

    PREFILL = "prefill"
    DECODE = "decode"


class Role(enum.StrEnum):
    """What an op is for, in the field's terms."""

    EMBEDDING = "embedding"
    NORM = "norm"
    QKV = "qkv"
    CORE_ATTENTION = "core_attention"
    OUT_PROJECTION = "out_projection"
    ROUTER = "router"
    EXPERTS = "experts"
    SHARED_EXPERT = "shared_expert"
    FFN = "ffn"
    HEAD = "head"
    AUXILIARY = "auxiliary"
    GENERAL = "general"


@dataclass(frozen=True, slots=True)
class Routing:
    """How a mixture of experts picks: ``chosen`` of ``experts`` for each token."""

    experts: int
    chosen: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A node's role, the layer it belongs to (None outside layers) and why we say so.

    Attributes:
        block: The residual block, None outside blocks.
        routing: For routed experts, how they are picked.
        all_tokens: The export computes this for every token and masks; a server computes it for
            ``routing.chosen / routing.experts`` of them.
    """

    role: Role
    layer: int | None
    block: int | None
    evidence: str
    routing: Routing | None = None
    all_tokens: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """A graph input that comes back as a graph output one step later.

    Attributes:
        past: The graph input.
        present: The graph output.
        axis: The axis that counts tokens, or None for state of fixed size.
        in_place: Both may be one buffer, because the op that updates it writes only new tokens.
        heads, width: Elements a token adds to the cache, as heads × width.
        window: The tokens an attention window lets it read, None without a window.
        ring: The cache itself holds only the last ``window`` tokens and is written round and round.
    """

    past: str
    present: str
    axis: int | None
    in_place: bool
    heads: int
    width: int
    dtype: DType
    window: int | None = None
    ring: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """How the graph takes a step: which input is what, and the exporter's symbols for the workload.

    Attributes:
        tokens: The graph input that carries new tokens (ids, or embeddings).
        feeds: Graph input to what it must be fed: 'token_ids', 'position_ids', 'attention_mask',
            'past_lengths' (total - 1 as GroupQueryAttention takes it), 'total_length',
            'write_indices', 'kv_lengths'; '' where unknown.
        symbols: The exporter's symbol to an expression over the four workload symbols.
        logits: The graph output that a next token is taken from.
    """

    tokens: str
    feeds: Mapping[str, str]
    symbols: Mapping[str, Expr]
    logits: str


@dataclass(frozen=True, slots=True)
class Layer:
    """One repeated layer: the class of equal layers it belongs to, and its nodes in that class's order."""

    index: int
    layer_class: int
    nodes: tuple[int, ...]


_NOTHING = Expr()


@dataclass(frozen=True, slots=True)
class Cost:
    """What an op, or a sum of ops, takes in one step, over the workload symbols.

    Attributes:
        flops: Floating-point operations, a multiply-add counted as two.
        weight_elements: Weight elements read whatever the routing, by stored bits per element.
        expert_elements: Weight elements of all routed experts, by stored bits per element.
        routing: The routing of ``expert_elements``, None without experts.
        activation_in, activation_out: Activation elements read and written.
        state_read, state_write: State elements read and written.
        kind: The kind of kernel, which picks efficiencies: 'gemm', 'attention', 'moe', 'norm', ...
    """

    kind: str = "none"
    flops: Expr = _NOTHING
    weight_elements: Mapping[int, int] = field(default_factory=dict)
    expert_elements: Mapping[int, int] = field(default_factory=dict)
    routing: Routing | None = None
    activation_in: Expr = _NOTHING
    activation_out: Expr = _NOTHING
    state_read: Expr = _NOTHING
    state_write: Expr = _NOTHING


@dataclass(frozen=True, slots=True)
class Segment:
    """Nodes that are placed together: one role of one block.

    Attributes:
        index: Its position in execution order.
        role: What it does.
        layer: Its layer, None for embedding, head and other nodes outside layers.
        layer_class: The class of that layer.
        slot: Which segment of its layer it is; equal in all layers of a class.
        nodes: Its nodes, as indices into the graph.
        states: Indices of the states that it reads or writes.
        launches: Kernels that a serving engine starts for it.
    """

    index: int
    role: Role
    layer: int | None
    layer_class: int | None
    slot: int
    nodes: tuple[int, ...]
    states: tuple[int, ...] = ()
    launches: int = 0


@dataclass(frozen=True, slots=True)
class Graph:
    """A model's computation, in a topological order, with what passes have found out."""

    name: str
    source: Path
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    weights: Mapping[str, Weight]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opsets: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    workload: Workload | None = None
    states: tuple[State, ...] = ()
    marks: tuple[Mark, ...] = ()
    layers: tuple[Layer, ...] = ()
    costs: tuple[Cost, ...] = ()
    segments: tuple[Segment, ...] = ()
    bodies: Mapping[int, tuple[Body, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Control-flow node to what it runs."""

    def producers(self) -> dict[str, int]:
        """Value name to the index of the node that writes it."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.writes}

    def consumers(self) -> dict[str, list[int]]:
        """Value name to the indices of the nodes that read it, in order."""
        found: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.reads):
                found.setdefault(name, []).append(i)
        return found


@dataclass(frozen=True, slots=True)
class Body:
    """What a control-flow node runs: a branch of an If, or one trip of a Loop or Scan.

    Attributes:
        attribute: Which of the node's attributes holds it ('then_branch').
        graph: Its computation; what it captures of the outer graph are inputs and weights of its own.
    """

    attribute: str
    graph: Graph
