"""What a run or a verification gave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from disaggc.report.console import table

if TYPE_CHECKING:  # the report prints what the runtime returns, and needs none of it
    from disaggc.runtime import RunResult, Verification


def run_table(run: RunResult) -> Iterator[RenderableType]:
    """Tokens of each request, and what the phases took."""
    yield table("New tokens", ("request", "tokens"), [(i, ", ".join(map(str, t))) for i, t in enumerate(run.tokens)], left=2)
    yield (
        f"prefill {run.prefill.tokens:,} tokens in {run.prefill.seconds * 1e3:,.1f} ms; decode "
        f"{run.decode.tokens:,} tokens in {run.decode.seconds * 1e3:,.1f} ms ({run.decode.tokens_per_s:,.0f} tokens/s "
        f"on this machine, {run.threads} thread{'s' if run.threads > 1 else ''})"
    )
    for link in run.links:
        yield f"{link.source} -> {link.target}: {link.messages:,} messages, {link.nbytes:,} bytes of activations"
    if run.handed_over:
        yield f"cache handed from prefill to decode: {run.handed_over:,} bytes"


def run_data(run: RunResult) -> dict[str, Any]:
    """The same for programs."""
    return {
        "tokens": [list(t) for t in run.tokens],
        "prefill_seconds": run.prefill.seconds,
        "decode_seconds": run.decode.seconds,
        "decode_tokens_per_s": run.decode.tokens_per_s,
        "handed_over_bytes": run.handed_over,
        "links": [
            {"source": k.source, "target": k.target, "messages": k.messages, "bytes": k.nbytes} for k in run.links
        ],
        "threads": run.threads,
    }


def verification_table(found: Verification) -> Iterator[RenderableType]:
    """Whether the plan's run equals the uncut model's."""
    count = sum(len(t) for t in found.planned.tokens)
    if found.tokens_equal:
        yield f"[green]equal[/]: all {count:,} tokens of {len(found.requests)} requests agree with the uncut model"
    else:
        yield f"[bold red]different[/]: {sum(not r.tokens_equal for r in found.requests)} of {len(found.requests)} requests"
        for i, r in enumerate(found.requests):
            if not r.tokens_equal:
                yield f"  request {i}: first difference at new token {r.first_difference}"
    yield f"largest logit difference {found.difference:.3g} (largest logit {found.magnitude:.3g})"


def verification_data(found: Verification) -> dict[str, Any]:
    """The same for programs."""
    return {
        "tokens_equal": found.tokens_equal,
        "largest_logit_difference": found.difference,
        "largest_logit": found.magnitude,
        "requests": [
            {"tokens_equal": r.tokens_equal, "first_difference": r.first_difference, "difference": r.difference}
            for r in found.requests
        ],
        "tokens": [list(t) for t in found.planned.tokens],
    }
