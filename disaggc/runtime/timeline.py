"""A run as a timeline in Chrome's trace format, which Perfetto (ui.perfetto.dev) opens, too.

Two processes are shown: what the executors did here, and what the target machines would do by the
plan's prediction (see ``virtual_clock``). Both begin at zero; their scales are their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from disaggc.errors import JobError
from disaggc.plans import Plan, Stage, Transfer, head_pieces
from disaggc.runtime.results import RunResult
from disaggc.runtime.virtual_clock import Predicted, busy_share, simulate

HERE, THERE = 1, 2
Entry = dict[str, Any]


def write_timeline(plan: Plan, result: RunResult, path: Path) -> int:
    """Write the timeline of a traced run; how many bars it has.

    Raises:
        JobError: The file cannot be written.
    """
    predicted = simulate(plan, result.worked)
    entries = [*_here(plan, result), *_there(plan, result, predicted)]
    document = {
        "traceEvents": entries,
        "displayTimeUnit": "ms",
        "otherData": {
            "model": plan.model.name,
            "plan": plan.mode,
            "predicted_busy_share": dict(busy_share(predicted)),
            "note": "predicted times are for the plan's own micro-batch and context",
        },
    }
    try:
        path.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
    except OSError as error:
        raise JobError(f"Cannot write the timeline to '{path}': {error.strerror}.") from error
    return sum(entry["ph"] == "X" for entry in entries)


def _here(plan: Plan, result: RunResult) -> Iterator[Entry]:
    """Stages that ran and messages that travelled, each executor and each link on a line of its own."""
    yield _name(HERE, "here: what the executors did")
    phases, pieces = {"prefill": plan.prefill, "decode": plan.decode}, _pieces(plan)
    start = min((ran.start_ns for report in result.reports for ran in report.ran), default=0)
    start = min([start, *(c.sent_ns for report in result.reports for c in report.carried)])
    line = 0
    for report in result.reports:
        line += 1
        yield _name(HERE, f"{report.pool}[{report.instance}]", line)
        for ran in report.ran:
            stage = phases[ran.phase].stages[ran.index]
            piece = pieces[ran.phase].get(ran.index, "")
            args = {"micro-batch": ran.group, "step": ran.step, **_about(stage)}
            yield _bar(
                HERE,
                line,
                _title(ran.phase, stage, piece),
                ran.start_ns - start,
                ran.end_ns - ran.start_ns,
                args,
            )
        for source in dict.fromkeys(carried.source for carried in report.carried):
            line += 1
            yield _name(HERE, f"{source} -> {report.pool}[{report.instance}]", line)
            for c in (c for c in report.carried if c.source == source):
                args = {"micro-batch": c.group, "step": c.step, "bytes": c.nbytes}
                yield _bar(HERE, line, f"after {c.index}", c.sent_ns - start, c.read_ns - c.sent_ns, args)


def _there(plan: Plan, result: RunResult, predicted: Sequence[Predicted]) -> Iterator[Entry]:
    """The virtual clock's entries, each pool and each link on a line of its own."""
    yield _name(THERE, "target machines, by the plan's prediction")
    pieces = _pieces(plan)
    lines = {name: i for i, name in enumerate(dict.fromkeys(entry.resource for entry in predicted), 1)}
    for name, line in lines.items():
        yield _name(THERE, name, line)
    for entry in predicted:
        work = result.worked[entry.work]
        args = {"micro-batch": work.group, "step": entry.step, **_about(entry.what)}
        start, duration = entry.start_us * 1e3, (entry.end_us - entry.start_us) * 1e3
        piece = pieces[work.phase].get(entry.what.index, "") if isinstance(entry.what, Stage) else ""
        title = _title(work.phase, entry.what, piece)
        yield _bar(THERE, lines[entry.resource], title, start, duration, args)


def _pieces(plan: Plan) -> dict[str, Mapping[int, str]]:
    """Phase to those of its stages that are pieces of the head."""
    return {"prefill": head_pieces(plan.prefill.stages), "decode": head_pieces(plan.decode.stages)}


def _title(phase: str, what: Stage | Transfer, piece: str) -> str:
    if isinstance(what, Stage):
        does = ", ".join(dict.fromkeys(what.roles)) or "stage"
        return f"{phase} {what.index}: {does}{', ' if piece else ''}{piece}"
    return f"{phase}: after {what.after}"


def _about(what: Stage | Transfer) -> Entry:
    if isinstance(what, Stage):
        layers = f"{what.layers[0]} to {what.layers[-1]}" if what.layers else "none"
        return {"layers": layers, "predicted_us": what.time_us, "bound by": what.bottleneck}
    return {"tensors": ", ".join(what.tensors), "bytes_per_token": what.bytes_per_token}


def _name(process: int, name: str, line: int | None = None) -> Entry:
    kind = "process_name" if line is None else "thread_name"
    return {"ph": "M", "name": kind, "pid": process, "tid": line or 0, "args": {"name": name}}


def _bar(process: int, line: int, name: str, start_ns: float, duration_ns: float, args: Entry) -> Entry:
    return {
        "ph": "X",
        "name": name,
        "pid": process,
        "tid": line,
        "ts": round(start_ns / 1e3, 3),
        "dur": round(max(duration_ns, 0) / 1e3, 3),
        "args": args,
    }
