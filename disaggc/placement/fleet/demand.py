"""What a fleet is asked for: the model, the machines, and each tier's load, times and demand."""

from __future__ import annotations

from dataclasses import dataclass

from disaggc.cost import Formats
from disaggc.placement.pieces import Pieces
from disaggc.placement.pricing import Limits, Load
from disaggc.targets import System

Fleet = tuple[tuple[System, int], ...]


@dataclass(frozen=True, slots=True)
class Demand:
    """One tier.

    Attributes:
        name: As reported.
        load: What its requests look like.
        limits: Seconds of a decode step and to the first token.
        price_usd_per_mtok: Of output tokens.
        requests_per_s: What is asked for; None for a market that takes whatever is made.
        least_share: The share of that which must be served.
        drafted: The same requests with a draft verified in each step, where a draft model is to be placed.
        drafted_limits: Its times.
    """

    name: str
    load: Load
    limits: Limits
    price_usd_per_mtok: float = 0.0
    requests_per_s: float | None = None
    least_share: float = 1.0
    drafted: Load | None = None
    drafted_limits: Limits | None = None

    @property
    def tokens_per_request(self) -> int:
        """Output tokens of an answer."""
        return self.load.output_tokens

    @property
    def tokens_per_s_per_user(self) -> float:
        """The least rate that a user sees; 0 for any."""
        return self.load.accepted / self.limits.tpot_s if self.limits.tpot_s else 0.0

    @property
    def usd_per_request(self) -> float:
        """What an answer sells for."""
        return self.tokens_per_request * self.price_usd_per_mtok / 1e6

    @property
    def least_requests_per_s(self) -> float:
        """What must be served."""
        return (self.requests_per_s or 0.0) * self.least_share


@dataclass(frozen=True, slots=True)
class Budget:
    """What the fleet may take, beside how many machines there are; None for no limit."""

    power_w: float | None = None
    usd_per_h: float | None = None


@dataclass(frozen=True)
class Wanted:
    """Everything that the fleet solve looks at.

    Attributes:
        pieces: The folded model.
        fleet: Machines, with how many there are.
        tiers: Who wants what.
        formats: Serving formats.
        budget: Power and money.
        draft: The folded draft model, to be placed too; None without one.
    """

    pieces: Pieces
    fleet: Fleet
    tiers: tuple[Demand, ...]
    formats: Formats
    budget: Budget = Budget()
    draft: Pieces | None = None
