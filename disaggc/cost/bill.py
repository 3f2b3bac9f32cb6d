"""Sums of costs, evaluated at workload points in the number formats that a server uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from disaggc.errors import JobError, nearest
from disaggc.ir import Cost, Expr, Point, Routing

Array = npt.NDArray[np.float64]

FORMAT_BITS = {
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "mxfp8": 8.25,
    "nvfp4": 4.5,
    "mxfp4": 4.25,
    "int4": 4.5,
}
"""Bits per element, block scales included: nvfp4 has one fp8 scale for 16 elements, mxfp4 and mxfp8
one for 32 (OCP MX 1.0), int4 one fp16 scale for 32."""

RATES = {"nvfp4": "fp4", "mxfp4": "fp4", "mxfp8": "fp8"}
"""Serving formats whose arithmetic devices declare under another name."""

AS_STORED = "as stored"


def format_bits(name: str, stored: float) -> float:
    """Bits per element of a serving format; 'as stored' keeps what the model declares.

    Raises:
        JobError: No such format.
    """
    if name == AS_STORED:
        return stored
    if name not in FORMAT_BITS:
        raise JobError(f"No number format named '{name}'.{nearest(name, FORMAT_BITS)}")
    return FORMAT_BITS[name]


@dataclass(frozen=True, slots=True)
class Formats:
    """Serving formats of weights, caches and activations."""

    weights: str = AS_STORED
    kv: str = AS_STORED
    activations: str = AS_STORED


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a bill comes to at a point (or on a grid of points): flops, and bytes by kind."""

    flops: Array
    weight_bytes: Array
    expert_bytes: Array
    activation_bytes: Array
    state_read_bytes: Array
    state_write_bytes: Array

    @property
    def bytes(self) -> Array:
        """All bytes moved."""
        state = self.state_read_bytes + self.state_write_bytes
        return self.weight_bytes + self.expert_bytes + self.activation_bytes + state

    @property
    def intensity(self) -> Array:
        """Flops per byte moved."""
        return self.flops / np.maximum(self.bytes, 1.0)


@dataclass(frozen=True, slots=True)
class Bill:
    """The sum of many costs. Experts of equal routing are added; a bill has at most one routing.

    Attributes:
        state_bits: Stored bits per element of the state that it touches.
        activation_bits: Stored bits per element of activations.
    """

    flops: Expr
    weight_elements: Mapping[int, int]
    expert_elements: Mapping[int, int]
    routing: Routing | None
    activation_in: Expr
    activation_out: Expr
    state_read: Expr
    state_write: Expr
    state_bits: int = 16
    activation_bits: int = 16

    @classmethod
    def of(cls, costs: Iterable[Cost], state_bits: int = 16, activation_bits: int = 16) -> Bill:
        """The sum of ``costs``."""
        listed = list(costs)
        return cls(
            Expr.total([c.flops for c in listed]),
            _merge(c.weight_elements for c in listed),
            _merge(c.expert_elements for c in listed),
            next((c.routing for c in listed if c.routing is not None), None),
            Expr.total([c.activation_in for c in listed]),
            Expr.total([c.activation_out for c in listed]),
            Expr.total([c.state_read for c in listed]),
            Expr.total([c.state_write for c in listed]),
            state_bits,
            activation_bits,
        )

    def resident_bytes(self, formats: Formats) -> float:
        """Bytes of all weights, experts included, as placed in memory."""
        return _bytes(self.weight_elements, formats) + _bytes(self.expert_elements, formats)

    def experts_resident_bytes(self, formats: Formats) -> float:
        """Bytes of the routed experts' weights."""
        return _bytes(self.expert_elements, formats)

    def amounts(self, point: Point, formats: Formats) -> Amounts:
        """Flops and bytes of one step at ``point``."""
        tokens = np.asarray(point["batch"] * point["new"])
        kv = format_bits(formats.kv, self.state_bits) / 8
        activation = format_bits(formats.activations, self.activation_bits) / 8
        moved = self.activation_in.evaluate(point) + self.activation_out.evaluate(point)
        return Amounts(
            self.flops.evaluate(point),
            np.asarray(_bytes(self.weight_elements, formats)),
            _bytes(self.expert_elements, formats) * hit_share(self.routing, tokens),
            moved * activation,
            self.state_read.evaluate(point) * kv,
            self.state_write.evaluate(point) * kv,
        )


def hit_share(routing: Routing | None, tokens: Array) -> Array:
    """Expected share of experts that at least one of ``tokens`` picks: 1 - (1 - k/E)^tokens.

    Uniform, independent picks; the weights that a step reads are this share of all experts'
    (MegaScale-Infer §3; Janus, whose a_max counts distinct activated experts).
    """
    if routing is None:
        return np.ones_like(tokens)
    miss = 1.0 - routing.chosen / routing.experts
    share: Array = 1.0 - miss**tokens
    return share


def _merge(parts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for part in parts:
        for bits, elements in part.items():
            total[bits] = total.get(bits, 0) + elements
    return total


def _bytes(elements: Mapping[int, int], formats: Formats) -> float:
    return sum(count * format_bits(formats.weights, bits) / 8 for bits, count in elements.items())
