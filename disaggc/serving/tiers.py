"""Who serves a request: tiers, each with its own bounded queue, and the deployments behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from disaggc.errors import ExecutorError, nearest
from disaggc.runtime import Load, News, Service, Ticket
from disaggc.runtime.requests import Request
from disaggc.serving.metrics import DeploymentState
from disaggc.serving.problems import queue_full, unknown_model, wrong

_ANY = ("auto", "default")
"""What OpenAI's clients say where they do not care."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A class of requests.

    Attributes:
        name: The plan's.
        services: The deployments that serve it.
        context: Tokens that a request may have, prompt and answer together.
        queue_size: Requests that may wait.
    """

    name: str
    services: tuple[Service, ...]
    context: int
    queue_size: int

    def submit(self, request: Request, hear: Callable[[News], None]) -> tuple[Service, Ticket]:
        """Let a request wait at the deployment that has least to do.

        Raises:
            RefusedError: As many are waiting as may.
            DisaggcError: It cannot be run.
        """
        loads = [(service, service.load()) for service in self.services if service.error is None]
        if not loads:
            raise self.services[0].error or ExecutorError(f"Tier '{self.name}' is closed.")
        if sum(load.get(self.name, Load()).waiting for _, load in loads) >= self.queue_size:
            raise queue_full(self.name, self.queue_size)
        service, _ = min(loads, key=lambda pair: _burden(*pair))
        return service, service.submit(request, hear)


@dataclass(frozen=True, slots=True)
class Lineup:
    """Everything that is served.

    Attributes:
        model: Name of the model.
        tiers: By name; the first one serves requests that name none.
        services: All deployments.
    """

    model: str
    tiers: Mapping[str, Tier]
    services: tuple[Service, ...]

    @property
    def model_names(self) -> list[str]:
        """What a request may call the model."""
        return [self.model, *(f"{self.model}:{name}" for name in self.tiers)]

    def tier_of(self, model: str | None, service_tier: str | None) -> Tier:
        """The tier that a request asks for, by 'MODEL:TIER' or by OpenAI's ``service_tier``.

        Raises:
            RefusedError: There is no such model or tier, or the two contradict each other.
        """
        by_model = self._tier_in(model) if model is not None else None
        named = None if service_tier in (None, *_ANY) and service_tier not in self.tiers else service_tier
        by_field = self._named(named) if named is not None else None
        if by_field is None and named is not None:
            raise wrong(f"No tier '{named}' here.{nearest(named, self.tiers)}", "service_tier")
        if by_model is not None and by_field is not None and by_model is not by_field:
            raise wrong(
                f"The model's name asks for tier '{by_model.name}', service_tier for '{by_field.name}'. "
                f"Name one of them.",
                "service_tier",
            )
        return by_field or by_model or next(iter(self.tiers.values()))

    def states(self) -> Iterator[DeploymentState]:
        """What the deployments hold at this moment, every tier of theirs told."""
        for service in self.services:
            empty = {tier.name: Load() for tier in self.tiers.values() if service in tier.services}
            yield DeploymentState(
                service.name, {**empty, **service.load()}, service.kv_tokens, service.restarts
            )

    @property
    def trouble(self) -> str:
        """Why a deployment does not work any more; '' if all do."""
        errors = [f"{service.name}: {service.error}" for service in self.services if service.error]
        return " ".join(errors)

    def _tier_in(self, model: str) -> Tier | None:
        if model == self.model:
            return None
        prefix, _, tier = model.partition(f"{self.model}:")
        found = self._named(tier) if not prefix else None
        if found is None:
            raise unknown_model(f"No model '{model}' here.{nearest(model, self.model_names)}")
        return found

    def _named(self, name: str) -> Tier | None:
        """By its name, or by the last part of it where that is one tier's alone."""
        short = [tier for full, tier in self.tiers.items() if full.rpartition("/")[2] == name]
        return self.tiers.get(name) or (short[0] if len(short) == 1 else None)


def _burden(service: Service, loads: Mapping[str, Load]) -> tuple[int, float]:
    """How much a deployment has to do: who waits there first, then how full it is."""
    whole = sum(loads.values(), Load())
    return whole.waiting, whole.kv_reserved / (service.kv_tokens or 1)


def make_tiers(
    served: Sequence[tuple[Service, Sequence[str], int]], names: Sequence[str], queue_size: int
) -> dict[str, Tier]:
    """Tiers of deployments.

    Args:
        served: Each deployment, the tiers that it serves, and the tokens that a request may have there.
        names: All tiers that have a deployment, in order.
        queue_size: Requests that may wait in each.
    """
    found = {}
    for name in names:
        own = [(service, context) for service, tiers, context in served if name in tiers]
        services, contexts = zip(*own, strict=True)
        found[name] = Tier(name, services, min(contexts), queue_size)
    return found
