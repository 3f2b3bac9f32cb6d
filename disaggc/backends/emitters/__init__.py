"""Emitters: a plan in the form that a serving stack or a tool reads.

``emit`` writes one; ``BACKENDS`` lists them. Templates lie in plans/templates/<backend>/.
"""

from disaggc.backends.catalogue import BACKENDS
from disaggc.backends.emitters.emitting import MANIFEST, Emitted, emit
from disaggc.backends.emitters.order import Emitter, Order, Settings, Written
from disaggc.backends.emitters.registry import emitter

__all__ = ["BACKENDS", "MANIFEST", "Emitted", "Emitter", "Order", "Settings", "Written", "emit", "emitter"]
