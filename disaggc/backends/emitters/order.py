"""What an emitter is asked for, and what it hands back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from disaggc.errors import JobError, PlanError
from disaggc.plans import FleetPlan, Plan, Pool
from disaggc.targets import Library, System


@dataclass(frozen=True, slots=True)
class Settings:
    """What a plan does not know; each emitter takes some of them, None where nothing was said.

    Attributes:
        checkpoint: The model that the stack loads: a Hugging Face name or a path on the serving machines.
        name: Of the deployment; the model's by default.
        namespace: Of Kubernetes.
        engine: 'vllm' or 'sglang', where a stack drives either.
        image: Container image of the engine.
        build_id: Compiled build that LPX components run.
        lpu_image, conductor_image: Container images of the agents and the conductor of LPX components.
        node_devices: Devices of one node, where they differ from the declared ones.
        connector: How attention and FFN ranks talk.
        model: Folder of the ONNX model and its weights, if it moved.
    """

    checkpoint: str | None = None
    name: str | None = None
    namespace: str | None = None
    engine: str | None = None
    image: str | None = None
    build_id: str | None = None
    lpu_image: str | None = None
    conductor_image: str | None = None
    node_devices: int | None = None
    connector: str | None = None
    model: Path | None = None

    def given(self) -> tuple[str, ...]:
        """The names of those that were said."""
        return tuple(f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None)

    def required(self, name: str, why: str) -> str:
        """A setting that there is no default for.

        Raises:
            JobError: It was not said.
        """
        value = getattr(self, name)
        if not value:
            raise JobError(f"{why} Add {flag(name)}.")
        return str(value)


def flag(name: str) -> str:
    """A setting as the command spells it: '--build-id'."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class Order:
    """A plan to be written out.

    Attributes:
        plan: The plan.
        folder: Its folder.
        model_folder: Where the model and its weights lie.
        library: Declared machines.
        settings: What the plan does not know.
        copies: Replicas of the plan, in a fleet.
        prefill_copies: Replicas of its prefill, where that is apart.
    """

    plan: Plan
    folder: Path
    model_folder: Path
    library: Library
    settings: Settings = field(default_factory=Settings)
    copies: int = 1
    prefill_copies: int = 1

    def pool(self, name: str) -> Pool:
        """The pool of this name.

        Raises:
            PlanError: A stage names a pool that the plan has not.
        """
        for pool in self.plan.pools:
            if pool.name == name:
                return pool
        raise PlanError(f"The plan has stages on '{name}', but no such pool. Compile it again.")

    def system(self, pool: Pool) -> System:
        """The declared system of a pool."""
        return self.library.system(pool.system)


@dataclass(frozen=True, slots=True)
class Written:
    """What an emitter wrote, and what a person should know about it.

    Attributes:
        notes: Where the stack will differ from the plan, or needs a hand.
        start: How it is used, one command or sentence.
    """

    notes: tuple[str, ...]
    start: str


@dataclass(frozen=True, slots=True)
class Together:
    """Deployments of a fleet that may be written as one, beside each by itself.

    Attributes:
        fleet: Its plan.
        orders: Those that are wanted, by name, as each is written by itself but for the name.
    """

    fleet: FleetPlan
    orders: Mapping[str, Order]

    @property
    def any_order(self) -> Order:
        """One of them, for what they share: the model, the settings and the declared machines."""
        return next(iter(self.orders.values()))


class Emitter(Protocol):
    """Writes a plan in one form. A module of this package has one, called ``EMITTER``."""

    @property
    def takes(self) -> frozenset[str]:
        """Names of the settings that it looks at."""

    def emit(self, order: Order, folder: Path) -> Written:
        """Write into ``folder``, which exists and is empty.

        Raises:
            PlanError: This form cannot express the plan; the message says which one can.
        """


@runtime_checkable
class FleetEmitter(Protocol):
    """An emitter that can also write a fleet as one."""

    def emit_fleet(self, together: Together, folder: Path) -> Written | None:
        """Write into ``folder``, beside the deployments; None where there is nothing to share.

        Raises:
            PlanError: This form cannot express the fleet.
        """


def check_settings(name: str, emitter: Emitter, settings: Settings) -> None:
    """Refuse what an emitter would silently ignore.

    Raises:
        JobError: A setting was given that this emitter does not take, or a node without devices.
    """
    if settings.node_devices is not None and settings.node_devices < 1:
        raise JobError(f"--node-devices {settings.node_devices} must be 1 or more.")
    ignored = [each for each in settings.given() if each not in emitter.takes]
    if ignored:
        known = ", ".join(sorted(map(flag, emitter.takes))) or "none"
        raise JobError(f"Backend '{name}' takes no {flag(ignored[0])}. It takes: {known}.")


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write text files below a folder; shell scripts can be run."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        if path.suffix == ".sh":
            path.chmod(0o755)
