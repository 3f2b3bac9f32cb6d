"""How long somebody who waits looks again and again before going to sleep."""

from __future__ import annotations

MOST_NS = 5_000_000
"""Longer waits are slept through: what waking costs is little beside them."""
_MEMORY = 4


class Patience:
    """Twice as long as waits of late took, so that most end without sleep; no longer than is worth it.

    Waking a sleeping process takes tens of microseconds, and hundreds on a virtual machine whose idle
    cores are halted: as long as a stage.
    """

    def __init__(self, least_ns: int) -> None:
        """Begin.

        Args:
            least_ns: What is looked for at least; 0 to sleep at once, whatever waits take.
        """
        self._least = least_ns
        self._usual = float(least_ns)

    @property
    def ns(self) -> int:
        """How long to look this time."""
        usual = int(2 * self._usual)
        return max(self._least, usual) if self._least and usual <= MOST_NS else self._least

    def waited(self, ns: int) -> None:
        """Note how long a wait took, asleep or not."""
        self._usual += (min(ns, MOST_NS) - self._usual) / _MEMORY
