"""The constants of the time model of one class of devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from disaggc.errors import DeclarationError
from disaggc.targets.checks import check_base, check_rates
from disaggc.targets.figure import Figure

#: The kinds of op that have constants of their own.
KINDS: Final = ("gemm", "attention", "moe", "norm", "embedding", "elementwise")
#: The kinds of node that an interpreting engine starts one by one; 'movement' is every kind without traffic.
NODE_KINDS: Final = (*KINDS, "movement")


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Constants of ``t = t0 + node + ((F/(ec*P))^p + (B/(em*BW))^p)^(1/p)`` per kind of op.

    F are flops, B bytes, P the dense rate in FLOP/s and BW the memory's rate in B/s.

    Attributes:
        name: The file's stem, by which a device refers to it.
        t0: Launch latency of one op.
        p: How sharply the op turns from memory-bound to compute-bound; a large p is max().
        ec: Kind to the share of the dense rate that such an op reaches, in (0, 1].
        em: Kind to the share of the memory bandwidth that such an op reaches, in (0, 1].
        node: Kind of node to the fixed time of one, on engines that start every node of the graph as it is
            written (onnxruntime); empty for those that fuse a role into the kernels of serving.toml.
    """

    name: str
    t0: Figure
    p: Figure
    ec: Mapping[str, Figure]
    em: Mapping[str, Figure]
    node: Mapping[str, Figure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_base("t0", self.t0, "s")
        check_base("p", self.p, "ratio")
        if self.p.value < 1:
            raise DeclarationError(f"'p' must be 1 or more, got {self.p.value:g}.")
        _check_shares("ec", self.ec)
        _check_shares("em", self.em)
        check_rates("node", self.node, NODE_KINDS, "s")

    def __hash__(self) -> int:
        return hash(self.name)


def _check_shares(what: str, shares: Mapping[str, Figure]) -> None:
    check_rates(what, shares, KINDS, "ratio")
    missing = [kind for kind in KINDS if kind not in shares]
    if missing:
        raise DeclarationError(f"'{what}' lacks {', '.join(missing)}; every kind of op needs a share.")
    for kind, share in shares.items():
        if not 0 < share.value <= 1:
            raise DeclarationError(f"'{what}.{kind}' must be above 0 and at most 1, got {share.value:g}.")
