"""From times to the constants of the cost model; knows nothing of where the times come from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from disaggc.errors import ExecutorError

FINEST = 1e-3
"""Relative change of a constant below which a fit is done."""
SHARPEST = 16.0
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class Reading:
    """One graph, timed.

    Attributes:
        name: What was run.
        kind: The kind of kernel that it repeats.
        nodes: How often.
        flops, bytes: What one run takes, by the cost rules.
        resident: Bytes that one run streams through.
        seconds: The lower quartile of the rounds.
        spread: How far the rounds lie apart, over the median.
        others: Nodes of other kinds, by kind.
    """

    name: str
    kind: str
    nodes: int
    flops: float
    bytes: float
    resident: float
    seconds: float
    spread: float = 0.0
    others: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kernels:
    """Constants of ``t = nodes * node + ((F / flops_per_s)^p + (B / bytes_per_s)^p)^(1/p)``.

    Attributes:
        node: Kind to seconds of one node.
        flops_per_s: Kind to arithmetic.
        bytes_per_s: Kind to streaming out of the cache.
        main_bytes_per_s: Streaming of products' weights out of main memory.
        cache_bytes: The most that was still streamed at about the cache's rate.
        sharpness: p.
        errors: Kind to the median error of the fit, relative.
    """

    node: Mapping[str, float]
    flops_per_s: Mapping[str, float]
    bytes_per_s: Mapping[str, float]
    main_bytes_per_s: float
    cache_bytes: float
    sharpness: float
    errors: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Steps:
    """What a decoder of known cut took, in seconds of a step.

    Attributes:
        hops: Messages of one step of the cut decoder.
        whole, inside: One session of the whole, and the part of it within onnxruntime.
        split: The cut one in one process.
        alone: The cut one in two processes, one micro-batch; None if there were not enough cores.
        asleep: The same with executors that sleep until they are woken.
        crowded: With so many that one of the two is always busy, for one micro-batch.
        pools: For each process the part of a step within onnxruntime meanwhile.
        lead: Which of them chooses tokens.
    """

    hops: int
    whole: float
    inside: float
    split: float
    alone: float | None = None
    asleep: float | None = None
    crowded: float | None = None
    pools: Mapping[str, float] = field(default_factory=dict)
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Messages:
    """What executors cost beside kernels, in seconds.

    Attributes:
        step: Engine time of a step.
        local: What a message takes of each end, in one process; entering a session more is in it.
        occupancy, latency: The same between processes, and how long it is on its way; None if unknown.
        woken: How long it is on its way to a receiver that sleeps.
    """

    step: float
    local: float
    occupancy: float | None
    latency: float | None
    woken: float | None = None


def fit_messages(steps: Steps, call: float) -> Messages:
    """Parts the steps of a cut decoder into LogP's o and L.

    With one micro-batch, a step waits for all of it: ``alone = whole + hops (L + 2 o)``. With many, the
    busier process never waits: ``crowded = its kernels + hops * o (+ the engine's step on the lead)``.

    Args:
        steps: What was measured.
        call: Seconds of a call of a session.
    """
    engine = max(steps.whole - steps.inside, 0.0)
    local = max(steps.split - steps.whole, 0.0) / (2 * steps.hops)
    if steps.alone is None or steps.crowded is None:
        return Messages(engine + call, local, None, None)
    there = max(steps.alone - steps.whole, 0.0) / steps.hops
    left = (
        steps.crowded - inside - (engine if pool == steps.lead else 0.0)
        for pool, inside in steps.pools.items()
    )
    occupancy = min(max(min(left) / steps.hops, 0.0), there / 2)
    latency = there - 2 * occupancy
    asleep = steps.alone if steps.asleep is None else steps.asleep
    woken = max((asleep - steps.whole) / steps.hops - 2 * occupancy, latency)
    return Messages(engine + call, local, occupancy, latency, woken)


def fit_kernels(readings: Sequence[Reading]) -> Kernels:
    """The constants that bring all readings closest, in the mean square of relative errors.

    Raises:
        ExecutorError: There are no readings of products.
    """
    products = [r for r in readings if r.kind == "gemm"]
    if not products:
        raise ExecutorError("No matrix product could be timed. Is this onnxruntime complete?")
    cache = _cache_bytes(products)
    node = _starts(readings)
    fitted = _Products.fitted(products, cache)
    node["gemm"] = fitted.node
    flops, rates = {"gemm": fitted.flops_per_s}, {"gemm": fitted.cached}
    errors = {"gemm": _off(products, lambda r: fitted.seconds(r, cache))}
    for kind in ("attention", "moe"):
        own = [r for r in readings if r.kind == kind]
        if own:
            node[kind], flops[kind], rates[kind], errors[kind] = _streaming(own, fitted)
    return Kernels(node, flops, rates, fitted.main, cache, fitted.sharpness, errors)


def _starts(readings: Iterable[Reading]) -> dict[str, float]:
    """Seconds of one node of each kind whose readings are all start; other kinds among them taken off."""
    found: dict[str, list[float]] = {}
    for reading in sorted(readings, key=lambda r: len(r.others)):
        if not reading.flops and not reading.bytes:
            beside = sum(n * statistics.median(found.get(k, [0.0])) for k, n in reading.others.items())
            each = (reading.seconds - beside) / reading.nodes
            found.setdefault(reading.kind, []).append(max(each, _NS))
    return {kind: statistics.median(times) for kind, times in found.items()}


def _cache_bytes(products: Iterable[Reading]) -> float:
    """The largest stream whose rate is nearer the best one than the slowest, on a scale of ratios."""
    streams = {r.resident: r.bytes / r.seconds for r in products if r.flops == r.bytes / 2}
    largest = max(streams)
    level = math.sqrt(max(streams.values()) * streams[largest])
    return max((size for size, rate in streams.items() if rate >= level), default=largest)


@dataclass(frozen=True, slots=True)
class _Products:
    node: float
    flops_per_s: float
    cached: float
    main: float
    sharpness: float

    @classmethod
    def fitted(cls, readings: Sequence[Reading], cache: float) -> _Products:
        rates = [r.bytes / r.seconds for r in readings]
        start = (1e-6, max(r.flops / r.seconds for r in readings), max(rates), max(rates) / 2, 1.5)

        def of(values: Sequence[float]) -> _Products:
            node, flops, cached, main, sharpness = values
            return cls(node, flops, max(cached, main), main, min(max(sharpness, 1.0), SHARPEST))

        found = of(minimised(lambda v: _square(readings, lambda r: of(v).seconds(r, cache)), start))
        if all(reading.resident <= cache for reading in readings):
            return replace(found, main=found.cached)  # nothing was slower: no cache was seen to end
        return found

    def seconds(self, reading: Reading, cache: float) -> float:
        """What a reading should have been."""
        rate = self.cached if reading.resident <= cache else self.main
        return reading.nodes * self.node + roof(
            reading.flops / self.flops_per_s, reading.bytes / rate, self.sharpness
        )


def _streaming(readings: Sequence[Reading], products: _Products) -> tuple[float, float, float, float]:
    """Node, flops and bytes per second and error of a kind that does no better than products do."""

    def of(values: Sequence[float]) -> tuple[float, float, float]:
        node, flops, rate = values
        return max(node, products.node), min(flops, products.flops_per_s), min(rate, products.cached)

    def seconds(values: Sequence[float], reading: Reading) -> float:
        node, flops, rate = of(values)
        return reading.nodes * node + roof(reading.flops / flops, reading.bytes / rate, products.sharpness)

    start = (2e-6, products.flops_per_s / 2, products.cached / 2)
    values = minimised(lambda v: _square(readings, lambda r: seconds(v, r)), start)
    return *of(values), _off(readings, lambda r: seconds(values, r))


def roof(compute: float, memory: float, sharpness: float) -> float:
    """The p-norm of the two times, as in ``cost.roofline``."""
    larger = max(compute, memory, 1e-18)
    return float(
        larger * ((compute / larger) ** sharpness + (memory / larger) ** sharpness) ** (1 / sharpness)
    )


def minimised(error: Callable[[Sequence[float]], float], start: Sequence[float]) -> list[float]:
    """Positive numbers at which ``error`` is least nearby: steps along one axis at a time, ever finer."""
    best, least, step = list(start), error(start), 1.0
    while step > FINEST:
        improved = False
        for axis in range(len(best)):
            for factor in (math.exp(step), math.exp(-step)):
                trial = [value * (factor if i == axis else 1.0) for i, value in enumerate(best)]
                found = error(trial)
                if found < least:
                    best, least, improved = trial, found, True
        step = step if improved else step / 2
    return best


def _square(readings: Iterable[Reading], seconds: Callable[[Reading], float]) -> float:
    return sum(math.log(seconds(r) / r.seconds) ** 2 for r in readings)


def _off(readings: Iterable[Reading], seconds: Callable[[Reading], float]) -> float:
    return statistics.median(abs(seconds(r) / r.seconds - 1) for r in readings)
