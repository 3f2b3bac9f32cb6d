"""What executors reach on this machine, what else its cores can do, and what the cost model said.

    python benchmarks/executors_table.py                                  both models, about 16 minutes
    python benchmarks/executors_table.py --only moe --openings 1          a first impression
    python benchmarks/executors_table.py --smollm2 PATH/model.onnx --moe PATH/qwen3_moe.gqa_moe.onnx
    python benchmarks/executors_table.py --library calibrated             here and here-2t, measured before

The machine is calibrated first (disaggc calibrate --here, with one thread and with two). Each model is then
compiled for one executor, and for two with attention and FFN apart (mode = "afd"), in all layers and in
some of them (some_layers = true: as many as keep both busy); the predictions are of these plans, played on
the virtual clock. All rows are open at a time and take turns in every round, those that are compared one
after the other, so that a change of the machine's speed hits them alike. They are opened anew a few times:
which memory a process was given stays with it, and two with the same row may lie 3.5 % apart for as long as
they live. Rows that differ by hundredths take more turns in each round: two turns one after the other may lie
10 % apart on a shared machine. All processes ask for huge pages, as executors do.

    one session      one onnxruntime session of the whole model, one thread, one request
    two threads      the same with two threads
    batch 2          the same with two requests in one batch, one thread
    two replicas     two such sessions in two processes
    genai            onnxruntime-genai on the plan for one executor, as 'disaggc emit' writes it
    in process, ...  a plan that parts attention and FFN, in one process and one thread
    m=N, ...         the same plan, one process each, N micro-batches of one request in ping-pong

"ratio" is the median of turns one after the other, "+-" its standard error; the second "ratio" is the
predicted one. "upper" is the upper quartile of the turns: what others take of a machine only ever slows,
and the calibration leaves it out, too.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from executor_rows import PROMPT, ROWS, Ran, Row, Running, in_turns

from disaggc.backends.emitters import Settings, emit
from disaggc.calibration import Forecast, calibrate, forecast, in_one_process, write_system
from disaggc.calibration import Options as Calibration
from disaggc.compiler import Options, compile_job
from disaggc.errors import DisaggcError
from disaggc.plans import Job, ModelSpec, Plan, SearchSpec, TierSpec
from disaggc.runtime.pages import with_huge_pages
from disaggc.targets import System, load_library

ROOT = Path(__file__).resolve().parents[1]
ONE, OTHER, TWO_THREADS = "here", "here-too", "here-2t"
_QUARTILES = 1.349
"""Standard deviations between the quartiles of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model.

    Attributes:
        option: What picks it.
        variable: Environment variable with its path.
        default: Where it lies if nobody says.
        cure: What to do if it does not.
        new_tokens: Decoded in a round.
        rounds: For each round that is asked for: a small model's take no time, and vary more.
        turns: In a round, of the rows that differ by hundredths.
        targets: Row to the ratio that is aimed at.
    """

    option: str
    title: str
    variable: str
    default: Path
    cure: str
    new_tokens: int
    rounds: int
    turns: int
    targets: Mapping[str, float]


SUBJECTS = (
    Subject(
        "smollm2",
        "SmolLM2-135M",
        "DISAGGC_SMOLLM2",
        ROOT / "examples" / "smollm2" / "smollm2" / "model.onnx",
        "examples/smollm2/README.md says how to make it",
        48,
        1,
        6,
        {"in process": 0.97, "m=3": 1.6},
    ),
    Subject(
        "moe",
        "tiny MoE",
        "DISAGGC_TINY_MOE",
        ROOT / "examples" / "models" / "qwen3_moe.gqa_moe.onnx",
        "it comes with the checkout",
        400,
        5,
        1,
        {"in process": 0.85, "m=3": 1.9},
    ),
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How often rows are opened, how many rounds they then run, and the turns of close rows in each."""

    openings: int
    rounds: int
    turns: int


def main() -> None:
    """Print a table for each model."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    for subject in SUBJECTS:
        parser.add_argument(
            f"--{subject.option}", type=Path, metavar="MODEL.onnx", help=f"or {subject.variable}"
        )
    parser.add_argument("--only", choices=[subject.option for subject in SUBJECTS])
    parser.add_argument("--openings", type=int, default=4, help="times that all rows are opened anew")
    parser.add_argument("--rounds", type=int, default=2, help="in each opening")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the two calibrations")
    parser.add_argument("--library", type=Path, metavar="DIR", help="calibrated before; not done again")
    options = parser.parse_args()
    asking = with_huge_pages(os.environ)
    if asking != dict(os.environ):  # heard at the start of a process only
        os.execve(sys.executable, [sys.executable, *sys.argv], asking)  # noqa: S606 - this very command
    with tempfile.TemporaryDirectory() as scratch:
        library = options.library or Path(scratch) / "library"
        systems = declared(library, options.seconds, options.library is None)
        for subject in SUBJECTS:
            if options.only in (None, subject.option):
                path = getattr(options, subject.option) or os.environ.get(subject.variable) or subject.default
                effort = Effort(options.openings, options.rounds * subject.rounds, subject.turns)
                show(subject, Path(path), systems, Path(scratch), effort)


def declared(library: Path, seconds: float, fresh: bool) -> dict[str, System]:
    """One executor of one thread, another, and one of two threads; measured unless they are there."""
    if fresh:
        for name, threads in ((ONE, 1), (TWO_THREADS, 2)):
            write_system(_calibrated(name, threads, seconds), library)
    known = load_library(library).systems
    found = {name: known[name] for name in (ONE, TWO_THREADS) if name in known}
    if ONE not in found:
        sys.exit(f"{library} declares no '{ONE}'. Write it: disaggc calibrate --here -o {library}/...")
    found[OTHER] = replace(found[ONE], name=OTHER)
    print(f"{found[ONE].title}\n{found[ONE].notes}", flush=True)
    return found


def _calibrated(name: str, threads: int, seconds: float) -> System:
    return calibrate(Calibration(name, threads, seconds, force=True)).system


def show(subject: Subject, path: Path, systems: Mapping[str, System], scratch: Path, effort: Effort) -> None:
    """Compile, predict, measure, print."""
    if not path.is_file():
        print(f"\n{subject.title}: there is no '{path}'. Give --{subject.option} PATH; {subject.cure}.")
        return
    start = time.perf_counter()
    plans = Plans(path, systems, scratch / subject.option, subject.new_tokens)
    forecasts = dict(plans.forecasts())
    with_genai, why_not = plans.genai()
    rows = [row for row in ROWS if row.kind != "genai" or with_genai]
    measured = measure(rows, plans, effort, subject.new_tokens)
    print(f"\n{subject.title}")
    for layers, cut in plans.cut.items():
        size = f"{len(cut.decode.stages)} stages, {len(cut.decode.transfers)} messages"
        print(f"  {layers}: {cut.mode}; {size}")
    table(subject, rows, measured, forecasts)
    for line in rest(rows, measured, forecasts):
        print(line)
    if why_not:
        print(f"genai: {why_not}")
    took = time.perf_counter() - start
    print(f"{took:.0f} s, {effort.rounds} rounds in each of {effort.openings} openings", flush=True)


class Plans:
    """A model's plans on this machine."""

    def __init__(self, path: Path, systems: Mapping[str, System], scratch: Path, new_tokens: int) -> None:
        self.models, self._path, self._systems = path.parent, path, systems
        self._scratch, self._new_tokens = scratch, new_tokens
        for system in systems.values():
            write_system(system, scratch / "library")
        self.whole = self._compiled("whole", (ONE,), SearchSpec((1,), (1,), "colocated"))
        self.cut = {
            layers: self._compiled(layers, (ONE, OTHER), SearchSpec((1,), (3,), "afd", layers == "some"))
            for layers in ("all", "some")
        }

    def folder(self, row: Row) -> Path:
        """What a row opens."""
        if row.kind == "whole" and row.requests > 1:
            return self._scratch / "batch"  # the uncut model takes its micro-batch from the plan
        return self._scratch / (row.layers or row.kind)

    def forecasts(self) -> Iterator[tuple[str, Forecast]]:
        """The cost model's word on each row."""
        one = forecast(self.whole, 1)
        yield "one session", one
        yield "two replicas", replace(one, tokens_per_s=2 * one.tokens_per_s)
        two = SearchSpec((2,), (1,), "colocated")
        yield "batch 2", forecast(self._compiled("batch", (ONE,), two), 1)
        if TWO_THREADS in self._systems:
            alone = SearchSpec((1,), (1,), "colocated")
            yield "two threads", forecast(self._compiled("threads", (TWO_THREADS,), alone), 1)
        for layers, cut in self.cut.items():
            yield f"in process, {layers}", forecast(in_one_process(cut, self._systems[ONE]), 1)
            for m in (1, 2, 3):
                yield f"m={m}, {layers}", forecast(cut, m)

    def genai(self) -> tuple[bool, str]:
        """Whether onnxruntime-genai can have the plan for one executor, and why not."""
        try:
            import onnxruntime_genai  # noqa: F401 - an extra
        except ImportError:
            return False, "not installed (pip install onnxruntime-genai)"
        try:
            emit(self._scratch / "whole", "ort-genai", self._scratch / "genai", Settings())
        except DisaggcError as error:
            return False, str(error)
        one_thread(self._scratch / "genai" / "genai_config.json")
        return True, ""

    def _compiled(self, name: str, fleet: Sequence[str], search: SearchSpec) -> Plan:
        """A plan for requests such as the rows run."""
        tier = TierSpec(
            name="here",
            context_tokens=4 * self._new_tokens + 64,
            ttft_ms=1e9,
            tokens_per_s_per_user=1e-3,
            input_tokens=len(PROMPT),
            output_tokens=self._new_tokens,
        )
        job = Job(ModelSpec(self._path.name), dict.fromkeys(fleet, 1), (tier,), search=search)
        settings = Options(library=self._scratch / "library", force=True)
        return compile_job(job, self.models, self._scratch / name, settings)


def one_thread(config: Path) -> None:
    """Let genai compute with one thread, as the rows beside it do."""
    import json

    data = json.loads(config.read_text(encoding="utf-8"))
    decoder = data["model"]["decoder"]
    for options in [decoder, *(stage for entry in decoder.get("pipeline", ()) for stage in entry.values())]:
        options.setdefault("session_options", {"provider_options": []})["intra_op_num_threads"] = 1
    config.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


Measured = Mapping[str, Sequence[Sequence[Ran]]]
"""Row to its turns in each round."""


def measure(rows: Sequence[Row], plans: Plans, effort: Effort, new_tokens: int) -> Measured:
    """Every row in each round, in the order of ``in_turns``, every other round backwards."""
    names = {row.name for row in rows}
    found: dict[str, list[list[Ran]]] = {name: [] for name in names}
    for _ in range(effort.openings):
        running = {row.name: Running(row, plans.folder(row), plans.models) for row in rows}
        for each in running.values():
            each.wait()
        for number in range(effort.rounds):
            for turns in found.values():
                turns.append([])
            for name in in_turns(effort.turns)[:: -1 if number % 2 else 1]:
                if name in names:
                    found[name][-1].append(running[name].run(new_tokens))
        for each in running.values():
            each.close()
    return found


def table(
    subject: Subject,
    rows: Sequence[Row],
    measured: Measured,
    forecasts: Mapping[str, Forecast],
) -> None:
    """Measured and predicted rates; ratios are taken within a round, and their median is printed."""
    print(
        f"{'':17}{'threads':>8}{'tok/s':>9}{'range':>14}{'ratio':>8}{'+-':>7} {'to':12}{'target':>7}"
        f"{'predicted':>10}{'error':>7}{'upper':>8}{'error':>7}{'ratio':>7}{'CPU':>6}"
    )
    for row in rows:
        rates = sorted(ran.tokens_per_s for turns in measured[row.name] for ran in turns)
        found = list(ratios(measured[row.name], measured[row.baseline]))
        ratio, error = statistics.median(found), standard_error(found)
        target = f"{subject.targets[row.way]:.2f}" if row.way in subject.targets else ""
        spread = f"{_rate(rates[0])}-{_rate(rates[-1])}"
        used = statistics.median(ran.cpu for turns in measured[row.name] for ran in turns)
        cpu = f"{used:>6.2f}" if row.kind != "processes" else ""
        print(
            f"{row.name:17}{row.cores:>8}{_rate(statistics.median(rates)):>9}{spread:>14}{ratio:>8.3f}"
            f"{error:>7.3f} {row.baseline:12}{target:>7}{_said(row, rates, forecasts)}{cpu}"
        )


def ratios(rounds: Sequence[Sequence[Ran]], baseline: Sequence[Sequence[Ran]]) -> Iterator[float]:
    """Of rates, a turn to the one beside it; to the median of the round's where it has others' turns."""
    for turns, base in zip(rounds, baseline, strict=True):
        rates = [ran.tokens_per_s for ran in base]
        if len(turns) != len(base):
            rates = [statistics.median(rates)] * len(turns)
        yield from (ran.tokens_per_s / rate for ran, rate in zip(turns, rates, strict=True))


def standard_error(found: Sequence[float]) -> float:
    """That of their median, by their quartiles, as if the middle were normal; nan of a single one."""
    if len(found) < 2:
        return math.nan
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return math.sqrt(math.pi / 2 / len(found)) * (high - low) / _QUARTILES


def _said(row: Row, rates: Sequence[float], forecasts: Mapping[str, Forecast]) -> str:
    """A prediction with its error to the median and to the upper quartile, which others disturb less."""
    said = forecasts.get(row.name)
    if said is None:
        return " " * 39
    rate, upper = statistics.median(rates), _upper(rates)
    ratio = said.tokens_per_s / forecasts[row.baseline].tokens_per_s
    return (
        f"{_rate(said.tokens_per_s):>10}{said.tokens_per_s / rate - 1:>+7.0%}"
        f"{_rate(upper):>8}{said.tokens_per_s / upper - 1:>+7.0%}{ratio:>7.2f}"
    )


def _upper(rates: Sequence[float]) -> float:
    return rates[0] if len(rates) == 1 else statistics.quantiles(rates, n=4, method="inclusive")[2]


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def rest(rows: Sequence[Row], measured: Measured, forecasts: Mapping[str, Forecast]) -> Iterator[str]:
    """Where a step goes: within onnxruntime by pool, and the rest, beside what was predicted."""
    yield "where a step of one micro-batch goes (us): within onnxruntime by executor, and what is left"
    for row in rows:
        runs = [ran for turns in measured[row.name] for ran in turns]
        if not runs[0].inside_us:
            continue
        step = statistics.median(ran.step_us for ran in runs)
        parts = {p: statistics.median(r.inside_us[p] for r in runs) for p in runs[0].inside_us}
        told = ", ".join(f"{pool} {inside:,.0f} ({inside / step:.0%})" for pool, inside in parts.items())
        left = step - sum(parts.values()) if row.kind != "processes" else step - max(parts.values())
        what = "the busier one waits or moves" if row.kind == "processes" else "feeds, hops, tokens"
        calls = f"{runs[0].calls:.0f} calls"
        crossed = f", {runs[0].messages:.0f} messages of {runs[0].nbytes:,.0f} B" if runs[0].messages else ""
        yield f"  {row.name:17}{step:>9,.0f} = {told}; {what} {left:,.0f} ({calls}{crossed})"
    for row in rows:
        said = forecasts.get(row.name)
        if said is not None and row.kind == "processes":
            busy = ", ".join(f"{name} {share:.0%}" for name, share in said.busy.items())
            yield f"  {row.name} predicted busy: {busy}"


if __name__ == "__main__":
    main()
