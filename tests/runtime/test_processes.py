"""One process an executor: same tokens, real concurrency, any ratio of executors, and nothing left behind."""

import gc
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from disaggc.errors import JobError, PlanError
from disaggc.runtime import Execution, deploy, run, verify

from .fleets import PROMPTS, all_gone, cut, fleet, is_alive, on_processes

STEPS = 20
TINY = Path(__file__).resolve().parents[2] / "examples" / "models" / "qwen3_moe.gqa_moe.onnx"
EXPORTERS = (
    "deepseek_v3.batched_mm.dynamo.op23.onnx",
    "llama.dynamo.op18.onnx",
    "mobius/llama.static/model.onnx",
    "genai/gpt_oss.fp32/model.onnx",
)


@pytest.mark.parametrize("prefill_pool", [None, "prefill"])
def test_processes_generate_what_the_uncut_model_does(tmp_path: Path, prefill_pool: str | None) -> None:
    plan = cut(TINY, tmp_path, prefill_pool)
    found = verify(plan, tmp_path, TINY.parent, PROMPTS, STEPS, execution=on_processes())
    assert found.tokens_equal
    assert found.difference <= 1e-5 * found.magnitude
    assert (found.planned.handed_over > 0) == (prefill_pool is not None)
    assert {(link.source, link.target) for link in found.planned.links} >= {("attention", "experts")}


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_exporters_caches_live_in_processes(shared_models: Path, tmp_path: Path, name: str) -> None:
    path = shared_models / name
    plan = cut(path, tmp_path, "prefill", parts=3)
    found = verify(plan, tmp_path, path.parent, PROMPTS, 6, execution=on_processes())
    assert found.tokens_equal
    assert found.difference <= 1e-5 * found.magnitude


@pytest.mark.parametrize(("attention", "experts"), [(2, 1), (1, 2), (3, 2)])
def test_any_ratio_of_executors_gives_the_same_tokens(tmp_path: Path, attention: int, experts: int) -> None:
    plan = cut(TINY, tmp_path)
    execution = on_processes({"attention": attention, "experts": experts})
    prompts = [[i + 1, 2 * i + 1, 7] for i in range(6)]
    expected = run(plan, tmp_path, TINY.parent, prompts, STEPS).tokens
    with fleet(plan, tmp_path, TINY, execution) as (deployment, processes):
        found = deployment.generate(prompts, STEPS)
        assert len(processes.pids) == attention + experts
    assert found.tokens == expected
    busy = {(r.pool, r.instance) for r in found.reports if any(stage.calls for stage in r.stages)}
    assert len(busy) == attention + experts


def test_an_executor_works_on_one_micro_batch_while_another_is_away(tmp_path: Path) -> None:
    """Between two stages of one step of one micro-batch it runs a stage of the other."""
    plan = cut(TINY, tmp_path)
    with fleet(plan, tmp_path, TINY, on_processes(traced=True)) as (deployment, _):
        found = deployment.generate([[1, 2, 3]] * 2, 120)
    for report in found.reports:
        ran = sorted(report.ran, key=lambda span: span.start_ns)
        between = [
            b
            for a, b, c in zip(ran, ran[1:], ran[2:], strict=False)
            if (a.group, a.step) == (c.group, c.step) and b.group != a.group
        ]
        assert between, f"{report.pool} took one micro-batch after the other"


def test_a_message_larger_than_a_ring_arrives(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path, "prefill")
    prompt = [[i % 500 for i in range(3000)]]
    expected = run(plan, tmp_path, TINY.parent, prompt, 3, keep_logits=True)
    with fleet(plan, tmp_path, TINY, on_processes()) as (deployment, _):
        found = deployment.generate(prompt, 3, keep_logits=True)
    assert found.tokens == expected.tokens
    assert (found.logits[0] == expected.logits[0]).all()
    assert found.handed_over > 1 << 20


def test_a_poisoned_request_fails_alone_in_processes(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    expected = run(plan, tmp_path, TINY.parent, [[1, 2], [4, 5]], STEPS).tokens
    with fleet(plan, tmp_path, TINY, on_processes()) as (deployment, processes):
        before = dict(processes.pids)
        found = deployment.generate([[1, 2], [3, 512], [4, 5]], STEPS)
        assert processes.pids == before
        assert found.tokens == (expected[0], (), expected[1])
        assert isinstance(found.failures[1], JobError)
        assert "Token id 512 is not in the model's vocabulary" in str(found.failures[1])
        with pytest.raises(JobError, match="Token id 700 is not in the model's vocabulary"):
            deployment.generate([[700]], 1)
        assert deployment.generate([[1, 2]], STEPS).tokens == expected[:1]


def test_a_subgraph_that_a_worker_cannot_load_is_named(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    (tmp_path / plan.decode.stages[1].subgraph).write_bytes(b"no model")
    with pytest.raises(PlanError, match=r"cannot load 'subgraphs/decode_001.onnx'"):
        deploy(plan, tmp_path, TINY.parent, execution=on_processes())


def test_a_pool_that_does_not_exist_gets_the_nearest_name(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    with pytest.raises(JobError, match=r"The plan has no pool 'atention'. Did you mean 'attention'\?"):
        run(plan, tmp_path, TINY.parent, [[1]], 1, execution=Execution(instances={"atention": 2}))
    with pytest.raises(JobError, match="Pool 'experts' cannot have 0 instances"):
        run(plan, tmp_path, TINY.parent, [[1]], 1, execution=Execution(instances={"experts": 0}))


def test_closing_leaves_no_process_no_descriptor_and_no_shared_memory(tmp_path: Path) -> None:
    plan = cut(TINY, tmp_path)
    gc.collect()
    open_before = _descriptors()

    def live_and_die() -> list[int]:
        with fleet(plan, tmp_path, TINY, on_processes()) as (deployment, processes):
            deployment.generate(PROMPTS, 3)
            assert all(map(is_alive, processes.pids.values()))
            return list(processes.pids.values())

    pids = live_and_die()
    gc.collect()
    assert not any(map(is_alive, pids))
    assert _descriptors() == open_before
    assert "memfd:disaggc" not in _mapped()


PROGRAM = """
import pickle, sys
from pathlib import Path
from disaggc.runtime import Deployment, Execution
from disaggc.runtime.processes import Processes

folder, models = Path(sys.argv[1]), Path(sys.argv[2])
plan = pickle.loads((folder / "plan.pickle").read_bytes())
here = Execution(on="processes")
processes = Processes(plan, folder, models, {"attention": 1, "experts": 1}, 1, here)
with Deployment(plan, processes, here) as deployment:
    print(*processes.pids.values(), flush=True)
    deployment.generate([[1, 2, 3]], 1_000_000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_driver_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    plan = cut(TINY, tmp_path)
    (tmp_path / "plan.pickle").write_bytes(pickle.dumps(plan))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(TINY.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as driver:  # noqa: S603
        assert driver.stdout is not None
        pids = [int(word) for word in driver.stdout.readline().split()]
        assert len(pids) == 2
        driver.send_signal(number)
        driver.wait()
    assert all_gone(pids)


def _mapped() -> str:
    path = Path("/proc/self/maps")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.is_dir() else 0  # noqa: PTH208 - pathlib opens one itself
