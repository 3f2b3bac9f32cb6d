"""Runs plans: executors for each pool, on onnxruntime, in this process or in one each, here or elsewhere.

``run`` generates with a plan, ``verify`` compares it with the uncut model. ``deploy`` and
``deploy_reference`` keep the sessions open for more than one run; a ``Service`` takes requests while
it runs. The runtime reads plans and subgraphs; it knows nothing of the compiler that made them.
"""

from disaggc.runtime.driver import Deployment, deploy, run
from disaggc.runtime.execution import Execution
from disaggc.runtime.memory import bytes_of
from disaggc.runtime.reference import deploy_reference
from disaggc.runtime.requests import Request
from disaggc.runtime.results import Link, PhaseTime, RunResult, StageTime
from disaggc.runtime.room import tokens_that_fit
from disaggc.runtime.service import Load, News, Service, Ticket
from disaggc.runtime.text import Text
from disaggc.runtime.timeline import write_timeline
from disaggc.runtime.transport import Transport
from disaggc.runtime.verify import Comparison, Verification, verify

__all__ = [
    "Comparison",
    "Deployment",
    "Execution",
    "Link",
    "Load",
    "News",
    "PhaseTime",
    "Request",
    "RunResult",
    "Service",
    "StageTime",
    "Text",
    "Ticket",
    "Transport",
    "Verification",
    "bytes_of",
    "deploy",
    "deploy_reference",
    "run",
    "tokens_that_fit",
    "verify",
    "write_timeline",
]
