"""Dynamo manifests: right for the plan, right for Dynamo, and nothing in them breaks out of its place."""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
import yaml

from disaggc.backends.emitters import Settings, emit
from disaggc.backends.emitters.dynamo_manifest import check_deployment
from disaggc.errors import JobError, PlanError
from disaggc.plans import Parallelism, PhasePlan, dump_plan, open_plan

from .hostile import NAMES
from .shapes import rewritten
from .stacks import accepted

Plans = Callable[[str], Path]
LPX = {"build_id": "llama/build_1", "lpu_image": "lpu:1", "conductor_image": "gpu:1"}


def deployed(folder: Path, output: Path, **settings: Any) -> dict[str, Any]:
    """The manifest of a plan, parsed; without the model at hand, so that no time goes into a profile."""
    elsewhere = {"checkpoint": "org/model", "model": output.parent}
    emit(folder, "dynamo", output, Settings(**{**elsewhere, **settings}), force=True)
    manifest: dict[str, Any] = yaml.safe_load((output / "deployment.yaml").read_text(encoding="utf-8"))
    return manifest


def components(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {component["name"]: component for component in manifest["spec"]["components"]}


def main_container(component: dict[str, Any]) -> dict[str, Any]:
    (container,) = component["podTemplate"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def arguments(component: dict[str, Any]) -> list[str]:
    found: list[str] = main_container(component)["args"]
    return found


# What the plan says -----------------------------------------------------------------------------


def test_a_colocated_plan_is_workers_behind_a_frontend(plans: Plans, tmp_path: Path) -> None:
    found = components(deployed(plans("colocated"), tmp_path / "out"))
    assert set(found) == {"Frontend", "worker"}
    plan = open_plan(plans("colocated"))
    assert found["worker"]["replicas"] == plan.pools[0].parallelism.dp
    assert main_container(found["worker"])["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert "multinode" not in found["worker"]
    assert "--disaggregation-mode" not in arguments(found["worker"])


def test_an_engine_that_spans_nodes_says_on_how_many(plans: Plans, tmp_path: Path) -> None:
    worker = components(deployed(plans("wide"), tmp_path / "out"))["worker"]
    assert worker["multinode"] == {"nodeCount": 2}
    assert main_container(worker)["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert "--enable-expert-parallel" in arguments(worker)
    where = arguments(worker).index("--data-parallel-size")
    assert arguments(worker)[where + 1] == "16"


def test_phases_are_components_that_hand_caches_over(plans: Plans, tmp_path: Path) -> None:
    found = components(deployed(plans("phases"), tmp_path / "out"))
    for role, kv_role in (("prefill", "kv_producer"), ("decode", "kv_consumer")):
        assert found[role]["type"] == role
        own = arguments(found[role])
        assert own[own.index("--disaggregation-mode") + 1] == role
        transfer = json.loads(own[own.index("--kv-transfer-config") + 1])
        assert transfer == {"kv_connector": "NixlConnector", "kv_role": kv_role}


def test_sglang_takes_its_own_arguments(plans: Plans, tmp_path: Path) -> None:
    manifest = deployed(plans("wide"), tmp_path / "out", engine="sglang")
    worker = components(manifest)["worker"]
    assert main_container(worker)["command"][-1] == "dynamo.sglang"
    own = arguments(worker)
    assert [own[own.index(name) + 1] for name in ("--tp-size", "--dp-size", "--ep-size")] == ["16"] * 3
    assert "--enable-dp-attention" in own


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("name", ["colocated", "wide", "phases"])
def test_every_argument_is_one_that_the_release_takes(
    plans: Plans, tmp_path: Path, name: str, engine: str
) -> None:
    versions = {"vllm": "vllm-0.31.0", "sglang": "sglang-0.5.21"}
    known = accepted("ai_dynamo-1.6.1") | accepted(versions[engine])
    for component in components(deployed(plans(name), tmp_path / "out", engine=engine)).values():
        used = {each for each in main_container(component).get("args", []) if each.startswith("--")}
        assert used <= known


def test_images_and_names_are_as_asked(plans: Plans, tmp_path: Path) -> None:
    manifest = deployed(
        plans("colocated"), tmp_path / "out", image="mine:2", name="My Model", namespace="prod"
    )
    assert manifest["metadata"] == {"name": "my-model", "namespace": "prod"}
    assert {main_container(c)["image"] for c in manifest["spec"]["components"]} == {"mine:2"}


@pytest.mark.parametrize(
    ("image", "override"),
    [(None, None), ("mine:2", "1.6.1"), ("reg:5000/mine", "1.6.1"), ("mine:1.6.2-arm64", None)],
)
def test_an_image_without_a_release_in_its_tag_says_the_release(
    plans: Plans, tmp_path: Path, image: str | None, override: str | None
) -> None:
    manifest = deployed(plans("phases"), tmp_path / "out", image=image)
    found = {component.get("runtimeVersionOverride") for component in manifest["spec"]["components"]}
    assert found == {override}


# LPX --------------------------------------------------------------------------------------------


def test_decode_on_lpus_is_an_lpx_component_with_the_users_build(plans: Plans, tmp_path: Path) -> None:
    found = components(deployed(plans("lpx"), tmp_path / "out", **LPX))
    assert set(found) == {"Frontend", "lpu"}
    assert found["lpu"]["lpx"] == {"buildId": "llama/build_1"}
    assert [role["name"] for role in found["lpu"]["roles"]] == ["conductor", "agent"]
    assert "nvidia.com/gpu" not in json.dumps(found["lpu"])


def test_the_text_beside_it_says_what_the_build_must_hold(plans: Plans, tmp_path: Path) -> None:
    deployed(plans("lpx"), tmp_path / "out", **LPX)
    told = (tmp_path / "out" / "lpx-build.md").read_text(encoding="utf-8")
    pool = open_plan(plans("lpx")).pools[0]
    assert "| compilation mode | `lpuOnly` |" in told
    assert "| weights, caches, activations | `fp8`, `fp8`, `bf16` |" in told
    assert told.count("| `lpu` |") == pool.parallelism.pp
    first, *_, last = [line for line in told.splitlines() if line.startswith("| `lpu` |")]
    assert "embedding" in first and "head" in last


def _golden(name: str) -> Path:
    from disaggc.library import shelf

    return shelf("plans") / "golden" / name


def test_prefill_on_gpus_feeds_a_hybrid_engine(tmp_path: Path) -> None:
    folder = tmp_path / "plan"
    folder.mkdir()
    plan = replace(open_plan(_golden("llama3_70b"), trust=True), files={})
    (folder / "plan.json").write_bytes(dump_plan(plan))
    (folder / "model.path").write_text("nowhere\n", encoding="utf-8")
    rows = ["phase,node,name,op,layer,role,pool,stage", "decode,0,,Gather,,embedding,vr-nvl72,0"]
    rows += [f"decode,{i + 1},,MatMul,{i},ffn,groq3-lpx,1" for i in range(80)]
    rows.append("decode,81,,MatMul,,head,vr-nvl72,2")
    (folder / "ops.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    found = components(deployed(folder, tmp_path / "out", **LPX))
    assert found["prefill"]["multinode"] == {"nodeCount": 16}
    assert "--tensor-parallel-size" in arguments(found["prefill"])
    conductor, agent = (role["podTemplate"]["spec"]["containers"][0] for role in found["lpu"]["roles"])
    assert conductor["args"][2:] == ["--use-disagg-prefill", "--nixl-kv-layout", "HND", "--num-layers", "80"]
    assert conductor["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert agent["resources"]["limits"] == {"lpu.nvidia.com/devices": "1"}
    told = (tmp_path / "out" / "lpx-build.md").read_text(encoding="utf-8")
    assert "`hybrid`" in told and "| `cuda` | `4 GPUs` |" in told
    assert "a conductor has the 4 of one node" in told


def test_each_data_parallel_rank_of_attention_is_a_conductor_pod(plans: Plans, tmp_path: Path) -> None:
    found = components(deployed(plans("tiny"), tmp_path / "out", **LPX))
    conductor, agent = found["lpu"]["roles"]
    gpus = next(p for p in open_plan(plans("tiny")).pools if p.system == "vr-nvl72")
    assert conductor["replicas"] == gpus.parallelism.dp and "replicas" not in agent
    container = conductor["podTemplate"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": str(gpus.parallelism.tp)}
    assert int(container["resources"]["limits"]["nvidia.com/gpu"]) * conductor["replicas"] == gpus.devices
    assert "--use-disagg-prefill" not in container["args"]  # the plan prefills on LPUs
    told = (tmp_path / "out" / "lpx-build.md").read_text(encoding="utf-8")
    batch = open_plan(plans("tiny")).schedule.micro_batch / conductor["replicas"]
    assert (
        f"`{conductor['replicas']}` of `{gpus.parallelism.tp}` GPUs, `{round(batch, 2)}` requests of a batch"
        in told
    )


def test_a_rank_that_spans_nodes_is_refused(plans: Plans, tmp_path: Path) -> None:
    plan = open_plan(plans("tiny"))
    wide = tuple(
        replace(p, parallelism=Parallelism(tp=8, dp=9)) if p.system == "vr-nvl72" else p for p in plan.pools
    )
    with pytest.raises(
        PlanError, match=r"ranks of 8 GPUs \(tp 8, pp 1\), and a conductor pod has the 4 of one"
    ):
        deployed(rewritten(plans("tiny"), tmp_path / "wide", pools=wide), tmp_path / "out", **LPX)
    assert not (tmp_path / "out").exists()
    manifest = deployed(tmp_path / "wide", tmp_path / "out", node_devices=8, **LPX)
    assert components(manifest)["lpu"]["roles"][0]["replicas"] == 9


def test_two_pools_of_lpus_are_one_build(plans: Plans, tmp_path: Path) -> None:
    plan = open_plan(plans("lpx"))
    (pool,) = plan.pools
    both = (replace(pool, name="lpx-attention"), replace(pool, name="lpx-ffn", devices=2 * pool.devices))
    stage = plan.decode.stages[0]
    decode = PhasePlan(
        (
            replace(stage, pool="lpx-attention", roles=("core_attention",), subgraph=""),
            replace(stage, index=1, pool="lpx-ffn", roles=("ffn",), subgraph=""),
        )
    )
    prefill = PhasePlan((replace(plan.prefill.stages[0], pool="lpx-ffn", subgraph=""),))
    folder = rewritten(plans("lpx"), tmp_path / "both", pools=both, decode=decode, prefill=prefill)
    lpu = components(deployed(folder, tmp_path / "out", **LPX))["lpu"]
    assert lpu["roles"][0]["replicas"] == 1
    told = (tmp_path / "out" / "lpx-build.md").read_text(encoding="utf-8")
    assert "| LPUs of an engine, `lpx-attention` |" in told and "| bytes on one LPU, `lpx-ffn` |" in told


@pytest.mark.parametrize("missing", ["build_id", "lpu_image"])
def test_lpus_need_a_build_and_an_image(plans: Plans, tmp_path: Path, missing: str) -> None:
    settings = {key: value for key, value in LPX.items() if key != missing}
    with pytest.raises(JobError, match=f"compiled build of the model. Add --{missing.replace('_', '-')}"):
        deployed(plans("lpx"), tmp_path / "out", **settings)


# Refusals ---------------------------------------------------------------------------------------


def test_attention_and_experts_on_two_gpu_pools_are_for_another_backend(plans: Plans, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="Use --backend afd-plugin"):
        deployed(plans("experts"), tmp_path / "out")


def test_amd_gpus_are_for_other_backends(plans: Plans, tmp_path: Path) -> None:
    with pytest.raises(
        PlanError, match=r"of AMD mi300x\. Use --backend vllm or sglang, which have ROCm images"
    ):
        deployed(plans("rocm"), tmp_path / "out")


def test_an_engine_that_dynamo_does_not_drive_is_refused(plans: Plans, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="--engine 'vlm' is none that Dynamo drives here"):
        deployed(plans("colocated"), tmp_path / "out", engine="vlm")


def test_a_cache_format_that_the_engine_has_not_is_refused(plans: Plans, tmp_path: Path) -> None:
    plan = open_plan(plans("colocated"))
    odd = rewritten(plans("colocated"), tmp_path / "odd", formats=replace(plan.formats, kv="int4"))
    with pytest.raises(PlanError, match="keeps KV caches in int4, which vLLM does not have"):
        deployed(odd, tmp_path / "out")


# Quoting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", NAMES)
def test_no_checkpoint_breaks_out_of_the_manifest(plans: Plans, tmp_path: Path, text: str) -> None:
    manifest = deployed(plans("colocated"), tmp_path / "out", checkpoint=text)
    assert len(manifest["spec"]["components"]) == 2
    own = arguments(components(manifest)["worker"])
    assert [own[1], own[3]] == [text.replace("$", "$$")] * 2  # Kubernetes reads $$ as $
    assert main_container(components(manifest)["worker"])["command"] == ["python3", "-m", "dynamo.vllm"]


@pytest.mark.parametrize("text", NAMES[::3])
def test_no_image_build_or_name_breaks_out(plans: Plans, tmp_path: Path, text: str) -> None:
    settings = {"build_id": text, "lpu_image": text, "name": text, "checkpoint": text}
    manifest = deployed(plans("lpx"), tmp_path / "out", **settings)
    lpu = components(manifest)["lpu"]
    assert lpu["lpx"]["buildId"] == text
    images = [role["podTemplate"]["spec"]["containers"][0]["image"] for role in lpu["roles"]]
    assert images == [text, text]
    told = (tmp_path / "out" / "lpx-build.md").read_text(encoding="utf-8")
    assert told.splitlines()[2].startswith("The manifest refers to this build")


def test_a_namespace_that_is_none_is_refused(plans: Plans, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"--namespace .* is no name of Kubernetes\. Write lower-case letters"):
        deployed(plans("colocated"), tmp_path / "out", namespace="a\n---")


# The schema -------------------------------------------------------------------------------------


def _broken(manifest: dict[str, Any], break_it: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(manifest))
    break_it(copy)
    return copy


BREAKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown field": lambda m: m["spec"]["components"][1].update(replica=2),
    "unknown type": lambda m: m["spec"]["components"][1].update(type="worker2"),
    "no image": lambda m: m["spec"]["components"][1]["podTemplate"]["spec"]["containers"][0].pop("image"),
    "no main container": lambda m: m["spec"]["components"][1]["podTemplate"]["spec"]["containers"][0].update(
        name="other"
    ),
    "number as limit": lambda m: m["spec"]["components"][1]["podTemplate"]["spec"]["containers"][0][
        "resources"
    ]["limits"].update({"nvidia.com/gpu": 1}),
    "one node": lambda m: m["spec"]["components"][1].update(multinode={"nodeCount": 1}),
    "frontend on nodes": lambda m: m["spec"]["components"][0].update(multinode={"nodeCount": 2}),
    "lpx without build": lambda m: m["spec"]["components"][1].update(type="lpx"),
    "worker with build": lambda m: m["spec"]["components"][1].update(lpx={"buildId": "x"}),
    "old version": lambda m: m.update(apiVersion="nvidia.com/v1alpha1"),
    "two of a name": lambda m: m["spec"]["components"][0].update(name="WORKER"),
    "26 components": lambda m: m["spec"]["components"].extend([m["spec"]["components"][0]] * 24),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_manifest_is_refused(plans: Plans, tmp_path: Path, name: str) -> None:
    manifest = deployed(plans("colocated"), tmp_path / "out")
    check_deployment(manifest)
    with pytest.raises(PlanError, match="DynamoGraphDeployment"):
        check_deployment(_broken(manifest, BREAKS[name]))


def test_dynamos_own_templates_pass_the_schema(dynamo_wheel: zipfile.ZipFile) -> None:
    names = [n for n in dynamo_wheel.namelist() if "/templates/dgd/" in n and n.endswith(".yaml")]
    assert len(names) == 7
    for name in names:
        check_deployment(yaml.safe_load(dynamo_wheel.read(name)))


@pytest.mark.parametrize("name", ["wide", "phases", "tiny"])
def test_kubernetes_takes_every_pod(plans: Plans, tmp_path: Path, name: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    manifest = deployed(plans(name), tmp_path / "out", **LPX_OF[name])
    owners = [c for c in manifest["spec"]["components"] if "podTemplate" in c]
    owners += [role for c in manifest["spec"]["components"] for role in c.get("roles", [])]
    assert len(owners) >= 2
    for owner in owners:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x"},
            "spec": owner["podTemplate"]["spec"],
        }
        kubernetes.validate(pod, "1.31.0", strict=True)


LPX_OF = {"wide": {}, "phases": {}, "tiny": LPX}


def test_dynamos_own_models_read_the_manifest(
    dynamo_wheel: zipfile.ZipFile, plans: Plans, tmp_path: Path
) -> None:
    pydantic = pytest.importorskip("pydantic")
    source = ast.parse(dynamo_wheel.read("dynamo/profiler/utils/config.py"))
    wanted = ("DgdModel", "Container", "PodSpec", "PodTemplate", "MultinodeConfig", "Component", "Spec")
    classes = [
        n for n in source.body if isinstance(n, ast.ClassDef) and n.name in (*wanted, "Metadata", "Config")
    ]
    names: dict[str, Any] = {"BaseModel": pydantic.BaseModel, "Field": pydantic.Field, "__name__": "dgd"}
    names |= {"Any": Any, "Optional": Optional}
    code = compile(ast.Module([*classes], []), "dgd", "exec", dont_inherit=True)
    exec(code, names)  # noqa: S102 - their models, our manifest
    manifest = deployed(plans("wide"), tmp_path / "out")
    read = names["Config"].model_validate(manifest)
    assert read.model_dump() == manifest
    worker = read.spec.components[1]
    assert (worker.component_type, worker.multinode.nodeCount) == ("worker", 2)
    assert worker.podTemplate.spec.containers[0].args[:2] == ["--model", "org/model"]
