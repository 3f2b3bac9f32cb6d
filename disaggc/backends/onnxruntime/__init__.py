"""The onnxruntime bundle: subgraphs cut from the model, with its weights referenced in place.

``tidied`` and ``alive`` say what parts need not compute, ``borrowed`` whose extents they ask, ``boundary``
what crosses between them, ``value_types`` what is declared about it, ``in_blocks`` writes a product as
several of its columns, and ``subgraphs`` makes one ONNX file a part. No weight byte is copied: a subgraph
points into the model's own files, which the runtime opens from the model's folder.
"""

from disaggc.backends.onnxruntime.blocks import Blocks, in_blocks, is_product
from disaggc.backends.onnxruntime.borrowing import borrowed
from disaggc.backends.onnxruntime.making import Made, makeable
from disaggc.backends.onnxruntime.parts import Boundary, Part, boundary
from disaggc.backends.onnxruntime.tidy import Tidied, alive, tidied
from disaggc.backends.onnxruntime.value_types import value_types
from disaggc.backends.onnxruntime.writer import subgraphs, write_models, write_subgraphs

__all__ = [
    "Blocks",
    "Boundary",
    "Made",
    "Part",
    "Tidied",
    "alive",
    "borrowed",
    "boundary",
    "in_blocks",
    "is_product",
    "makeable",
    "subgraphs",
    "tidied",
    "value_types",
    "write_models",
    "write_subgraphs",
]
