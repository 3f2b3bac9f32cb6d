"""The emitters by name."""

from __future__ import annotations

import importlib

from disaggc.backends.catalogue import BACKENDS
from disaggc.backends.emitters.order import Emitter
from disaggc.errors import JobError, nearest


def emitter(name: str) -> Emitter:
    """The emitter of this name; its module is loaded only now.

    Raises:
        JobError: There is none; the message gives the nearest.
    """
    if name not in BACKENDS:
        raise JobError(f"No backend named '{name}'.{nearest(name, BACKENDS)}")
    module = importlib.import_module(f"disaggc.backends.emitters.{BACKENDS[name][0]}")
    found: Emitter = module.EMITTER
    return found
