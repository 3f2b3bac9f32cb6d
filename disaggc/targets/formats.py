"""Number formats, and which published rate a format without one of its own is computed at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from disaggc.errors import DeclarationError, nearest
from disaggc.targets.figure import INFERRED, Confidence, Figure

#: Bits of one element, narrowest first. Formats of one width are not aliases of each other.
FORMATS: Final[Mapping[str, int]] = {
    "fp4": 4,
    "int4": 4,
    "fp8": 8,
    "int8": 8,
    "bf16": 16,
    "fp16": 16,
    "fp32": 32,
}

# A value must survive the way: every int4 fits fp8 (e4m3), int8 does not; so int8 goes to 16 bits.
_WIDER: Final[Mapping[str, tuple[str, ...]]] = {
    "fp4": ("fp4", "fp8", "bf16", "fp16", "fp32"),
    "int4": ("int4", "int8", "fp8", "bf16", "fp16", "fp32"),
    "fp8": ("fp8", "bf16", "fp16", "fp32"),
    "int8": ("int8", "bf16", "fp16", "fp32"),
    "bf16": ("bf16", "fp16", "fp32"),
    "fp16": ("fp16", "bf16", "fp32"),
    "fp32": ("fp32",),
}


def rate_for(number_format: str, published: Mapping[str, Figure]) -> Figure:
    """The dense rate at which a device computes ``number_format``.

    Its own rate where published, else that of the next wider published format, else (only
    narrower ones are published) the widest of these scaled by the ratio of bits, as inferred.

    Args:
        number_format: A key of ``FORMATS``.
        published: Format to dense rate; at least one.

    Raises:
        DeclarationError: There is no such format.
    """
    if number_format not in FORMATS:
        raise DeclarationError(f"No number format named '{number_format}'.{nearest(number_format, FORMATS)}")
    wider = next((name for name in _WIDER[number_format] if name in published), None)
    return published[wider] if wider else _scaled_from_narrower(number_format, published)


def _scaled_from_narrower(number_format: str, published: Mapping[str, Figure]) -> Figure:
    base = max(published, key=lambda name: (FORMATS[name], published[name].si))
    figure = published[base]
    ratio = FORMATS[base] / FORMATS[number_format]
    return Figure(
        value=figure.value * ratio,
        unit=figure.unit,
        source=INFERRED,
        date=figure.date,
        confidence=Confidence.I,
        low=figure.value * ratio / 2,
        high=figure.value * ratio,
        note=f"No rate of {FORMATS[number_format]} bits or more is published: {base} rate x {ratio:g}.",
    )
