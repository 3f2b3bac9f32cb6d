"""What Prometheus reads; names are in the style of vLLM's, so that its dashboards are easy to adapt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from disaggc.runtime import Load

_LABELS = ("model_name", "tier")
OUTCOMES = ("stop", "length", "abort", "timeout", "error", "rejected")
_FINISHED = ("stop", "length")
"""Outcomes of answers that are whole; only of those lengths and times are told."""
_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_ITL_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_WHOLE_S = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000)


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """What one deployment holds at this moment.

    Attributes:
        name: The deployment's.
        load: Of each tier that it serves.
        kv_tokens: Tokens that its caches may hold; None for no limit.
        restarts: Executors that were lost and replaced since it was opened.
    """

    name: str
    load: dict[str, Load]
    kv_tokens: int | None
    restarts: int


class Metrics:
    """Counts what happens, and looks at the deployments when somebody asks."""

    def __init__(
        self, model: str, tiers: Iterable[str], look: Callable[[], Iterable[DeploymentState]]
    ) -> None:
        """Begin at zero, with every series that there can be.

        Args:
            model: The model's name, a label of everything.
            tiers: All there are.
            look: What the deployments hold at this moment.
        """
        self._model = model
        self._registry = CollectorRegistry()
        self._ttft = self._histogram("time_to_first_token_seconds", "Time to the first token.", _TTFT_S)
        self._itl = self._histogram(
            "inter_token_latency_seconds",
            "Time between tokens; those that come together share the time since the last ones.",
            _ITL_S,
        )
        self._whole = self._histogram("e2e_request_latency_seconds", "Time to the last token.", _WHOLE_S)
        self._queued = self._histogram("request_queue_time_seconds", "Time before it was admitted.", _TTFT_S)
        self._prompts = self._histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self._answers = self._histogram("request_generation_tokens", "Tokens of an answer.", _TOKENS)
        self._tokens_in = self._counter("prompt_tokens", "Tokens of prompts that were computed.")
        self._tokens_out = self._counter("generation_tokens", "Tokens that were generated and told.")
        self._outcomes = self._counter("requests", "Prompts by what became of them.", (*_LABELS, "outcome"))
        self._registry.register(_Deployments(model, look))
        for tier in tiers:
            self._open(tier)

    @property
    def content_type(self) -> str:
        """Of ``text``."""
        return CONTENT_TYPE_LATEST

    def text(self) -> bytes:
        """Everything, in Prometheus' format."""
        return generate_latest(self._registry)

    def first(self, tier: str, prompt: int, seconds: float, queued_s: float) -> None:
        """An answer's first token came so long after its request, which had waited for its turn."""
        self._tokens_in.labels(self._model, tier).inc(prompt)
        self._ttft.labels(self._model, tier).observe(seconds)
        self._queued.labels(self._model, tier).observe(queued_s)

    def further(self, tier: str, tokens: int, seconds: float) -> None:
        """More tokens came together, so long after the last ones."""
        histogram = self._itl.labels(self._model, tier)
        for _ in range(tokens):
            histogram.observe(seconds / tokens)

    def generated(self, tier: str, tokens: int) -> None:
        """So many tokens were told."""
        self._tokens_out.labels(self._model, tier).inc(tokens)

    def ended(self, tier: str, outcome: str, prompt: int = 0, answer: int = 0, seconds: float = 0.0) -> None:
        """A prompt's answer is over, with one of ``OUTCOMES``."""
        self._outcomes.labels(self._model, tier, outcome).inc()
        if outcome not in _FINISHED:
            return
        self._prompts.labels(self._model, tier).observe(prompt)
        self._answers.labels(self._model, tier).observe(answer)
        self._whole.labels(self._model, tier).observe(seconds)

    def _open(self, tier: str) -> None:
        """Zeros are told before anything happens, so that the first rise is seen as one."""
        timed = (self._ttft, self._itl, self._whole, self._queued, self._prompts, self._answers)
        for metric in (*timed, self._tokens_in, self._tokens_out):
            metric.labels(self._model, tier)
        for outcome in OUTCOMES:
            self._outcomes.labels(self._model, tier, outcome)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"disaggc:{name}", text, _LABELS, buckets=buckets, registry=self._registry)

    def _counter(self, name: str, text: str, labels: Sequence[str] = _LABELS) -> Counter:
        return Counter(f"disaggc:{name}", text, labels, registry=self._registry)


class _Deployments(Collector):
    """Queues, caches and restarts, as they are when somebody asks."""

    def __init__(self, model: str, look: Callable[[], Iterable[DeploymentState]]) -> None:
        self._model = model
        self._look = look

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand: names are those of ``collect``."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One look."""
        states = list(self._look())
        yield from self._of_tiers(states)
        yield from self._of_deployments(states)

    def _of_tiers(self, states: Sequence[DeploymentState]) -> Iterator[Metric]:
        labels = ("model_name", "tier", "deployment")
        waiting = GaugeMetricFamily("disaggc:num_requests_waiting", "Not yet admitted.", labels=labels)
        running = GaugeMetricFamily("disaggc:num_requests_running", "Admitted.", labels=labels)
        for state in states:
            for tier, load in state.load.items():
                waiting.add_metric([self._model, tier, state.name], load.waiting)
                running.add_metric([self._model, tier, state.name], load.running)
        yield from (waiting, running)

    def _of_deployments(self, states: Sequence[DeploymentState]) -> Iterator[Metric]:
        labels = ("model_name", "deployment")
        used = GaugeMetricFamily("disaggc:kv_cache_tokens_used", "Tokens in caches.", labels=labels)
        reserved = GaugeMetricFamily(
            "disaggc:kv_cache_tokens_reserved", "Tokens that caches may come to hold.", labels=labels
        )
        capacity = GaugeMetricFamily(
            "disaggc:kv_cache_tokens_capacity", "Tokens that they may hold; 0 for no limit.", labels=labels
        )
        share = GaugeMetricFamily("disaggc:kv_cache_usage_perc", "Share that is reserved.", labels=labels)
        restarts = CounterMetricFamily(
            "disaggc:executor_restarts", "Executors that were lost and replaced.", labels=labels
        )
        for state in states:
            whole = sum(state.load.values(), Load())
            where = [self._model, state.name]
            used.add_metric(where, whole.kv_used)
            reserved.add_metric(where, whole.kv_reserved)
            capacity.add_metric(where, state.kv_tokens or 0)
            share.add_metric(where, whole.kv_reserved / state.kv_tokens if state.kv_tokens else 0.0)
            restarts.add_metric(where, state.restarts)
        yield from (used, reserved, capacity, share, restarts)
