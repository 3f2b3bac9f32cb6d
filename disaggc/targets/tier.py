"""A price tier: what a token sells for, and how fast it must come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from disaggc.targets.checks import check_base, check_unit
from disaggc.targets.figure import Figure


@dataclass(frozen=True, slots=True)
class Tier:
    """One row of a table of service levels.

    The unit in a field's name is the unit of its ``value``.

    Attributes:
        name: The file's stem and the table's name ('gtc2026/premium').
        price_usd_per_mtok: USD per million output tokens.
        model: The model that the source shows for it, for people.
        context_tokens: Longest context served.
        tokens_per_s_per_user: Least rate that one user sees.
        ttft_ms: Longest time to the first token.
        tps_per_mw: Platform to published tokens/s per MW, to compare a plan with; never an input.
        note: Anything else to know.
    """

    name: str
    price_usd_per_mtok: Figure
    model: str
    context_tokens: Figure
    tokens_per_s_per_user: Figure
    ttft_ms: Figure
    tps_per_mw: Mapping[str, Figure] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        check_unit("price_usd_per_mtok", self.price_usd_per_mtok, "USD/Mtok")
        check_unit("context_tokens", self.context_tokens, "tokens")
        check_unit("tokens_per_s_per_user", self.tokens_per_s_per_user, "tokens/s")
        check_unit("ttft_ms", self.ttft_ms, "ms")
        for platform, figure in self.tps_per_mw.items():
            check_base(f"tps_per_mw.{platform}", figure, "tokens/s/MW")

    def __hash__(self) -> int:
        return hash(self.name)
