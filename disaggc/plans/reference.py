"""docs/plan-format.md, generated from the schemas of plans so that the two cannot disagree.

Run ``python -m disaggc.plans.reference > docs/plan-format.md`` after a change of plans/model.py; a test
compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from disaggc.plans.schema import fleet_schema, plan_schema

HEAD = """\
# The plan folder

What `disaggc compile -o DIR` writes. This page is generated from `plans/plan.schema.json`
(`python -m disaggc.plans.reference > docs/plan-format.md`); edit `disaggc/plans/model.py` instead.

- `plan.json`: everything that was decided, predicted and proven; the records below.
- `ops.csv`: every op once per phase.
- `machines.csv`: every number of the fleet's systems that the plan was priced with.
- `subgraphs/*.onnx`: one graph for each stage; weights stay in the model's own files.
- `model.path`: where the model lay; the only file that depends on where the plan was made.

Equal input gives equal bytes. `plan.json` has the SHA-256 of the model and of every other file, is
checked against the schema before anything reads it, and stays under a megabyte for any model. Numbers
have nine significant digits; fields that hold their default are left out. Times are microseconds
unless a name says otherwise.

## ops.csv

`phase, node, name, op, layer, role, pool, stage, flops, bytes`; the last two are of the busiest device
of the pool, for one micro-batch (decode) or one prompt (prefill), and empty for what has no price
(masks, positions, extents).

## machines.csv

`system, figure, value, unit, low, high, confidence, source, date, note`. Rows without a unit are texts
(title, device, memory); `rate.FORMAT` is the rate that prices arithmetic in that format.
"""

FLEET = """\
# The folder of a fleet

What `disaggc compile -o DIR` writes for several tiers: `plan.json` as below; `deployments/NAME/`, an ordinary
plan folder for each kind of replica that decodes; and `job.json`, the job with nothing left open, which
`disaggc explain --one-more` compiles again if it agrees with the plan. Its schema is
`plans/fleet.schema.json`.
"""


def plan_reference() -> str:
    """The page."""
    schema, fleet = plan_schema(), fleet_schema()
    parts = [HEAD, *_records("plan.json", schema, ())]
    parts += [FLEET, *_records("plan.json of a fleet", fleet, tuple(schema["$defs"]))]
    return "\n".join(parts)


def _records(name: str, schema: Mapping[str, Any], known: Sequence[str]) -> Iterator[str]:
    """The record of a whole file, then all that it is made of but what was shown before."""
    yield from _record(name, schema)
    for part, record in schema["$defs"].items():
        if part not in known:
            yield from _record(part, record)


def _record(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    """A heading, what the record is, and a row for each field."""
    yield f"## {name}\n"
    yield f"{_one_line(record.get('description') or record.get('title', ''))}\n"
    yield "| field | type | meaning |"
    yield "|---|---|---|"
    required = set(record.get("required", ()))
    for field, told in record["properties"].items():
        optional = "" if field in required else ", optional"
        yield f"| `{field}` | {_type(told)}{optional} | {_cell(told.get('description', ''))} |"
    yield ""


def _type(told: Mapping[str, Any]) -> str:
    """A field's type in words, with a link where it is another record."""
    if "const" in told:
        return f"`{told['const']!r}`"
    if "$ref" in told:
        name = told["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in told:
        return " or ".join(_type(part) for part in told["anyOf"])
    if told["type"] == "array":
        return f"list of {_type(told['items'])}"
    if told["type"] == "object":
        return f"map to {_type(told['additionalProperties'])}"
    return str(told["type"])


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("``", "`").strip()


if __name__ == "__main__":
    sys.stdout.write(plan_reference())
