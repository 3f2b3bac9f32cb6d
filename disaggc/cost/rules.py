"""Declared cost rules (passes/costs/*.toml), checked against op signatures at load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from disaggc.cost.formula import Formula, parse_formula
from disaggc.errors import DeclarationError, nearest
from disaggc.library import declarations, read_toml
from disaggc.records import structure

KINDS = ("gemm", "attention", "moe", "norm", "embedding", "window", "elementwise", "movement", "free")


class Signature(Protocol):
    """Names of an op's inputs, outputs and attributes, as its schema gives them."""

    @property
    def inputs(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def outputs(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def attributes(self) -> frozenset[str]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class OwnSignature:
    """A signature that a rule declares itself, for ops without a standard schema."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """One [[rule]] as written.

    Attributes:
        ops: Op kinds that it prices.
        kind: Kernel kind, one of ``KINDS``.
        flops: Formula; none means no floating-point work.
        rows: Inputs of which only the looked-up rows are read.
        experts: Inputs that hold routed experts' weights.
        defaults: Values of attributes that an op may leave out.
        why: Why ops of kind 'free' cost nothing; they must say so.
        inputs, outputs, attributes: The signature, for ops without a standard schema.
    """

    ops: tuple[str, ...]
    kind: str
    flops: str = "0"
    rows: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    defaults: dict[str, int | float | str] | None = None
    why: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleFile:
    """One file of passes/costs/."""

    rule: tuple[RuleEntry, ...] = ()
    launches: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class CostRule:
    """How one op is priced, with its signature."""

    op: str
    kind: str
    flops: Formula
    rows: tuple[str, ...]
    experts: tuple[str, ...]
    defaults: Mapping[str, int | float | str]
    signature: Signature


@dataclass(frozen=True, slots=True)
class CostRules:
    """All rules by op kind, and the kernels that a serving engine starts for each role."""

    by_op: Mapping[str, CostRule]
    launches: Mapping[str, int]


def load_rules(standard: Mapping[str, Signature], library: Path | None = None) -> CostRules:
    """All declared rules; a user's file of the same name replaces a shipped one, others go before them.

    Args:
        standard: Signatures of ops of the standard domain.
        library: A user's folder of declarations.

    Raises:
        DeclarationError: A rule names what its op's schema does not have.
    """
    by_op: dict[str, CostRule] = {}
    launches: dict[str, int] = {}
    files = declarations("passes", "costs", library).values()
    for path in sorted(files, key=lambda path: library is not None and path.is_relative_to(library)):
        file = structure(read_toml(path), RuleFile, str(path), DeclarationError)
        launches.update(file.launches or {})
        for entry in file.rule:
            by_op.update((op, _rule(entry, op, standard, path.name)) for op in entry.ops)
    return CostRules(by_op, launches)


def _rule(entry: RuleEntry, op: str, standard: Mapping[str, Signature], where: str) -> CostRule:
    place = f"passes/costs/{where}, op '{op}'"
    if entry.kind not in KINDS:
        raise DeclarationError(f"{place}: Unknown kind '{entry.kind}'.{nearest(entry.kind, KINDS)}")
    if entry.kind == "free" and not entry.why:
        raise DeclarationError(f"{place}: Kind 'free' without a reason. Say why it costs nothing in 'why'.")
    signature = _signature(entry, op, standard, place)
    formula = parse_formula(entry.flops, place)
    _check_names(entry, formula, signature, place)
    return CostRule(op, entry.kind, formula, entry.rows, entry.experts, entry.defaults or {}, signature)


def _check_names(entry: RuleEntry, formula: Formula, signature: Signature, place: str) -> None:
    """Each name must be what the rule takes it for."""
    inputs, attributes = signature.inputs, sorted(signature.attributes)
    operands = (*inputs, *signature.outputs)
    uses = (
        (formula.operands, operands, "input or output"),
        (formula.attributes | (entry.defaults or {}).keys(), attributes, "attribute"),
        (formula.names, (*operands, *attributes), "name"),
        ({*entry.rows, *entry.experts}, inputs, "input"),
        (formula.variadic, inputs[-1:], "last input"),
    )
    for names, known, what in uses:
        for name in sorted(names - set(known)):
            raise DeclarationError(f"{place}: Its schema has no {what} '{name}'.{nearest(name, known)}")


def _signature(entry: RuleEntry, op: str, standard: Mapping[str, Signature], place: str) -> Signature:
    if entry.inputs:
        return OwnSignature(entry.inputs, entry.outputs, frozenset(entry.attributes))
    if op in standard:
        return standard[op]
    raise DeclarationError(
        f"{place}: No schema has this op.{nearest(op, standard)} Or declare its inputs and outputs."
    )
