"""One process for each pool instance on this machine; activations go from one to the other in shared memory.

The driver starts them, watches over them, and replaces those that die or hang. Everything that they
share has no name and goes with them (see ``arena``, ``channel``, ``worker``).
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import TypeVar

from disaggc.errors import ExecutorError
from disaggc.plans import Plan, dump_plan
from disaggc.runtime.arena import ASLEEP, EPOCH, Layout
from disaggc.runtime.bell import wait_readable
from disaggc.runtime.channel import ClosedError
from disaggc.runtime.commands import (
    Broken,
    Command,
    Connect,
    Failed,
    Open,
    Opened,
    Report,
    Reported,
    Reset,
    Resume,
    Stop,
    WasReset,
)
from disaggc.runtime.execution import Execution
from disaggc.runtime.handles import addresses_of
from disaggc.runtime.links import Links
from disaggc.runtime.messages import DRIVER, Address
from disaggc.runtime.ports import wirings
from disaggc.runtime.process import Process, Shared, cores, start
from disaggc.runtime.ring import fence
from disaggc.runtime.scheduler import error_of
from disaggc.runtime.transport import Event, Lost, Order, result_of
from disaggc.runtime.wiring import Phase, Wiring

T = TypeVar("T", bound=Command)

SPIN_US = 200
"""Longer than a stage of a small model, far shorter than anybody's patience."""
STOP_S = 5.0
STARTS = 3
"""Attempts to bring an executor up."""
_LOOK_S = 0.05
"""How often all executors are looked after; one that ends hangs up, which wakes the driver at once."""
_NAP_S = 0.25
_UNSENT_NAP_S = 1e-3


class Processes:
    """A transport over processes of this machine."""

    is_parallel = True

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        model_folder: Path,
        instances: Mapping[str, int],
        threads: int,
        execution: Execution,
    ) -> None:
        """Start all executors and let them open their stages.

        Args:
            plan: The plan.
            folder: The plan folder.
            model_folder: The folder that weight files are relative to.
            instances: Executors of each pool.
            threads: Threads that each computes with.
            execution: Deadlines, and how to wait.

        Raises:
            ExecutorError: They cannot be started.
            DisaggcError: What one of them found wrong with the plan or its weights.
        """
        self.instances = dict(instances)
        self._deadline_s = execution.deadline_s
        self._start_s = execution.start_s
        self._open = _open_order(plan, folder, model_folder, instances, threads, execution)
        self._shared = Shared.create(Layout(addresses_of(instances)), self._open.secret)
        self._processes: dict[Address, Process] = {}
        self._has_called = False
        self._look_at = 0.0
        self._end = weakref.finalize(self, _end, self._processes, self._shared)
        with ExitStack() as stack:
            stack.callback(self._end)
            self._listen_in()
            self._bring_up(self._shared.layout.addresses)
            self._stages = tuple(s for p in self._processes.values() for s in p.opened)
            self.wirings: dict[Phase, Wiring] = wirings(plan, self._stages)
            for process in self._processes.values():
                self._tell(process, Connect(self._stages))
            stack.pop_all()

    @property
    def pids(self) -> Mapping[Address, int]:
        """The number of each executor's process in the system."""
        return {address: process.pid for address, process in self._processes.items()}

    def order(self, address: Address, order: Order) -> None:
        """Tell an executor to do something; if it is gone, ``wait`` will say so."""
        process = self._processes[address]
        process.expect()
        self._tell(process, order)

    def wait(self, seconds: float) -> Sequence[Event]:
        """What happened; waits for something as long as ``seconds``, or until somebody is lost.

        Raises:
            DisaggcError: An executor cannot do its work at all.
        """
        end = monotonic() + seconds
        while True:
            events: list[Event] = [result_of(message) for _, message in self._links.poll()]
            if self._has_called or monotonic() >= self._look_at:
                events.extend(self._look())
            if events or monotonic() >= end:
                return events
            self._sleep(end - monotonic())

    def recover(self) -> int:
        """Replace executors that are gone, and empty all others; how many were replaced.

        Raises:
            ExecutorError: They cannot be started.
        """
        self._signs[EPOCH] += 1
        epoch = self._signs[EPOCH]
        for process in self._processes.values():
            if process.is_lost:
                process.kill()
            else:
                self._tell(process, Reset(epoch))
        survivors = self._processes.values()
        for process, answer in self._gather(survivors, WasReset, self._deadline_s).items():
            if answer is None:
                process.kill()
        self._shared.clear_rings()
        self._links.restart()
        gone = [address for address, process in self._processes.items() if process.is_lost]
        self._bring_up(gone)
        for address, process in self._processes.items():
            self._tell(process, Connect(self._stages) if address in gone else Resume(epoch))
        return len(gone)

    def report(self) -> Sequence[Reported]:
        """What each executor did since the last report; nothing of one that is gone."""
        processes = list(self._processes.values())
        for process in processes:
            self._tell(process, Report())
        answers = self._gather(processes, Reported, self._deadline_s)
        return tuple(answer for answer in answers.values() if answer is not None)

    def close(self) -> None:
        """Let all executors end, and end those that do not."""
        self._end()

    # starting ------------------------------------------------------------------------------------

    def _listen_in(self) -> None:
        """Take the driver's place in the shared memory."""
        shared = self._shared
        self._signs = shared.layout.signs(shared.memory, DRIVER)
        self._links = Links(DRIVER, shared.layout, shared.memory, shared.bells, _is_copied, lambda: None)

    def _bring_up(self, addresses: Sequence[Address]) -> None:
        """Start executors, again if they die meanwhile."""
        missing = list(addresses)
        for _ in range(STARTS):
            if not missing:
                return
            started = {address: start(self._shared, address, self._open) for address in missing}
            self._processes.update(started)
            answers = self._gather(started.values(), Opened, self._start_s)
            for process, answer in answers.items():
                if answer is None:
                    process.kill()
                else:
                    process.take(answer, self._open.secret)
            missing = [address for address in missing if self._processes[address].is_lost]
        if missing:
            raise ExecutorError(
                f"Executor {missing[0]} did not start in {STARTS} attempts of at most {self._start_s:g} s. "
                f"Look for what ends it: memory, or limits of this machine."
            )

    # listening -----------------------------------------------------------------------------------

    def _tell(self, process: Process, command: Command) -> None:
        with suppress(ClosedError):  # noticed by whoever listens
            process.tell(command)
            self._shared.bells[process.address].ring(process.signs)

    def _look(self) -> Iterator[Event]:
        """What executors say besides results, and whether one is lost; that takes calls of the system."""
        self._has_called, self._look_at = False, monotonic() + _LOOK_S
        for process in self._processes.values():
            yield from (command for command in self._hear(process) if isinstance(command, Failed))
        lost = self._lost()
        if lost is not None:
            yield lost

    def _hear(self, process: Process) -> list[Command]:
        """What a process says.

        Raises:
            DisaggcError: It cannot do its work at all.
        """
        commands = process.hear()
        for command in commands:
            if isinstance(command, Broken):
                raise error_of(command.error, command.text)
        return commands

    def _gather(self, processes: Iterable[Process], kind: type[T], seconds: float) -> dict[Process, T | None]:
        """An answer from each; None from one that is gone, or does not give it in time.

        Results that arrive meanwhile are dropped: nobody waits for any.
        """
        answers: dict[Process, T | None] = dict.fromkeys(processes)
        end = monotonic() + seconds
        while monotonic() < end:
            for _ in self._links.poll():
                pass
            for process in answers:
                for command in self._hear(process):
                    if isinstance(command, kind):
                        answers[process] = command
            if all(answer is not None or process.is_lost for process, answer in answers.items()):
                break
            self._sleep(end - monotonic())
        return answers

    def _sleep(self, seconds: float) -> None:
        self._signs[ASLEEP] = 1
        fence()
        bell = self._shared.bells[DRIVER]
        if not self._links.has_any():
            channels = [p.channel for p in self._processes.values() if not p.is_lost]
            is_flushed = all(channel.is_flushed for channel in channels)
            waited = (bell.reading, *(channel.fileno() for channel in channels))
            woken = wait_readable(waited, min(max(seconds, 0.0), _NAP_S if is_flushed else _UNSENT_NAP_S))
            self._has_called |= not is_flushed or any(one != bell.reading for one in woken)
        self._signs[ASLEEP] = 0
        bell.silence()

    def _lost(self) -> Lost | None:
        """Who died, who hangs, or whether nothing happens at all though everybody lives."""
        now = monotonic()
        found = {p: reason for p in self._processes.values() if (reason := p.trouble(now, self._deadline_s))}
        if not found and all(p.is_idle(now, self._deadline_s) for p in self._processes.values()):
            found = dict.fromkeys(self._processes.values(), f"nothing happened for {self._deadline_s:g} s")
        if not found:
            return None
        groups = frozenset(process.group for process in found if process.group is not None)
        for process in found:
            process.is_lost = True
        first = next(iter(found.values()))
        return Lost(tuple(process.address for process in found), first, groups)


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
        secret=secrets.token_hex(16),
        pool="",
        instance=0,
        plan=dump_plan(plan).decode(),
        folder=str(folder.resolve()),
        model_folder=str(model_folder.resolve()),
        threads=threads,
        instances=dict(instances),
        spin_us=_spin_us(execution, sum(instances.values()) * threads),
        traced=execution.traced,
        memory_bytes=execution.memory_bytes or 0,
    )


def _is_copied(_group: int, _step: int) -> bool:
    """The tensors of a result may be overwritten by the next one's: see ``result_of``."""
    return True


def _spin_us(execution: Execution, threads: int) -> int:
    """Waiting executors may only burn what nobody else needs."""
    if execution.spin_us is not None:
        return execution.spin_us
    return SPIN_US if threads <= cores() else 0


def _end(processes: dict[Address, Process], shared: Shared) -> None:
    """Ask all processes to stop, end those that do not, and give everything back."""
    for process in processes.values():
        with suppress(ClosedError):
            process.tell(Stop())
            shared.bells[process.address].ring(process.signs)
    deadline = monotonic() + STOP_S
    for process in processes.values():
        process.end(deadline)
    shared.close()
