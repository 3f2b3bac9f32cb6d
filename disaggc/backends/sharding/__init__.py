"""Sharding, carried out: a plan's tensor and expert parallel networks as executors that each hold a share.

``share_out`` rewrites a plan folder into another. A pool that is cut becomes one pool for each shard, with
graphs and weights of its own; partial sums travel like any activation, and whoever reads one adds its terms
(docs/sharding.md). Here is what knows what:

``cuts``, ``slicing``, ``packed``
    runs of an axis; the same of a constant, by reference where its bytes are contiguous
``columns``, ``rows``, ``experts``, ``terms``, ``linear``
    what follows a split axis; what sums over one; experts in one op, or one by one; what may stay partial
``scheme``, ``segments``
    who computes what of a stage, in which turn; the graphs of those turns
``phase``, ``sending``, ``folder``
    stages, transfers, the plan folder
"""

from disaggc.backends.sharding.degrees import parse_degrees
from disaggc.backends.sharding.folder import share_out
from disaggc.backends.sharding.scheme import Degree

__all__ = ["Degree", "parse_degrees", "share_out"]
