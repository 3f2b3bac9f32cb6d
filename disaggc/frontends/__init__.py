"""The only reader of ONNX files: any exporter's model becomes a ``Graph``.

``open_model`` gives the protobuf that graphs are read from and subgraphs are cut from, so that node
i of the graph is node i of the protobuf. No weight byte is read.
"""

from disaggc.frontends.door import OnnxModel, open_model, sha256
from disaggc.frontends.importing import Imported, ImportOptions, import_config
from disaggc.frontends.reader import read_graph
from disaggc.frontends.schemas import onnx_signatures

__all__ = [
    "ImportOptions",
    "Imported",
    "OnnxModel",
    "import_config",
    "onnx_signatures",
    "open_model",
    "read_graph",
    "sha256",
]
