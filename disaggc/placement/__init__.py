"""Decides: which piece of each layer runs on which pool, with what batch and parallelism, and proves it.

``pieces`` folds a graph into what is placed; ``pricing`` times it on groups of devices; ``formulation``
writes one configuration's problem; ``cut`` solves it exactly (CP-SAT); ``search`` goes through
configurations until none can be better; ``check`` re-prices answers without the solver.
"""

from disaggc.placement.check import Verdict, evaluate
from disaggc.placement.cut import solve
from disaggc.placement.pieces import Piece, Pieces, fold
from disaggc.placement.problem import Assignment, Problem
from disaggc.placement.search import Outcome, Request, search

__all__ = [
    "Assignment",
    "Outcome",
    "Piece",
    "Pieces",
    "Problem",
    "Request",
    "Verdict",
    "evaluate",
    "fold",
    "search",
    "solve",
]
