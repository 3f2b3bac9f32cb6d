"""The arguments that serving stacks take, by release; published/extract.py says where they come from."""

from __future__ import annotations

import functools
import json
from pathlib import Path


@functools.cache
def accepted(release: str) -> frozenset[str]:
    """Argument names of a release, such as 'vllm-0.33.0'."""
    lists = json.loads((Path(__file__).parent / "published" / "arguments.json").read_text(encoding="utf-8"))
    return frozenset(lists[release]["arguments"])
