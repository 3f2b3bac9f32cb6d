"""Which FFN rank serves which attention rank, written down and proven to be whole.

Hand-written rank maps are what users of attention / FFN disaggregation get wrong most. Ranks of one world:
FFN ranks first, then attention ranks, as vLLM's AFD plugin orders them. With at least as many attention as
FFN ranks, each attention rank has one FFN peer, and peers are consecutive; with fewer, each FFN rank has one
attention peer. Neither ratio need divide: then some ranks have one peer more than others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from disaggc.errors import PlanError
from disaggc.plans import Parallelism

ATTENTION, FFN = "attention", "ffn"
FORMAT = "disaggc.rank_map"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Rank:
    """One process with one device.

    Attributes:
        world: Among all ranks.
        role: 'attention' or 'ffn'.
        rank: Among those of its role: dp_rank * tp + tp_rank.
        pool: Where its device is.
        device: Index of its device within the pool.
        dp_rank, tp_rank: Its place in the role's own parallelism.
        peers: Ranks of the other role that it exchanges activations with.
        micro_batches: Those that it takes part in, in order.
    """

    world: int
    role: str
    rank: int
    pool: str
    device: int
    dp_rank: int
    tp_rank: int
    peers: tuple[int, ...]
    micro_batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """The ranks of one role: a pool and its parallelism."""

    pool: str
    parallelism: Parallelism

    @property
    def size(self) -> int:
        """How many ranks."""
        return self.parallelism.tp * self.parallelism.dp


@dataclass(frozen=True, slots=True)
class RankMap:
    """Every rank of both roles, FFN first."""

    attention_ranks: int
    ffn_ranks: int
    micro_batches: int
    ranks: tuple[Rank, ...]
    format: str = FORMAT
    version: int = VERSION


def rank_map(attention: Side, ffn: Side, micro_batches: int) -> RankMap:
    """The map of two pools; checked."""
    pairs = pairing(attention.size, ffn.size)
    rounds = tuple(range(micro_batches))
    ranks = (
        *_ranks(ffn, FFN, 0, [(f, a) for a, f in pairs], rounds),
        *_ranks(attention, ATTENTION, ffn.size, pairs, rounds),
    )
    found = RankMap(attention.size, ffn.size, micro_batches, ranks)
    check_rank_map(found)
    return found


def pairing(attention: int, ffn: int) -> list[tuple[int, int]]:
    """(attention rank, FFN rank) for each pair that exchanges activations."""
    if attention >= ffn:
        return [(a, a * ffn // attention) for a in range(attention)]
    return [(f * attention // ffn, f) for f in range(ffn)]


def _ranks(
    side: Side, role: str, first: int, pairs: Iterable[tuple[int, int]], rounds: tuple[int, ...]
) -> list[Rank]:
    peers: dict[int, list[int]] = {rank: [] for rank in range(side.size)}
    for own, other in pairs:
        peers[own].append(other)
    tp = side.parallelism.tp
    return [
        Rank(first + rank, role, rank, side.pool, rank, rank // tp, rank % tp, tuple(others), rounds)
        for rank, others in peers.items()
    ]


def check_rank_map(found: RankMap) -> None:
    """Prove that a map is whole.

    Every rank is there once, with a device of its own; every rank has a peer, and is its peer's peer; no
    rank has two peers more than another of its role; all take part in every micro-batch.

    Raises:
        PlanError: It is not; the message names the rank.
    """
    roles = {ATTENTION: found.attention_ranks, FFN: found.ffn_ranks}
    by_role = {role: [rank for rank in found.ranks if rank.role == role] for role in roles}
    if len(found.ranks) != sum(roles.values()) or any(len(by_role[r]) != n for r, n in roles.items()):
        raise PlanError(
            f"The rank map has {len(by_role[ATTENTION])} attention and {len(by_role[FFN])} FFN ranks of "
            f"{len(found.ranks)}; there are {found.attention_ranks} and {found.ffn_ranks}."
        )
    _check_numbers("world", [rank.world for rank in found.ranks])
    for role, ranks in by_role.items():
        _check_numbers(role, [rank.rank for rank in ranks])
        _check_balance(role, ranks)
    _check_devices(found.ranks)
    _check_peers(by_role)
    for rank in found.ranks:
        if rank.micro_batches != tuple(range(found.micro_batches)):
            raise PlanError(f"{_name(rank)} takes part in micro-batches {list(rank.micro_batches)} only.")


def _check_numbers(what: str, numbers: list[int]) -> None:
    twice = [number for number, count in Counter(numbers).items() if count > 1]
    if twice:
        raise PlanError(f"The rank map gives {what} rank {twice[0]} twice.")
    missing = set(range(len(numbers))) - set(numbers)
    if missing:
        raise PlanError(f"The rank map lacks {what} rank {min(missing)}.")


def _check_devices(ranks: Iterable[Rank]) -> None:
    owner: dict[tuple[str, int], Rank] = {}
    for rank in ranks:
        other = owner.setdefault((rank.pool, rank.device), rank)
        if other is not rank:
            raise PlanError(f"{_name(other)} and {_name(rank)} share device {rank.device} of '{rank.pool}'.")


def _check_peers(by_role: dict[str, list[Rank]]) -> None:
    others = {ATTENTION: FFN, FFN: ATTENTION}
    known = {role: {rank.rank: rank for rank in ranks} for role, ranks in by_role.items()}
    for role, ranks in by_role.items():
        for rank in ranks:
            if not rank.peers:
                raise PlanError(f"{_name(rank)} has no {others[role]} peer.")
            for peer in rank.peers:
                if peer not in known[others[role]]:
                    raise PlanError(f"{_name(rank)} has {others[role]} peer {peer}, which is no rank.")
                if rank.rank not in known[others[role]][peer].peers:
                    raise PlanError(f"{_name(rank)} has {others[role]} peer {peer}, which does not have it.")


def _check_balance(role: str, ranks: list[Rank]) -> None:
    counts = [len(rank.peers) for rank in ranks]
    if counts and max(counts) - min(counts) > 1:
        raise PlanError(f"Some {role} rank has {max(counts)} peers, another {min(counts)}.")


def _name(rank: Rank) -> str:
    return f"{'FFN' if rank.role == FFN else 'Attention'} rank {rank.rank}"
