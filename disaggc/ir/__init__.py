"""The graph as everything above the frontends sees it: frozen, exporter-neutral, printable."""

from disaggc.ir.dims import BATCH, CACHED, NEW, TOTAL, WORKLOAD_SYMBOLS, Expr, Point, parse_dim, windowed
from disaggc.ir.graph import (
    Cost,
    Dim,
    DType,
    Graph,
    Layer,
    Mark,
    Node,
    Phase,
    Role,
    Routing,
    Segment,
    State,
    Value,
    Weight,
    WeightFile,
    Workload,
)
from disaggc.ir.text import print_graph
from disaggc.ir.verify import verify

__all__ = [
    "BATCH",
    "CACHED",
    "NEW",
    "TOTAL",
    "WORKLOAD_SYMBOLS",
    "Cost",
    "DType",
    "Dim",
    "Expr",
    "Graph",
    "Layer",
    "Mark",
    "Node",
    "Phase",
    "Point",
    "Role",
    "Routing",
    "Segment",
    "State",
    "Value",
    "Weight",
    "WeightFile",
    "Workload",
    "parse_dim",
    "print_graph",
    "verify",
    "windowed",
]
