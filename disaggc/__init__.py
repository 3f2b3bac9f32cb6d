"""disaggc: from an ONNX graph and a fleet to a placement plan for disaggregated LLM inference.

The packages, low to high: ``ir``, ``targets`` and ``plans`` hold the vocabulary; ``frontends``
reads ONNX; ``cost`` prices ops; ``passes`` recognises what a graph is; ``placement`` decides;
``backends`` writes; ``compiler`` is the whole way on one screen; ``runtime`` runs a plan.
"""

__version__ = "0.1.0"
