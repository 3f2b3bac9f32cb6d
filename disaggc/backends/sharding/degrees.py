"""Into how many shards each pool is cut: as asked, or as the plan says."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from disaggc.backends.emitters.op_table import Placed
from disaggc.backends.sharding.scheme import Degree
from disaggc.errors import JobError, nearest
from disaggc.ir import Role
from disaggc.plans import Plan

_NETWORK = frozenset({Role.EXPERTS.value, Role.SHARED_EXPERT.value, Role.FFN.value})


def parse_degrees(texts: Sequence[str]) -> dict[str, Degree]:
    """What ``--degree POOL=ep2`` says.

    Raises:
        JobError: It is written in another way, or says one pool twice.
    """
    found: dict[str, Degree] = {}
    for text in texts:
        pool, _, degree = text.rpartition("=")
        match = re.fullmatch(r"(tp|ep)(\d+)", degree)
        if not pool or match is None:
            raise JobError(f"--degree {text}: write the pool's name, tp or ep, and a number: POOL=ep2.")
        if pool in found:
            raise JobError(f"--degree names pool '{pool}' twice. Say it once.")
        found[pool] = Degree("tp" if match[1] == "tp" else "ep", int(match[2]))
    return found


def degrees_of(plan: Plan, ops: Sequence[Placed], asked: Mapping[str, Degree]) -> dict[str, Degree]:
    """The degree of each pool that is cut, from 2 up.

    Args:
        plan: The plan.
        ops: Where each op of it runs.
        asked: What the user wants; nothing for the plan's own degrees.

    Raises:
        JobError: A pool is not there or has no feed-forward network, or nothing is left to be cut.
    """
    roles: dict[str, set[str]] = {pool.name: set() for pool in plan.pools}
    for op in ops:
        roles.setdefault(op.pool, set()).add(op.role)
    for pool, degree in asked.items():
        _check(pool, degree, roles)
    found = dict(asked) or _planned(plan, roles)
    if not found:
        pools = [pool for pool, own in roles.items() if own & _NETWORK]
        named = f" Name one: --degree {pools[0]}=tp2." if pools else ""
        raise JobError(f"The plan has no tensor or expert parallel feed-forward network to share out.{named}")
    return found


def _check(pool: str, degree: Degree, roles: Mapping[str, Collection[str]]) -> None:
    asked = f"--degree {pool}={degree.kind}{degree.shards}"
    if pool not in roles:
        raise JobError(f"{asked}: the plan has no pool '{pool}'.{nearest(pool, roles)}")
    if degree.shards < 2:
        raise JobError(f"{asked} leaves the pool whole. Give 2 shards or more, or leave it out.")
    if not _NETWORK & set(roles[pool]):
        homes = [name for name, own in roles.items() if _NETWORK & set(own)]
        raise JobError(f"{asked}: pool '{pool}' has no feed-forward network; {', '.join(homes)} has.")
    if degree.kind == "ep" and Role.EXPERTS.value not in roles[pool]:
        raise JobError(f"{asked}: pool '{pool}' has no routed experts. Write {pool}=tp{degree.shards}.")


def _planned(plan: Plan, roles: Mapping[str, Collection[str]]) -> dict[str, Degree]:
    found = {}
    for pool in plan.pools:
        own = roles[pool.name]
        if Role.EXPERTS.value in own and pool.parallelism.ep > 1:
            found[pool.name] = Degree("ep", pool.parallelism.ep)
        elif _NETWORK & set(own) and pool.parallelism.tp > 1:
            found[pool.name] = Degree("tp", pool.parallelism.tp)
    return found
