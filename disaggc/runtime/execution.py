"""How a plan is executed here: on what, with how many executors, and within which limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from disaggc.errors import JobError, nearest
from disaggc.plans import Plan, with_whole_heads
from disaggc.runtime.memory import check_bound
from disaggc.runtime.scheduler import Limits
from disaggc.runtime.wiring import phase_of

On = Literal["local", "processes", "ray"]


@dataclass(frozen=True, slots=True)
class Execution:
    """Choices that a plan leaves open, or makes for other machines than this one.

    Attributes:
        on: 'local': all executors in this process; 'processes': one process each, with shared memory;
            'ray': one process each, on the machines of a Ray cluster.
        address: The Ray cluster; None for the one that runs here, or else a new one on this machine.
        instances: Pool to the number of its executors; 1 where nothing is said. Requests are spread.
        micro_batches: Micro-batches in flight for each instance; the plan's if None.
        micro_batch: Requests in one; the plan's if None.
        kv_tokens: Tokens that all caches together may hold; the plan's if None.
        deadline_s: How long an executor may take over one stage before it is taken to hang.
        start_s: How long it may take to open its stages.
        spin_us: How long an executor that waits looks again and again before it sleeps; None: as long
            as is good where there are as many cores as executors, and not at all elsewhere.
        memory_bytes: What each executor's process may allocate; mapped weights do not count. None for
            no limit.
        traced: Whether to note what was done when.
        whole_heads: Whether an LM head in pieces may run as one stage where there is nobody to serve between
            two pieces: in one process, with one micro-batch, untraced.
    """

    on: On = "local"
    address: str | None = None
    instances: Mapping[str, int] = field(default_factory=dict)
    micro_batches: int | None = None
    micro_batch: int | None = None
    kv_tokens: int | None = None
    deadline_s: float = 60.0
    start_s: float = 120.0
    spin_us: int | None = None
    memory_bytes: int | None = None
    traced: bool = False
    whole_heads: bool = True


def as_executed(plan: Plan, execution: Execution) -> Plan:
    """The plan with the stages that executors are to run."""
    alone = execution.on == "local" and execution.micro_batches in (None, 1) and not execution.traced
    return with_whole_heads(plan) if alone and execution.whole_heads else plan


def instances_of(plan: Plan, execution: Execution) -> dict[str, int]:
    """Executors of each pool that has a stage.

    Raises:
        JobError: There is no such pool, or it would have none.
    """
    phases = (phase_of(plan, "prefill"), phase_of(plan, "decode"))
    pools = dict.fromkeys((stage.pool for phase in phases for stage in phase.stages), 1)
    for pool, count in execution.instances.items():
        if pool not in pools:
            raise JobError(f"The plan has no pool '{pool}'.{nearest(pool, pools)}")
        if count < 1:
            raise JobError(f"Pool '{pool}' cannot have {count} instances. Give it 1 or more.")
        pools[pool] = count
    return pools


def check_memory(execution: Execution) -> None:
    """Refuse a limit of memory that nobody would keep.

    Raises:
        JobError: Executors share the driver's process, or this system has no such limit.
    """
    if execution.memory_bytes is None:
        return
    if execution.on == "local":
        raise JobError("--memory-limit is for executors with a process each. Add --on processes or --on ray.")
    check_bound(execution.memory_bytes)


def micro_batches_of(plan: Plan, execution: Execution) -> int:
    """Micro-batches in flight for each instance.

    Raises:
        JobError: There would be none.
    """
    return _positive("--micro-batches", execution.micro_batches, plan.schedule.micro_batches) or 1


def kv_budget(plan: Plan, execution: Execution) -> int | None:
    """Tokens that all caches together may hold: what the plan reserves memory for; None if it says nothing.

    Raises:
        JobError: There would be none.
    """
    schedule = plan.schedule
    planned = schedule.micro_batch * schedule.micro_batches * schedule.context_tokens
    return _positive("--kv-tokens", execution.kv_tokens, planned)


def limits_of(plan: Plan, execution: Execution, ragged: bool) -> Limits:
    """What may be in flight at a time.

    Raises:
        JobError: It would be nothing.
    """
    rows = _positive("--micro-batch", execution.micro_batch, plan.schedule.micro_batch) or 1
    if any("batch" not in state.shape for state in plan.states):
        rows = 1
    return Limits(rows, kv_budget(plan, execution), ragged)


def _positive(option: str, given: int | None, planned: int) -> int | None:
    if given is not None and given < 1:
        raise JobError(f"{option} {given} leaves nothing to run. Give 1 or more.")
    return given if given is not None else planned or None
