"""What the driver tells executors and what they tell it, besides tensors: records that travel as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from disaggc.errors import ExecutorError, nearest
from disaggc.records import structure, unstructure


@dataclass(frozen=True, slots=True)
class Open:
    """First to a process: who it is, and what it opens.

    Attributes:
        secret: Of the run; nothing where the connection itself has proved it.
        plan: The text of its plan.json.
        memory_bytes: What it may allocate; 0 for no limit.
    """

    secret: str
    pool: str
    instance: int
    plan: str
    folder: str
    model_folder: str
    threads: int
    instances: dict[str, int]
    spin_us: int
    traced: bool = False
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """Its answer: what each of its stages reads and writes, in order of ``stages``."""

    secret: str
    stages: tuple[StagePorts, ...]


@dataclass(frozen=True, slots=True)
class StagePorts:
    """The declared inputs and outputs of a stage's subgraph, with their extents."""

    phase: str
    index: int
    inputs: dict[str, tuple[int | str | None, ...]]
    outputs: dict[str, tuple[int | str | None, ...]]


@dataclass(frozen=True, slots=True)
class Connect:
    """To everybody: all stages' ports, from which each works out its own part."""

    stages: tuple[StagePorts, ...]


@dataclass(frozen=True, slots=True)
class Prefill:
    """Take prompts of one length through the prefill stages.

    Attributes:
        group: The new micro-batch.
        tokens: Prompts [rows][length].
        capacity: Tokens that its caches must hold in the end.
        route: Pool to the instance that takes part.
        heirs: Pool to the instance that keeps its states for decode.
        keep_logits: Whether the driver wants them.
    """

    group: int
    tokens: tuple[tuple[int, ...], ...]
    capacity: int
    route: dict[str, int]
    heirs: dict[str, int]
    keep_logits: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """Rows of a micro-batch that go into a new one, and how many tokens of each are cached."""

    group: int
    rows: tuple[int, ...]
    cached: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """Make a micro-batch of rows of others, and take decode steps with it.

    Attributes:
        group: The new micro-batch.
        shares: Where its rows come from, in order.
        tokens: The last token of each row, which is not cached yet.
        capacity: Tokens that its caches must hold in the end.
        route: Pool to the instance that takes part.
        steps: Steps to take.
        keep_logits: Whether the driver wants them.
    """

    group: int
    shares: tuple[Share, ...]
    tokens: tuple[int, ...]
    capacity: int
    route: dict[str, int]
    steps: int
    keep_logits: bool = False


@dataclass(frozen=True, slots=True)
class More:
    """Take further decode steps; only the lead needs to know."""

    group: int
    steps: int


@dataclass(frozen=True, slots=True)
class Close:
    """Forget micro-batches."""

    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """To the driver: a micro-batch cannot go on; ``error`` is a class of ``disaggc.errors``."""

    group: int
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class Broken:
    """To the driver: this process cannot do its work at all."""

    error: str
    text: str


@dataclass(frozen=True, slots=True)
class Reset:
    """Somebody died: forget every micro-batch, answer, and keep off the rings until told."""

    epoch: int


@dataclass(frozen=True, slots=True)
class WasReset:
    """The answer."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Resume:
    """The rings are clear: go on."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Peer:
    """Where an executor on some machine takes connections."""

    pool: str
    instance: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Join:
    """To an executor among machines: make connections with these, within ``seconds``, and go on."""

    epoch: int
    peers: tuple[Peer, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer, with those that it has no connection to and why."""

    epoch: int
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beat:
    """From an executor among machines: it lives, and has done so many pieces of work."""

    work: int


@dataclass(frozen=True, slots=True)
class Report:
    """Say what was done since the last report."""


@dataclass(frozen=True, slots=True)
class StageTally:
    """What a stage did."""

    phase: str
    index: int
    calls: int
    nanoseconds: int


@dataclass(frozen=True, slots=True)
class LinkTally:
    """Activations that went from this pool to another."""

    target: str
    messages: int
    tensors: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Ran:
    """A stage's run: for which micro-batch and step, from when to when on the machine's clock."""

    phase: str
    index: int
    group: int
    step: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Carried:
    """A message that arrived: from which pool, after which stage, and when it left and was read."""

    source: str
    group: int
    step: int
    index: int
    sent_ns: int
    read_ns: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Reported:
    """What an executor did since the last report."""

    pool: str
    instance: int
    stages: tuple[StageTally, ...]
    links: tuple[LinkTally, ...]
    threads: int
    ran: tuple[Ran, ...] = ()
    carried: tuple[Carried, ...] = ()


@dataclass(frozen=True, slots=True)
class Stop:
    """End."""


Command: TypeAlias = (
    Open
    | Opened
    | Connect
    | Prefill
    | Form
    | More
    | Close
    | Failed
    | Broken
    | Reset
    | WasReset
    | Resume
    | Join
    | Joined
    | Beat
    | Report
    | Reported
    | Stop
)

_BY_NAME: dict[str, type[Command]] = {kind.__name__: kind for kind in Command.__args__}


def write_command(command: Command) -> dict[str, Any]:
    """The JSON object that ``read_command`` reads back."""
    return {"command": type(command).__name__, **unstructure(command)}


def read_command(data: Any) -> Command:
    """The command that a JSON object spells.

    Raises:
        ExecutorError: It is none.
    """
    name = data.pop("command", None) if isinstance(data, dict) else None
    if name not in _BY_NAME:
        raise ExecutorError(f"An executor was told '{name}'.{nearest(str(name), _BY_NAME)}")
    return structure(data, _BY_NAME[name], name, ExecutorError)
