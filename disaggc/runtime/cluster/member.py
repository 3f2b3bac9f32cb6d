"""One executor on some machine, as its driver sees it."""

from __future__ import annotations

from time import monotonic

from disaggc.runtime.channel import Channel, ClosedError
from disaggc.runtime.cluster.hosts import Started
from disaggc.runtime.commands import Beat, Command, Opened, Peer, StagePorts
from disaggc.runtime.messages import Address


class Member:
    """An executor that was started and called."""

    def __init__(self, address: Address, started: Started, channel: Channel) -> None:
        self.address = address
        self.started = started
        self.channel = channel
        self.is_lost = False
        self.stages: tuple[StagePorts, ...] = ()
        self._beaten = self._worked = monotonic()
        self._work = -1

    @property
    def peer(self) -> Peer:
        """Where others reach it."""
        return Peer(*self.address, self.started.host, self.started.port)

    def tell(self, command: Command) -> None:
        """Send it a command; if it is gone, that is noted."""
        if not self.is_lost:
            try:
                self.channel.send(command)
            except ClosedError:
                self.is_lost = True

    def hear(self) -> list[Command]:
        """What it has said, besides that it lives; notes if it is gone."""
        heard: list[Command] = []
        if self.is_lost:
            return heard
        try:
            self.channel.flush()
            heard.extend(self._listened(command) for command in self.channel.receive())
        except ClosedError:
            self.is_lost = True
        return [command for command in heard if not isinstance(command, Beat)]

    def _listened(self, command: Command) -> Command:
        self._beaten = monotonic()
        if isinstance(command, Beat) and command.work != self._work:
            self._work, self._worked = command.work, self._beaten
        elif isinstance(command, Opened):
            self.stages = command.stages
        return command

    def expect(self) -> None:
        """It has something to do from now on; that it was idle or silent before means nothing."""
        self._beaten = self._worked = monotonic()

    def is_silent(self, now: float, deadline_s: float) -> bool:
        """Whether it has shown no sign of life for so long."""
        return now - self._beaten > deadline_s

    def is_idle(self, now: float, deadline_s: float) -> bool:
        """Whether it has done nothing for so long."""
        return now - self._worked > deadline_s

    def let_go(self) -> None:
        """Hang up."""
        self.is_lost = True
        self.channel.close()
