"""The modes of serving, as restrictions on where pieces may go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from disaggc.cost import AS_STORED, RATES, Formats
from disaggc.errors import JobError
from disaggc.ir import Phase, Role
from disaggc.placement.pieces import Piece, Pieces
from disaggc.placement.pricing import Pricing
from disaggc.placement.problem import Assignment
from disaggc.targets import Device

FEED_FORWARD = (Role.EXPERTS, Role.FFN)


@dataclass(frozen=True, slots=True)
class Mode:
    """A set of plans.

    Attributes:
        name: As reported.
        prefill: The system of all of prefill; '' for any.
        attention: The system of core attention in decode; '' for any.
        feed_forward: The system of FFN and experts in decode; '' for any.
        rest: Where everything else of decode must be; '' for any.
        pools: How many systems such a plan uses.
    """

    name: str
    prefill: str = ""
    attention: str = ""
    feed_forward: str = ""
    rest: str = ""
    pools: tuple[int, ...] = (1, 2)

    def admits(self, systems: Sequence[str]) -> bool:
        """Whether these systems are all that the mode needs."""
        needed = {n for n in (self.prefill, self.attention, self.feed_forward, self.rest) if n}
        return needed <= set(systems) and (not needed or len(self.pools) > 1 or len(systems) == len(needed))

    def wants(self, piece: Piece, phase: Phase) -> str:
        """The system that a piece must be on, '' for any."""
        if phase is Phase.PREFILL:
            return self.prefill
        if piece.role is Role.CORE_ATTENTION:
            return self.attention
        if _is_forward(piece) and piece.bundle == 0:
            return self.feed_forward
        return self.rest


ANY = Mode("any mode")
"""Every plan."""


def modes_of(systems: Sequence[str]) -> list[Mode]:
    """Colocated on each system, P/D and AFD on each ordered pair."""
    modes = [Mode(f"colocated on {s}", s, s, s, s, pools=(1,)) for s in systems]
    pairs = [(a, b) for a in systems for b in systems if a != b]
    modes += [Mode(f"P/D: prefill on {a}, decode on {b}", a, b, b, b, pools=(2,)) for a, b in pairs]
    modes += [Mode(f"AFD: attention on {a}, FFN on {b}", "", a, b, "", pools=(2,)) for a, b in pairs]
    return modes


def modes_called(text: str, systems: Sequence[str]) -> list[Mode]:
    """Those of ``modes_of`` whose name holds ``text``; 'pd' is P/D, and '' holds everywhere.

    Raises:
        JobError: None does.
    """
    modes = modes_of(systems)
    wanted = {"pd": "p/d"}.get(text.lower(), text.lower())
    found = [mode for mode in modes if wanted in mode.name.lower()]
    if not found:
        names = "; ".join(mode.name for mode in modes)
        raise JobError(f"[search] mode = '{text}' is part of no mode's name. The fleet has: {names}.")
    return found


def mode_name(pieces: Pieces, names: Sequence[str], assignment: Assignment) -> str:
    """What kind of plan an assignment is, in the words of ``modes_of``."""
    n = len(pieces.pieces)
    prefill, decode = set(assignment[:n]), set(assignment[n:])
    core = {assignment[n + i] for i, p in enumerate(pieces.pieces) if p.role is Role.CORE_ATTENTION}
    forward = {assignment[n + i] for i, p in enumerate(pieces.pieces) if _is_forward(p)}
    if len(decode) == 1 and prefill == decode:
        return f"colocated on {names[min(decode)]}"
    if len(decode) == 1 and len(prefill) == 1:
        return f"P/D: prefill on {names[min(prefill)]}, decode on {names[min(decode)]}"
    if len(core) == 1 and len(forward - core) == 1:
        return f"AFD: attention on {names[min(core)]}, FFN on {names[min(forward - core)]}"
    layers = {assignment[n + i] for i, p in enumerate(pieces.pieces) if p.in_layers}
    if len(layers) == 1 and len(prefill) == 1:
        return _but_for(pieces, names, assignment, min(layers))
    return f"mixed: prefill on {_listed(names, prefill)}, decode on {_listed(names, decode)}"


def parted_layers(pieces: Pieces, assignment: Assignment) -> str:
    """' in 15 of 30 layers' where only some have their feed-forward apart from attention; else ''."""
    decode = assignment[len(pieces.pieces) :]
    core = {place for p, place in zip(pieces.pieces, decode, strict=True) if p.role is Role.CORE_ATTENTION}
    forward = [(p.count, place) for p, place in zip(pieces.pieces, decode, strict=True) if _is_forward(p)]
    apart = sum(count for count, place in forward if place not in core)
    layers = sum(count for count, _ in forward)
    return f" in {apart} of {layers} layers" if len(core) == 1 and 0 < apart < layers else ""


def _is_forward(piece: Piece) -> bool:
    return piece.role in FEED_FORWARD


def _but_for(pieces: Pieces, names: Sequence[str], assignment: Assignment, home: int) -> str:
    """A plan whose layers decode at one place, and only an embedding, norm or head elsewhere."""
    decode = assignment[len(pieces.pieces) :]
    away: dict[int, list[str]] = {}
    for piece, place in zip(pieces.pieces, decode, strict=True):
        if place != home:
            away.setdefault(place, []).append(piece.role.value)
    told = ", ".join(f"{' and '.join(roles)} on {names[place]}" for place, roles in sorted(away.items()))
    return f"P/D: prefill on {names[assignment[0]]}, decode on {names[home]} but {told}"


def _listed(names: Sequence[str], places: set[int]) -> str:
    return " and ".join(names[p] for p in sorted(places))


def allowed_places(pricing: Pricing, mode: Mode, memory: bool = True) -> tuple[tuple[int, ...], ...]:
    """For each item the places that the mode, the device's formats and (if asked) its memory allow."""
    found = []
    for phase in (Phase.PREFILL, Phase.DECODE):
        for piece in pricing.pieces.pieces:
            wanted = mode.wants(piece, phase)
            found.append(
                tuple(
                    place
                    for place, group in enumerate(pricing.groups)
                    if wanted in ("", group.system.name)
                    and holds(group.device, piece, pricing.formats)
                    and (not memory or _fits_alone(pricing, piece, place))
                )
            )
    return tuple(found)


def holds(device: Device, piece: Piece, formats: Formats) -> bool:
    """Whether a device can hold a piece's weights in their serving format."""
    if formats.weights != AS_STORED:
        return not piece.stored or serving_format(formats) in device.formats
    names = {32: {"fp32"}, 16: {"bf16", "fp16"}, 8: {"fp8", "int8"}, 4: {"fp4", "int4"}}
    return all(names.get(bits, {"fp32"}) & set(device.formats) for bits in piece.stored)


def serving_format(formats: Formats) -> str:
    """The weights' format as devices declare it."""
    return RATES.get(formats.weights, formats.weights)


def _fits_alone(pricing: Pricing, piece: Piece, place: int) -> bool:
    return pricing.weight_bytes(piece, place) <= pricing.usable_bytes(place)
