"""The onnxruntime bundle: subgraphs cut from the model, with its weights referenced in place.

``tidied`` and ``alive`` say what parts need not compute, ``boundary`` what crosses between them,
``value_types`` what is declared about it, and
``write_subgraphs`` writes one ONNX file a part. No weight byte is copied: a subgraph points into
the model's own files, which the runtime opens from the model's folder.
"""

from disaggc.backends.onnxruntime.making import Made, makeable
from disaggc.backends.onnxruntime.parts import Boundary, Part, boundary
from disaggc.backends.onnxruntime.tidy import Tidied, alive, tidied
from disaggc.backends.onnxruntime.value_types import value_types
from disaggc.backends.onnxruntime.writer import write_subgraphs

__all__ = [
    "Boundary",
    "Made",
    "Part",
    "Tidied",
    "alive",
    "boundary",
    "makeable",
    "tidied",
    "value_types",
    "write_subgraphs",
]
