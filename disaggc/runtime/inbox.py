"""How requests reach a scheduler that is at work on another thread, and how they are withdrawn."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from disaggc.runtime.requests import Live


class Inbox:
    """Requests that have come and requests that are no longer wanted; any thread may put some in."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._new: list[Live] = []
        self._unwanted: list[Live] = []
        self._is_closed = False

    def put(self, live: Live) -> None:
        """Let a request begin."""
        with self._changed:
            self._new.append(live)
            self._changed.notify()

    def withdraw(self, live: Live) -> None:
        """Let a request end as it is; what it holds is freed."""
        with self._changed:
            self._unwanted.append(live)
            self._changed.notify()

    def close(self) -> None:
        """Nothing more will come but withdrawals."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def take(self) -> tuple[Sequence[Live], Sequence[Live]]:
        """Those that have come since the last time, and those to be withdrawn."""
        with self._changed:
            new, self._new = self._new, []
            unwanted, self._unwanted = self._unwanted, []
        return new, unwanted

    def wait(self) -> bool:
        """Sleep until something is there; False if it is closed and nothing is."""
        with self._changed:
            self._changed.wait_for(lambda: self._new or self._unwanted or self._is_closed)
            return bool(self._new or self._unwanted)
