"""vLLM and SGLang: the scripts are run, with commands that note their arguments in place of the engines."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from disaggc.backends.emitters import Settings, emit
from disaggc.backends.emitters.launching import LaunchEmitter
from disaggc.backends.emitters.registry import emitter
from disaggc.errors import JobError, PlanError
from disaggc.plans import open_plan

from .hostile import BASH, NAMES, RECORD, bash, calls, needs_bash, stub
from .shapes import rewritten
from .stacks import accepted

Plans = Callable[[str], Path]
RELEASES = {"vllm": ("vllm-0.31.0", "vllm-0.33.0"), "sglang": ("sglang-0.5.21", "sglang-0.5.23")}
ROUTERS = {"vllm": "vllm_router-0.1.17", "sglang": "sglang_router-0.3.2"}
STACKS = tuple(RELEASES)


def written(folder: Path, stack: str, output: Path, **settings: Any) -> Path:
    emit(folder, stack, output, Settings(**{"checkpoint": "org/model", **settings}), force=True)
    return output


def started(output: Path, script: str, **environment: str) -> list[str]:
    """The arguments that a launch script hands to its engine."""
    record = output / "record"
    record.unlink(missing_ok=True)
    for name in ("vllm", "python3", "vllm-router"):
        stub(output, name, RECORD)
    bash(output / script, output, {"RECORD": str(record), **environment})
    (call,) = calls(record)
    return call


def value(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


# What is started --------------------------------------------------------------------------------


@needs_bash
def test_vllm_serves_what_the_plan_says(plans: Plans, tmp_path: Path) -> None:
    output = written(plans("colocated"), "vllm", tmp_path / "out")
    plan, own = open_plan(plans("colocated")), started(output, "launch/aggregated.sh", PORT="8003")
    assert own[:2] == ["serve", "org/model"]
    assert value(own, "--tensor-parallel-size") == str(plan.pools[0].parallelism.tp)
    assert value(own, "--max-model-len") == str(plan.schedule.context_tokens)
    in_flight = plan.schedule.micro_batch * plan.schedule.micro_batches
    assert int(value(own, "--max-num-seqs")) * plan.pools[0].parallelism.dp == in_flight
    assert value(own, "--kv-cache-dtype") == "fp8"
    assert value(own, "--port") == "8003"


@needs_bash
def test_the_nodes_of_a_vllm_engine_divide_its_ranks(plans: Plans, tmp_path: Path) -> None:
    output = written(plans("wide"), "vllm", tmp_path / "out")
    head = started(output, "launch/aggregated.sh", HEAD_ADDRESS="10.0.0.1")
    other = started(output, "launch/aggregated.sh", HEAD_ADDRESS="10.0.0.1", NODE_RANK="1")
    for own in (head, other):
        assert value(own, "--data-parallel-size") == "16"
        assert value(own, "--data-parallel-size-local") == "8"
        assert value(own, "--data-parallel-address") == "10.0.0.1"
    assert "--headless" in other and value(other, "--data-parallel-start-rank") == "8"
    assert "--headless" not in head and "--port" not in other


@needs_bash
def test_a_vllm_rank_over_several_nodes_names_its_master(plans: Plans, tmp_path: Path) -> None:
    plan = open_plan(plans("colocated"))
    pool = replace(plan.pools[0], parallelism=replace(plan.pools[0].parallelism, tp=16, dp=1, ep=16))
    folder = rewritten(plans("colocated"), tmp_path / "plan", pools=(pool,))
    output = written(folder, "vllm", tmp_path / "out")
    other = started(output, "launch/aggregated.sh", HEAD_ADDRESS="h", NODE_RANK="1")
    assert [value(other, n) for n in ("--nnodes", "--node-rank", "--master-addr")] == ["2", "1", "h"]
    assert "--headless" in other


@needs_bash
def test_the_nodes_of_an_sglang_engine_meet_at_its_head(plans: Plans, tmp_path: Path) -> None:
    output = written(plans("wide"), "sglang", tmp_path / "out")
    own = started(output, "launch/aggregated.sh", HEAD_ADDRESS="10.0.0.1", NODE_RANK="1")
    assert own[:2] == ["-m", "sglang.launch_server"]
    assert [value(own, n) for n in ("--tp-size", "--dp-size", "--ep-size")] == ["16"] * 3
    assert [value(own, n) for n in ("--nnodes", "--node-rank")] == ["2", "1"]
    assert value(own, "--dist-init-addr") == "10.0.0.1:29500"


@needs_bash
@pytest.mark.parametrize("stack", STACKS)
def test_phases_hand_caches_over(plans: Plans, tmp_path: Path, stack: str) -> None:
    output = written(plans("phases"), stack, tmp_path / "out")
    prefill = started(output, "launch/prefill.sh", SIDE_PORT="5700")
    decode = started(output, "launch/decode.sh")
    if stack == "vllm":
        roles = [json.loads(value(own, "--kv-transfer-config"))["kv_role"] for own in (prefill, decode)]
        assert roles == ["kv_producer", "kv_consumer"]
    else:
        assert [value(own, "--disaggregation-mode") for own in (prefill, decode)] == ["prefill", "decode"]
        assert value(prefill, "--disaggregation-bootstrap-port") == "5700"


@needs_bash
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("name", ["colocated", "wide", "phases", "rocm"])
def test_every_argument_is_one_that_the_releases_take(
    plans: Plans, tmp_path: Path, name: str, stack: str
) -> None:
    output = written(plans(name), stack, tmp_path / "out")
    for script in sorted((output / "launch").glob("*.sh")):
        router = script.stem == "router"
        urls = {"PREFILL_URLS": "http://a:1", "DECODE_URLS": "http://b:2", "URLS": "http://c:3 http://d:4"}
        own = started(output, f"launch/{script.name}", **(urls if router else {"NODE_RANK": "1"}))
        used = {each for each in own if each.startswith("--")}
        for release in (ROUTERS[stack],) if router else RELEASES[stack]:
            assert used <= accepted(release), release


@needs_bash
@pytest.mark.parametrize("stack", STACKS)
def test_the_router_knows_every_engine(plans: Plans, tmp_path: Path, stack: str) -> None:
    output = written(plans("phases"), stack, tmp_path / "out")
    (output / "endpoints").mkdir()
    port = " 5600" if stack == "sglang" else ""
    (output / "endpoints" / "prefill.0").write_text(f"http://a:8000{port}\nhttp://a:8001{port}\n")
    (output / "endpoints" / "decode.0").write_text("http://b:8000\n")
    own = started(output, "launch/router.sh")
    assert own.count("--prefill") == 2 and own.count("--decode") == 1
    assert value(own, "--decode") == "http://b:8000"


# Slurm and Compose ------------------------------------------------------------------------------


def _slurm(output: Path, script: str, task: int) -> list[dict[str, str]]:
    """The launch scripts that a Slurm job starts, by the environment that they get."""
    stub(output, "scontrol", "echo node7; echo node8")
    stub(
        output,
        "srun",
        'printf "%s\\0" "PORT=$PORT" "SIDE=$SIDE_PORT" "HEAD=$HEAD_ADDRESS" '
        '"DEVICES=${CUDA_VISIBLE_DEVICES:-$HIP_VISIBLE_DEVICES}" "LAST=${!#}" >"$RECORD.$PORT"',
    )
    environment = {"RECORD": str(output / "job"), "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_NODELIST": "x"}
    bash(output / script, output, environment)
    found = sorted(output.glob("job.*"))
    texts = [path.read_text().split("\0")[:-1] for path in found]
    for path in found:
        path.unlink()
    return [dict(entry.split("=", 1) for entry in text) for text in texts]


@needs_bash
def test_a_slurm_job_fills_a_node_with_engines(plans: Plans, tmp_path: Path) -> None:
    output = written(plans("colocated"), "vllm", tmp_path / "out")
    jobs = _slurm(output, "slurm/aggregated.sbatch", 1)
    assert [job["PORT"] for job in jobs] == [str(8000 + i) for i in range(8)]
    assert [job["DEVICES"] for job in jobs] == [str(i) for i in range(8)]
    assert {job["LAST"] for job in jobs} == {"NODE_RANK=$SLURM_NODEID exec bash launch/aggregated.sh"}
    told = (output / "endpoints" / "aggregated.1").read_text().split()
    assert told == [f"http://node7:{8000 + i}" for i in range(8)]
    assert "#SBATCH --array=0-1\n" in (output / "slurm" / "aggregated.sbatch").read_text()


@needs_bash
def test_the_last_node_starts_only_the_engines_that_are_left(plans: Plans, tmp_path: Path) -> None:
    plan = open_plan(plans("colocated"))
    pool = replace(plan.pools[0], devices=11, parallelism=replace(plan.pools[0].parallelism, dp=11))
    folder = rewritten(plans("colocated"), tmp_path / "plan", pools=(pool,))
    output = written(folder, "vllm", tmp_path / "out")
    assert [len(_slurm(output, "slurm/aggregated.sbatch", task)) for task in (0, 1)] == [8, 3]


@needs_bash
def test_a_wide_engine_is_one_slurm_job_on_all_its_nodes(plans: Plans, tmp_path: Path) -> None:
    output = written(plans("wide"), "vllm", tmp_path / "out")
    (job,) = _slurm(output, "slurm/aggregated.sbatch", 0)
    assert (job["HEAD"], job["DEVICES"]) == ("node7", "0,1,2,3,4,5,6,7")
    text = (output / "slurm" / "aggregated.sbatch").read_text()
    assert "#SBATCH --nodes=2\n" in text and "#SBATCH --gpus-per-node=8\n" in text


def test_compose_gives_each_engine_devices_of_its_own(plans: Plans, tmp_path: Path) -> None:
    output = written(plans("colocated"), "vllm", tmp_path / "out")
    services = yaml.safe_load((output / "compose" / "aggregated.yaml").read_text())["services"]
    reserved = [
        service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for service in services.values()
    ]
    assert reserved == [[str(i)] for i in range(8)]
    ports = [service["environment"]["PORT"] for service in services.values()]
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize(
    ("stack", "image"),
    [("vllm", "vllm/vllm-openai-rocm:v0.33.0"), ("sglang", "lmsysorg/sglang:v0.5.23-rocm700-mi30x")],
)
def test_amd_gpus_get_rocm_images_and_devices(plans: Plans, tmp_path: Path, stack: str, image: str) -> None:
    output = written(plans("rocm"), stack, tmp_path / "out")
    (service,) = yaml.safe_load((output / "compose" / "aggregated.yaml").read_text())["services"].values()
    assert service["image"] == image
    assert service["devices"] == ["/dev/kfd", "/dev/dri"]
    assert service["environment"]["HIP_VISIBLE_DEVICES"] == "0,1,2,3,4,5,6,7"
    assert "HIP_VISIBLE_DEVICES" in (output / "slurm" / "aggregated.sbatch").read_text()


def test_a_checkpoint_on_disk_is_mounted(plans: Plans, tmp_path: Path) -> None:
    output = written(plans("colocated"), "vllm", tmp_path / "out", checkpoint="/models/a:b $x")
    service = next(
        iter(yaml.safe_load((output / "compose" / "aggregated.yaml").read_text())["services"].values())
    )
    mount = service["volumes"][-1]
    assert (mount["source"], mount["target"]) == (
        "/models/a:b $$x",
        "/models/a:b $$x",
    )  # Compose reads $$ as $


# Quoting ----------------------------------------------------------------------------------------


@needs_bash
@pytest.mark.parametrize("stack", STACKS)
def test_no_checkpoint_breaks_out_of_a_script(plans: Plans, tmp_path: Path, stack: str) -> None:
    for text in NAMES[:20:2]:
        output = written(plans("colocated"), stack, tmp_path / "out", checkpoint=text)
        own = started(output, "launch/aggregated.sh")
        assert own.count(text) >= 2 and value(own, "--served-model-name") == text
        assert not (output / "owned").exists()


@pytest.mark.parametrize("text", NAMES[1::4])
def test_no_name_or_image_breaks_out_of_the_files(plans: Plans, tmp_path: Path, text: str) -> None:
    output = written(plans("phases"), "vllm", tmp_path / "out", name=text, image=text, checkpoint=text)
    for path in output.glob("compose/*.yaml"):
        services = yaml.safe_load(path.read_text(encoding="utf-8"))["services"]
        assert {s["image"] for s in services.values()} == {text.replace("$", "$$")}
    for path in output.glob("slurm/*.sbatch"):
        names = [line for line in path.read_text(encoding="utf-8").splitlines() if "job-name" in line]
        assert len(names) == 1 and names[0].removeprefix("#SBATCH --job-name=").replace("-", "").isalnum()


@needs_bash
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("name", ["wide", "phases", "rocm"])
def test_bash_can_read_every_script(plans: Plans, tmp_path: Path, name: str, stack: str) -> None:
    output = written(plans(name), stack, tmp_path / "out", checkpoint="a'b\n$(c)")
    scripts = [p for p in output.rglob("*") if p.suffix in (".sh", ".sbatch")]
    assert len(scripts) >= 2
    for script in scripts:
        subprocess.run([str(BASH), "-n", str(script)], check=True)  # noqa: S603 - ours


SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))


@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck here")
@pytest.mark.parametrize(
    ("name", "backend"), [(n, s) for n in ("colocated", "wide", "phases", "rocm") for s in STACKS]
)
def test_shellcheck_finds_nothing(plans: Plans, tmp_path: Path, name: str, backend: str) -> None:
    output = written(plans(name), backend, tmp_path / "out", checkpoint="a'b\n$(c)")
    scripts = [str(p) for p in output.rglob("*") if p.suffix in (".sh", ".sbatch")]
    command = [str(SHELLCHECK), "--shell=bash", "--norc", *scripts]
    told = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert told.stdout == ""


def test_the_compose_specification_takes_the_files(plans: Plans, tmp_path: Path, wheels: Path) -> None:
    found = sorted(wheels.glob("docker_compose-1.29*.whl"))
    if not found:
        pytest.skip("no docker-compose 1.29 wheel, which holds the specification's schema")
    schema = json.loads(zipfile.ZipFile(found[0]).read("compose/config/compose_spec.json"))
    for name, stack in (("wide", "vllm"), ("phases", "sglang"), ("rocm", "vllm")):
        output = written(plans(name), stack, tmp_path / name, checkpoint="/models/m")
        for path in output.glob("compose/*.yaml"):
            jsonschema.Draft7Validator(schema).validate(yaml.safe_load(path.read_text(encoding="utf-8")))


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_without_checkpoint_asks_for_one(plans: Plans, tmp_path: Path, stack: str) -> None:
    with pytest.raises(JobError, match=r"not the ONNX file\. Add --checkpoint"):
        written(plans("colocated"), stack, tmp_path / "out", checkpoint=None)


@pytest.mark.parametrize("text", ["-n", "--trust-remote-code", "- x"])
@pytest.mark.parametrize("stack", STACKS)
def test_a_checkpoint_that_reads_as_an_option_is_refused(
    plans: Plans, tmp_path: Path, stack: str, text: str
) -> None:
    with pytest.raises(JobError, match="would be read as an option"):
        written(plans("colocated"), stack, tmp_path / "out", checkpoint=text)


@pytest.mark.parametrize("stack", STACKS)
def test_lpus_are_for_another_backend(plans: Plans, tmp_path: Path, stack: str) -> None:
    with pytest.raises(PlanError, match=r"'groq3-lpx' is of NVIDIA \(Groq\) lp30.*dynamo for LPX racks"):
        written(plans("lpx"), stack, tmp_path / "out")


def test_vllm_ranks_that_span_nodes_are_refused_beside_others(plans: Plans, tmp_path: Path) -> None:
    plan = open_plan(plans("wide"))
    pool = replace(plan.pools[0], parallelism=replace(plan.pools[0].parallelism, tp=8, dp=2, ep=16))
    folder = rewritten(plans("wide"), tmp_path / "plan", pools=(pool,))
    with pytest.raises(PlanError, match="keeps each data-parallel rank within a node"):
        written(folder, "vllm", tmp_path / "out", node_devices=4)
    written(folder, "sglang", tmp_path / "other", node_devices=4)


def test_a_device_without_a_known_image_asks_for_one(plans: Plans, tmp_path: Path) -> None:
    plan = open_plan(plans("rocm"))
    pool = replace(plan.pools[0], system="helios", device="mi455x")
    folder = rewritten(plans("rocm"), tmp_path / "plan", pools=(pool,))
    with pytest.raises(JobError, match=r"No SGLang image is known for mi455x\. Add --image"):
        written(folder, "sglang", tmp_path / "out")


def test_every_stack_is_of_the_same_kind() -> None:
    assert all(isinstance(emitter(stack), LaunchEmitter) for stack in STACKS)
