"""What a run or a verification gave."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.markup import escape

from disaggc.report.console import table

if TYPE_CHECKING:  # the report prints what the runtime returns, and needs none of it
    from disaggc.runtime import RunResult, Verification


def run_table(run: RunResult, texts: Sequence[str] = ()) -> Iterator[RenderableType]:
    """What each request got, as text where there is a tokenizer, and what the phases took."""
    shown = texts or [", ".join(map(str, tokens)) for tokens in run.tokens]
    rows = [(i, escape(text) if i not in run.failures else "[red]failed[/]") for i, text in enumerate(shown)]
    yield table("New tokens", ("request", "text" if texts else "tokens"), rows, left=2)
    yield (
        f"prefill {run.prefill.tokens:,} tokens in {run.prefill.seconds * 1e3:,.1f} ms; decode "
        f"{run.decode.tokens:,} tokens in {run.decode.seconds * 1e3:,.1f} ms "
        f"({run.decode.tokens_per_s:,.0f} tokens/s "
        f"on this machine, {run.threads} thread{'s' if run.threads > 1 else ''})"
    )
    for link in run.links:
        carried = f"{link.messages:,} messages, {link.nbytes:,} bytes of activations"
        yield f"{link.source} -> {link.target}: {carried}"
    if run.handed_over:
        yield f"cache handed from prefill to decode: {run.handed_over:,} bytes"
    if run.restarts:
        yield f"executors lost and replaced: {run.restarts}"


def run_data(run: RunResult, texts: Sequence[str] = ()) -> dict[str, Any]:
    """The same for programs."""
    return {
        "tokens": [list(t) for t in run.tokens],
        "texts": list(texts),
        "prefill_seconds": run.prefill.seconds,
        "decode_seconds": run.decode.seconds,
        "decode_tokens_per_s": run.decode.tokens_per_s,
        "handed_over_bytes": run.handed_over,
        "links": [
            {"source": k.source, "target": k.target, "messages": k.messages, "bytes": k.nbytes}
            for k in run.links
        ],
        "threads": run.threads,
        "failures": {str(index): str(error) for index, error in run.failures.items()},
        "restarts": run.restarts,
    }


def verification_table(found: Verification) -> Iterator[RenderableType]:
    """Whether the plan's run equals the uncut model's."""
    count = sum(len(t) for t in found.planned.tokens)
    if found.tokens_equal:
        requests = f"{len(found.requests)} request{'s' if len(found.requests) != 1 else ''}"
        yield f"[green]equal[/]: all {count:,} tokens of {requests} agree with the uncut model"
    else:
        differing = sum(not r.tokens_equal for r in found.requests)
        yield f"[bold red]different[/]: {differing} of {len(found.requests)} requests"
        for i, r in enumerate(found.requests):
            if not r.tokens_equal:
                yield f"  request {i}: first difference at new token {r.first_difference}"
    yield f"largest logit difference {found.difference:.3g} (largest logit {found.magnitude:.3g})"


def verification_data(found: Verification) -> dict[str, Any]:
    """The same for programs."""
    return {
        "tokens_equal": found.tokens_equal,
        "largest_logit_difference": _finite(found.difference),
        "largest_logit": _finite(found.magnitude),
        "requests": [
            {
                "tokens_equal": r.tokens_equal,
                "first_difference": r.first_difference,
                "difference": _finite(r.difference),
            }
            for r in found.requests
        ],
        "tokens": [list(t) for t in found.planned.tokens],
    }


def _finite(value: float) -> float | None:
    """A number that JSON knows; None for one that is infinite or none."""
    return value if math.isfinite(value) else None
