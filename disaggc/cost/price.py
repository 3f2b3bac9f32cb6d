"""What one op takes, by its declared rule.

Costs are of what a serving engine does, so that every exporter's way of writing a model costs the
same: experts that are computed and masked count for the tokens that chose them; caches are read
once and written by new tokens, whatever copies an exporter makes of them; weights are read once a
step; element-wise ops and moves are fused into their neighbours and bring no traffic of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from disaggc.cost.rules import CostRule
from disaggc.ir import BATCH, NEW, TOTAL, Cost, Dim, Expr, Mark, Role, State, parse_dim, windowed
from disaggc.ir.graph import Attribute

TRAFFIC = ("gemm", "moe", "norm", "attention", "embedding", "window")
"""Kernel kinds that read and write activations in memory; the others are fused into them."""

Shape = tuple[Dim, ...]


class Operand(NamedTuple):
    """A value as a price sees it; ops of equal operands cost the same.

    Attributes:
        shape: Its extents, None if unknown.
        bits: Stored bits per element, 0 if its type is unknown.
        is_weight: Its elements are weights that a server keeps.
        is_traffic: It crosses memory as an activation, if its op's kernel kind does so.
    """

    shape: Shape | None
    bits: int = 0
    is_weight: bool = False
    is_traffic: bool = True


class Op(NamedTuple):
    """An op with all that its cost hangs on; absent inputs and outputs are None."""

    kind: str
    attributes: tuple[tuple[str, Attribute], ...]
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand | None, ...]
    mark: Mark | None = None
    states: tuple[State, ...] = ()


@dataclass(frozen=True, slots=True)
class Price:
    """A cost, and what is wrong with it.

    Attributes:
        complaint: Why its flops are missing; '' if they are not.
        doubt: What was assumed in counting them; '' for nothing.
    """

    cost: Cost
    complaint: str = ""
    doubt: str = ""


def price(op: Op, rule: CostRule | None) -> Price:
    """What ``op`` takes in one step; an op without a rule takes the bytes that it reads and writes."""
    kind = rule.kind if rule is not None else "elementwise"
    share, routing = _share(op.mark), op.mark.routing if op.mark is not None else None
    plain, experts = _weights(op, rule)
    is_traffic = rule is None or kind in TRAFFIC
    flops, complaint = _flops(op, rule)
    cost = Cost(
        kind=kind,
        flops=flops * share,
        weight_elements=plain,
        expert_elements=experts,
        routing=routing if experts else None,
        activation_in=_traffic(op.inputs) * share if is_traffic else Expr(),
        activation_out=_traffic(op.outputs) * share if is_traffic else Expr(),
        state_read=Expr.total([_kept(s) * _tokens(s) for s in op.states]),
        state_write=Expr.total([_kept(s) * (Expr.of(NEW) if s.axis is not None else 1) for s in op.states]),
    )
    return Price(cost, complaint)


def _share(mark: Mark | None) -> float:
    """The part of the exported work that a server does."""
    if mark is None or not mark.all_tokens or mark.routing is None:
        return 1.0
    return mark.routing.chosen / mark.routing.experts


def _flops(op: Op, rule: CostRule | None) -> tuple[Expr, str]:
    if rule is None:
        return Expr(), f"No cost rule for {op.kind}"
    fused = op.mark is not None and op.mark.role is Role.CORE_ATTENTION
    if fused and rule.kind in ("elementwise", "movement"):
        return Expr(), ""
    try:
        return rule.flops.evaluate(_Bound(op, rule)), ""
    except ValueError as error:
        return Expr(), f"The flops of {op.kind} are unknown ({error})"


@dataclass(frozen=True, slots=True)
class _Bound:
    """An op as a formula sees it."""

    op: Op
    rule: CostRule

    def shape(self, name: str) -> tuple[Expr, ...] | None:
        """Extents of the input or output that the schema calls ``name``."""
        operand = self._operand(name)
        return None if operand is None or operand.shape is None else extents(operand.shape)

    def shapes(self, name: str) -> tuple[tuple[Expr, ...] | None, ...]:
        """Extents of the operands from the input that the schema calls ``name`` on."""
        given = self.op.inputs[self.rule.signature.inputs.index(name) :]
        return tuple(None if o.shape is None else extents(o.shape) for o in given if o is not None)

    def has(self, name: str) -> bool:
        """Whether the input, output or attribute that the schema calls ``name`` is there."""
        return self._operand(name) is not None or name in dict(self.op.attributes)

    def _operand(self, name: str) -> Operand | None:
        signature = self.rule.signature
        inputs = dict(zip(signature.inputs, self.op.inputs, strict=False))
        outputs = dict(zip(signature.outputs, self.op.outputs, strict=False))
        return inputs.get(name) or outputs.get(name)

    def attribute(self, name: str) -> Expr:
        """The op's numeric attribute, or its default; the product of a list of numbers."""
        value = self._value(name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(f"attribute '{name}' is {value!r}, no number")
        return Expr.product(Expr.of(number) for number in numbers if not isinstance(number, str))

    def text(self, name: str) -> str:
        """The op's text attribute, or its default."""
        value = self._value(name)
        if not isinstance(value, str):
            raise ValueError(f"attribute '{name}' is {value!r}, no text")
        return value

    def _value(self, name: str) -> Attribute:
        value = dict(self.op.attributes).get(name, self.rule.defaults.get(name))
        if value is None:
            raise ValueError(f"attribute '{name}' is missing")
        return value

    def symbol(self, name: str) -> Expr:
        """A workload symbol; a window bounds the tokens that attention reads."""
        window = next((s.window for s in self.op.states if s.window is not None), None)
        return windowed(window) if name == TOTAL else Expr.of(name)


def _weights(op: Op, rule: CostRule | None) -> tuple[dict[int, int], dict[int, int]]:
    """Weight elements by bits: those read in any case, and those of routed experts."""
    plain: dict[int, int] = {}
    experts: dict[int, int] = {}
    for operand, slot in _slots(op, rule):
        in_part = rule is not None and slot in rule.rows
        by_routing = _is_routed(op.mark, rule, slot, in_part)
        if operand.is_weight and (by_routing or not in_part):
            target = experts if by_routing else plain
            target[operand.bits] = target.get(operand.bits, 0) + _elements(operand)
    return plain, experts


def _is_routed(mark: Mark | None, rule: CostRule | None, slot: str, in_part: bool) -> bool:
    """Whether the routing decides which elements of an input are read."""
    if mark is None or mark.routing is None:
        return False
    return mark.all_tokens or in_part or (rule is not None and slot in rule.experts)


def _slots(op: Op, rule: CostRule | None) -> Iterator[tuple[Operand, str]]:
    """Inputs with the schema's name of their slot ('' beyond it or without a rule)."""
    names = rule.signature.inputs if rule is not None else ()
    for k, operand in enumerate(op.inputs):
        if operand is not None:
            yield operand, names[k] if k < len(names) else ""


def _elements(operand: Operand) -> int:
    count = 1
    for dim in operand.shape or ():
        assert isinstance(dim, int), "a weight has fixed extents"
        count *= dim
    return count


def _traffic(operands: tuple[Operand | None, ...]) -> Expr:
    moved = (o for o in operands if o is not None and o.is_traffic)
    return Expr.total([Expr.product(extents(o.shape)) for o in moved if o.shape is not None])


@functools.lru_cache(maxsize=4096)
def extents(shape: Shape) -> tuple[Expr, ...]:
    """A shape as expressions."""
    return tuple(parse_dim(d) if isinstance(d, str) else Expr.of(d) for d in shape)


def _kept(state: State) -> Expr:
    """Elements that one token (or, for state of fixed size, one request) keeps, for the batch."""
    return Expr.of(BATCH) * (state.heads * state.width)


def _tokens(state: State) -> Expr:
    return windowed(state.window) if state.axis is not None else Expr.of(1)
