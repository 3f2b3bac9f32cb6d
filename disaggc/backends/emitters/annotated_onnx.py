"""The model itself with ONNX multi-device annotations, which any ONNX tool can still read and run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from disaggc.backends.emitters.device_annotations import annotate, check_annotations
from disaggc.backends.emitters.op_table import read_ops
from disaggc.backends.emitters.order import Order, Written
from disaggc.backends.emitters.source_model import place_weights, planned_model


@dataclass(frozen=True, slots=True)
class AnnotatedOnnxEmitter:
    """See the module."""

    takes: ClassVar[frozenset[str]] = frozenset(("model",))

    def emit(self, order: Order, folder: Path) -> Written:
        """Write the model under its own name, with its weight files beside it."""
        ops = read_ops(order.folder)
        model = planned_model(order, ops)
        annotate(model, ops, [pool.name for pool in order.plan.pools])
        check_annotations(model)
        (folder / order.plan.model.file).write_bytes(model.SerializeToString(deterministic=True))
        notes = place_weights(order.plan.model.weight_files, order, folder)
        return Written(notes, "onnx.load; a node's device_configurations say where it runs in each phase")


EMITTER = AnnotatedOnnxEmitter()
