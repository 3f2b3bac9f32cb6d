"""What a token costs on each of some machines at peak, and which is cheapest for which part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType

from disaggc.cost.ideal import Hourly, cheapest
from disaggc.ir import Graph
from disaggc.passes.token_work import token_work
from disaggc.report.console import table
from disaggc.targets import System


def floors(graph: Graph, systems: Sequence[System], context: int, kv: str) -> Iterator[RenderableType]:
    """A table of US dollars per million tokens, and what it says; nothing without systems.

    Raises:
        TargetError: A system has no declared price.
    """
    found = floors_data(graph, systems, context, kv)
    if not found:
        return
    rows = [(name, *(f"{usd:.3f}" for usd in row.values())) for name, row in found["floors"].items()]
    yield table(
        f"USD per million tokens at peak rates, {context:,} tokens of context; no plan costs less",
        ("system", "attention", "feed-forward"),
        rows,
    )
    attention, feed_forward = found["cheapest"]["attention"], found["cheapest"]["feed_forward"]
    if attention == feed_forward:
        yield f"Both parts are cheapest on {attention}: at these prices nothing is gained by splitting them."
    else:
        yield f"Attention is cheapest on {attention} and feed-forward on {feed_forward}: splitting may pay."


def floors_data(graph: Graph, systems: Sequence[System], context: int, kv: str) -> dict[str, Any]:
    """The same for programs."""
    if not systems:
        return {}
    work = token_work(graph, context, kv)
    machines = {system.name: Hourly.of(system) for system in systems}
    attention, feed_forward = cheapest(work, machines)
    prices = {
        name: {"attention": work.attention_usd(machine), "feed_forward": work.ffn_usd(machine)}
        for name, machine in machines.items()
    }
    return {"floors": prices, "cheapest": {"attention": attention, "feed_forward": feed_forward}}
