"""What the page shows, as plain data: no plan, no file and no command line behind it.

Each section of a page is drawn from one of these, so that a page of one plan and a page of a whole
fleet are composed of the same sections.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ROLE_GROUPS = {
    "core_attention": "attention",
    "qkv": "projections",
    "out_projection": "projections",
    "experts": "feed-forward",
    "ffn": "feed-forward",
    "shared_expert": "feed-forward",
    "norm": "norms",
    "router": "norms",
    "embedding": "ends",
    "head": "ends",
}
"""Role to the colour that it shares with its like; 'other' for the rest."""

GROUP_TITLES = {
    "attention": "core attention",
    "projections": "attention projections",
    "feed-forward": "FFN and experts",
    "norms": "norms and router",
    "ends": "embedding and head",
    "other": "other",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said of one tier.

    Attributes:
        short: In a sentence, which opens the rest.
        told: Question to sentences.
    """

    short: str
    told: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Stat:
    """One number of the header.

    Attributes:
        note: What it is compared with.
        met: Whether a demand is met; None without one.
    """

    label: str
    value: str
    note: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The head of a page."""

    kicker: str
    title: str
    sentence: str
    stats: tuple[Stat, ...]
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """A share of a memory; kind is 'weights', 'cache', 'activations' or 'reserve'."""

    kind: str
    bytes: float


@dataclass(frozen=True, slots=True)
class PoolCard:
    """One pool: what it is, what sits there and how full it is.

    Attributes:
        layout: Its parallelism in words.
        duties: Phase and what the pool does in it.
        memory: Name of the memory of one device; ``parts`` fill ``capacity`` bytes of it.
        busy: Share of a decode step.
    """

    name: str
    title: str
    device: str
    devices: int
    available: int
    layout: str
    duties: tuple[tuple[str, str], ...]
    memory: str
    capacity: float
    parts: tuple[MemoryPart, ...]
    busy: float
    confidence: str


@dataclass(frozen=True, slots=True)
class FleetPicture:
    """Pools, what crosses between them, and what is left unused."""

    pools: tuple[PoolCard, ...]
    crossings: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """Devices of a kind of machine that serve one tier; ``series`` picks its colour."""

    devices: int
    series: int
    tip: str


@dataclass(frozen=True, slots=True)
class MachineUse:
    """All used machines of one kind, and who has their devices."""

    system: str
    told: str
    devices: int
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Roof:
    """A rate that arithmetic in a format cannot exceed, FLOP/s."""

    arithmetic: str
    flops_per_s: float


@dataclass(frozen=True, slots=True)
class RolePoint:
    """A role at its intensity (flop/B) and predicted rate (FLOP/s on one device)."""

    role: str
    phase: str
    intensity: float
    flops_per_s: float
    bound_by: str
    time_us: float


@dataclass(frozen=True, slots=True)
class OpClass:
    """All ops of one kind and role in a phase: their sums on one device."""

    phase: str
    role: str
    op: str
    count: int
    flops: float
    bytes: float

    @property
    def intensity(self) -> float | None:
        """Flops a byte; None for what moves nothing of its own or computes nothing."""
        return self.flops / self.bytes if self.flops and self.bytes else None


@dataclass(frozen=True, slots=True)
class Roofline:
    """One pool's device, and what runs on it."""

    pool: str
    device: str
    memory: str
    bytes_per_s: float
    roofs: tuple[Roof, ...]
    points: tuple[RolePoint, ...]
    ops: tuple[OpClass, ...]


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of a timeline: a pool with its pipeline ranks, or a link."""

    name: str
    note: str = ""
    ranks: int = 1
    is_link: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """Something on a lane from one time to another, us."""

    lane: int
    rank: int
    start: float
    end: float
    batch: int
    group: str
    tip: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happens when, from 0 to ``span_us``."""

    title: str
    lanes: tuple[Lane, ...]
    bars: tuple[Bar, ...]
    span_us: float


@dataclass(frozen=True, slots=True)
class Series:
    """The frontier of one mode: tokens/s/user, tokens/s/MW and a note for each point."""

    name: str
    points: tuple[tuple[float, float, str], ...]
    best: tuple[float, float] | None
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Pareto:
    """Speed against efficiency; ``asked`` is the tier's speed."""

    series: tuple[Series, ...]
    asked: float


@dataclass(frozen=True, slots=True)
class Lines:
    """Figures of one unit against one input: a name and its points for each line."""

    input: str
    unit: str
    series: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of a table of facts."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text.

    Attributes:
        numbers: Indices of columns that hold numbers.
        strong: The row that is set off; None for none.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]
    strong: int | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A mode without a plan, and why."""

    mode: str
    reason: str


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One number of a machine with where it comes from."""

    figure: str
    value: str
    interval: str
    confidence: str
    source: str
    title: str
    url: str
    date: str
    note: str


@dataclass(frozen=True, slots=True)
class Sources:
    """The numbers of one system."""

    system: str
    title: str
    rows: tuple[SourceRow, ...]
    counts: tuple[tuple[str, int], ...] = field(default=())
