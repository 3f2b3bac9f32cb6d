"""Executors on machines, as one transport: orders and results to and from the driver, activations among them.

Each round of connections is an *epoch*. When somebody is lost, all connections are dropped, who is
gone is started again, wherever there is room, and a new epoch begins: nothing of the last one can
arrive in it.
"""

from __future__ import annotations

import secrets
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TypeVar

from disaggc.errors import DisaggcError, ExecutorError
from disaggc.plans import Plan, dump_plan
from disaggc.runtime.bell import wait_readable
from disaggc.runtime.channel import Channel
from disaggc.runtime.cluster.handshake import HandshakeError, Hello, dial
from disaggc.runtime.cluster.hosts import Hosts
from disaggc.runtime.cluster.member import Member
from disaggc.runtime.cluster.sockets import Sockets
from disaggc.runtime.commands import (
    Broken,
    Command,
    Connect,
    Failed,
    Join,
    Joined,
    Open,
    Opened,
    Report,
    Reported,
    Reset,
    StagePorts,
    Stop,
    WasReset,
)
from disaggc.runtime.execution import Execution
from disaggc.runtime.handles import addresses_of
from disaggc.runtime.messages import Address
from disaggc.runtime.ports import wirings
from disaggc.runtime.processes import SPIN_US, STARTS
from disaggc.runtime.scheduler import error_of
from disaggc.runtime.transport import Event, Lost, Order, result_of
from disaggc.runtime.wiring import Phase, Wiring

T = TypeVar("T", bound=Command)

JOIN_S = 10.0
"""For all connections of an executor."""
FATE_S = 2.0
"""How long to wait for word of how an executor ended."""
STOP_S = 2.0
_NAP_S = 0.25
_UNSENT_NAP_S = 1e-3


class Cluster:
    """A transport over processes of many machines."""

    is_parallel = True

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        model_folder: Path,
        instances: Mapping[str, int],
        threads: int,
        execution: Execution,
        hosts: Hosts,
    ) -> None:
        """Start all executors and let them open their stages.

        Args:
            plan: The plan.
            folder: The plan folder, at this path on every machine.
            model_folder: The folder that weight files are relative to, likewise.
            instances: Executors of each pool.
            threads: Threads that each computes with.
            execution: Deadlines, and how to wait.
            hosts: The machines; closed with this transport.

        Raises:
            ExecutorError: They cannot be started, or cannot reach each other.
            DisaggcError: What one of them found wrong with the plan or its weights.
        """
        self.instances = dict(instances)
        self._addresses = addresses_of(instances)
        self._execution = execution
        self._secret = secrets.token_hex(32)
        self._open = _open_order(plan, folder, model_folder, instances, threads, execution)
        self._hosts = hosts
        self._members: dict[Address, Member] = {}
        self._sockets = Sockets(lambda _group, _step: False, lambda: None)
        self._epoch = 0
        self._end = weakref.finalize(self, _end, self._members, self._sockets, hosts)
        with ExitStack() as stack:
            stack.callback(self._end)
            self._assemble()
            self.wirings: dict[Phase, Wiring] = wirings(plan, self._stages())
            stack.pop_all()

    @property
    def members(self) -> Mapping[Address, Member]:
        """All executors."""
        return self._members

    def order(self, address: Address, order: Order) -> None:
        """Tell an executor to do something; if it is gone, ``wait`` will say so."""
        member = self._members[address]
        member.expect()
        member.tell(order)

    def wait(self, seconds: float) -> Sequence[Event]:
        """What happened; waits for something as long as ``seconds``, or until somebody is lost.

        Raises:
            DisaggcError: An executor cannot do its work at all.
        """
        end = monotonic() + seconds
        while True:
            events = self._listen()
            lost = self._lost()
            if lost is not None:
                events.append(lost)
            if events or monotonic() >= end:
                return events
            self._sleep(end - monotonic())

    def recover(self) -> int:
        """Replace executors that are gone, and empty all others; how many were replaced.

        Raises:
            ExecutorError: They cannot be started.
        """
        return self._assemble()

    def report(self) -> Sequence[Reported]:
        """What each executor did since the last report; nothing of one that is gone."""
        members = list(self._members.values())
        for member in members:
            member.tell(Report())
        answers = self._gather(members, Reported, self._execution.deadline_s)
        return tuple(answer for answer in answers.values() if answer is not None)

    def close(self) -> None:
        """Let all executors end, and end those that do not."""
        self._end()

    # starting ------------------------------------------------------------------------------------

    def _assemble(self) -> int:
        """Have every executor alive, empty and connected; how many were started for that.

        Raises:
            ExecutorError: It cannot be done.
        """
        started: set[Address] = set()
        for _ in range(STARTS):
            self._epoch += 1
            self._sockets.detach()
            self._empty_survivors()
            gone = [a for a in self._addresses if a not in self._members or self._members[a].is_lost]
            self._bring_up(gone)
            started.update(gone)
            if self._join():
                return len(started)
        lost = [member for member in self._members.values() if member.is_lost]
        raise ExecutorError(
            f"Executor {lost[0].address} on node {lost[0].started.node} did not start in {STARTS} attempts: "
            f"{self._hosts.fate(lost[0].address, FATE_S).reason}. "
            f"Look for what ends it: memory, or limits of that machine."
        )

    def _empty_survivors(self) -> None:
        survivors = [member for member in self._members.values() if not member.is_lost]
        for member in survivors:
            member.tell(Reset(self._epoch))
        for member, answer in self._gather(survivors, WasReset, self._execution.deadline_s).items():
            if answer is None:
                self._drop(member)

    def _bring_up(self, addresses: Sequence[Address]) -> None:
        """Start executors and let them open their stages; some may be lost meanwhile."""
        if not addresses:
            return
        for address in addresses:
            if address in self._members:
                self._drop(self._members[address])
        started = self._hosts.start(addresses, self._secret, self._execution.start_s)
        near = Counter(member.started.host for member in self._members.values() if not member.is_lost)
        near.update(one.host for one in started.values())
        for address, one in started.items():
            try:
                hello = Hello("orders")  # answered when it is up
                connection = dial(one.host, one.port, self._secret, hello, self._execution.start_s)
            except HandshakeError as error:
                self._hosts.end(address)
                raise ExecutorError(
                    f"The driver has {error} for executor {address} on node {one.node}. "
                    f"Open the network between the driver and the nodes."
                ) from error
            member = self._members[address] = Member(address, one, Channel(connection))
            member.tell(self._open_for(member, near[one.host]))
        members = [self._members[address] for address in addresses]
        for member, answer in self._gather(members, Opened, self._execution.start_s).items():
            if answer is None:
                self._drop(member)

    def _open_for(self, member: Member, near: int) -> Open:
        """What an executor is told first; one that waits may only burn what those near it do not need."""
        wanted = self._execution.spin_us
        fits = near * self._open.threads <= member.started.cores
        spin_us = wanted if wanted is not None else SPIN_US if fits else 0
        pool, instance = member.address
        return replace(self._open, pool=pool, instance=instance, spin_us=spin_us)

    def _join(self) -> bool:
        """Let all executors connect; False if one was lost meanwhile.

        Raises:
            ExecutorError: Two that live do not reach each other.
        """
        members = list(self._members.values())
        if any(member.is_lost for member in members):
            return False
        for member in members:
            others = tuple(m.peer for m in members if m.address.pool != member.address.pool)
            member.tell(Connect(self._stages()))
            member.tell(Join(self._epoch, others, JOIN_S))
        for member in members:
            self._call_for_results(member)
        answers = self._gather(members, Joined, 2 * JOIN_S, together=True)
        if any(member.is_lost for member in members):
            return False
        silent = [member for member, answer in answers.items() if answer is None]
        for member in silent:
            self._drop(member)
        if silent:
            return False
        self._check_reach(answers)
        for member in members:
            member.expect()
        return True

    def _call_for_results(self, member: Member) -> None:
        hello = Hello("results", epoch=self._epoch)
        try:
            connection = dial(member.started.host, member.started.port, self._secret, hello)
        except HandshakeError:
            self._drop(member)
        else:
            self._sockets.attach(member.address, connection)

    def _check_reach(self, answers: Mapping[Member, Joined | None]) -> None:
        for member, answer in answers.items():
            for other, reason in (answer.missing if answer is not None else {}).items():
                raise ExecutorError(
                    f"Executor {member.address} on node {member.started.node} does not reach {other}: "
                    f"{reason}. Open the network between the nodes, for all ports that nobody else takes."
                )

    def _stages(self) -> tuple[StagePorts, ...]:
        return tuple(stage for member in self._members.values() for stage in member.stages)

    def _drop(self, member: Member) -> None:
        """Give an executor up."""
        member.let_go()
        self._hosts.end(member.address)

    # listening -----------------------------------------------------------------------------------

    def _listen(self) -> list[Event]:
        """What has arrived."""
        events: list[Event] = [result_of(message) for _, message in self._sockets.poll()]
        for member in self._members.values():
            events.extend(command for command in self._hear(member) if isinstance(command, Failed))
        return events

    def _hear(self, member: Member) -> list[Command]:
        """What an executor says.

        Raises:
            DisaggcError: It cannot do its work at all.
        """
        commands = member.hear()
        for command in commands:
            if isinstance(command, Broken):
                raise error_of(command.error, command.text)
        return commands

    def _gather(
        self, members: Iterable[Member], kind: type[T], seconds: float, together: bool = False
    ) -> dict[Member, T | None]:
        """An answer from each; None from one that is gone, or does not give it in time.

        Results that arrive meanwhile are dropped: nobody waits for any.

        Args:
            members: Who is to answer.
            kind: What they are to answer.
            seconds: For all of it.
            together: Whether they wait for each other, so that it is over as soon as one is gone.
        """
        answers: dict[Member, T | None] = dict.fromkeys(members)
        end = monotonic() + seconds
        while monotonic() < end:
            for _ in self._sockets.poll():
                pass
            for member in answers:
                for command in self._hear(member):
                    if isinstance(command, kind) and getattr(command, "epoch", self._epoch) == self._epoch:
                        answers[member] = command
            if all(answer is not None or member.is_lost for member, answer in answers.items()):
                break
            if together and any(member.is_lost for member in answers):
                break
            self._sleep(end - monotonic())
        return answers

    def _sleep(self, seconds: float) -> None:
        channels = [m.channel for m in self._members.values() if not m.is_lost]
        nap_s = _NAP_S if all(channel.is_flushed for channel in channels) else _UNSENT_NAP_S
        waited = (*self._sockets.descriptors(), *(channel.fileno() for channel in channels))
        wait_readable(waited, min(max(seconds, 0.0), nap_s))

    def _lost(self) -> Lost | None:
        """Who died, who hangs, or whether nothing happens at all though everybody lives."""
        now, deadline_s = monotonic(), self._execution.deadline_s
        found: dict[Member, str] = {}
        for member in self._members.values():
            if member.is_lost:
                found[member] = ""
            elif member.is_silent(now, deadline_s):
                found[member] = f"it showed no sign of life for {deadline_s:g} s"
        if not found and all(m.is_idle(now, deadline_s) for m in self._members.values()):
            found = dict.fromkeys(self._members.values(), f"nothing happened for {deadline_s:g} s")
        if not found:
            return None
        for member in found:
            if found[member]:
                self._drop(member)
        fates = {member: self._hosts.fate(member.address, FATE_S) for member in found}
        groups = frozenset(fate.group for fate in fates.values() if fate.group is not None)
        reasons = [reason or fates[member].reason for member, reason in found.items()]
        return Lost(tuple(member.address for member in found), reasons[0], groups)


def _open_order(
    plan: Plan,
    folder: Path,
    model_folder: Path,
    instances: Mapping[str, int],
    threads: int,
    execution: Execution,
) -> Open:
    """What every process is told first; who it is comes later."""
    return Open(
        secret="",
        pool="",
        instance=0,
        plan=dump_plan(plan).decode(),
        folder=str(folder.resolve()),
        model_folder=str(model_folder.resolve()),
        threads=threads,
        instances=dict(instances),
        spin_us=0,
        traced=execution.traced,
        memory_bytes=execution.memory_bytes or 0,
    )


def _end(members: dict[Address, Member], sockets: Sockets, hosts: Hosts) -> None:
    """Ask all executors to stop, and give everything back."""
    for member in members.values():
        member.tell(Stop())
    end = monotonic() + STOP_S
    for member in members.values():
        while not member.is_lost and monotonic() < end:
            with suppress(DisaggcError):
                member.hear()
            if not member.is_lost:
                wait_readable((member.channel.fileno(),), end - monotonic())
        member.let_go()
    sockets.detach()
    hosts.close()
