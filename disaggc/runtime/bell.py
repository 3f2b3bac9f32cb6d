"""Wakes a process that sleeps: a pipe whose end everybody may write to."""

from __future__ import annotations

import os
import select
from collections.abc import Collection, Sequence
from contextlib import suppress

from disaggc.runtime.arena import ASLEEP, Signs
from disaggc.runtime.ring import fence

_MOST = 4096
"""Rings that are heard at once."""


class Bell:
    """A pipe: its owner waits at one end, others ring at the other."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading = reading
        self.writing = writing

    @classmethod
    def create(cls) -> Bell:
        """A new one; nobody inherits it unasked."""
        bell = cls(*os.pipe())
        os.set_blocking(bell.reading, False)
        os.set_blocking(bell.writing, False)
        return bell

    def ring(self, signs: Signs) -> None:
        """Wake its owner, whose signs these are, if it sleeps; what it is to see was written before."""
        fence()
        if signs[ASLEEP]:
            with suppress(BlockingIOError):  # it was rung thousands of times, and will be heard
                os.write(self.writing, b"\0")

    def silence(self) -> None:
        """Take note of all rings."""
        with suppress(BlockingIOError):
            while len(os.read(self.reading, _MOST)) == _MOST:
                pass

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reading)
        os.close(self.writing)


def wait_readable(descriptors: Sequence[int], seconds: float) -> Collection[int]:
    """Sleep until some of them can be read, or have ended, and say which; at most ``seconds``."""
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poller.poll(max(seconds, 0.0) * 1e3)]
