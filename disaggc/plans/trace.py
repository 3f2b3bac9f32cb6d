"""A trace of requests: how long prompts and answers were."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from disaggc.errors import JobError
from disaggc.plans.job import TierSpec

COLUMNS = ("input_tokens", "output_tokens")


def with_trace(tier: TierSpec, root: Path) -> TierSpec:
    """The tier with the mean lengths of its trace; as it is without one.

    Args:
        tier: ``trace`` names a CSV file with columns input_tokens and output_tokens, a request a row.
        root: The folder that the path is relative to.

    Raises:
        JobError: The file cannot be read, lacks a column, or holds something else than whole numbers.
    """
    if not tier.trace:
        return tier
    lengths = [_lengths(row, tier.trace, k + 2) for k, row in enumerate(_rows(root / tier.trace, tier.trace))]
    if not lengths:
        raise JobError(f"Trace '{tier.trace}' holds no request.")
    means = (round(sum(column) / len(lengths)) for column in zip(*lengths, strict=True))
    return replace(tier, **dict(zip(COLUMNS, means, strict=True)))


def _rows(path: Path, name: str) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise JobError(f"Trace '{name}' has no column {missing[0]}. Its first row must name both.")
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise JobError(f"Cannot read trace '{name}': {error}.") from error


def _lengths(row: dict[str, str], name: str, line: int) -> tuple[int, ...]:
    texts = [row[column] or "" for column in COLUMNS]
    if not all(text.strip().isdigit() and int(text) > 0 for text in texts):
        raise JobError(f"Trace '{name}', line {line}: {', '.join(texts)} must be whole numbers above 0.")
    return tuple(map(int, texts))
