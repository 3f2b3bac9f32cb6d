"""Values for llm-d's chart: taken by its published schema and, where it is at hand, by Helm itself."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from disaggc.backends.emitters import Settings, emit
from disaggc.errors import JobError, PlanError
from disaggc.plans import open_plan

from .hostile import NAMES, RECORD, bash, calls, needs_bash, stub
from .shapes import rewritten
from .stacks import accepted

Plans = Callable[[str], Path]
SCHEMA = Path(__file__).parent / "published" / "llm-d-modelservice-v0.4.12.values.schema.json.xz"


def values(folder: Path, output: Path, **settings: Any) -> dict[str, Any]:
    emit(folder, "llm-d", output, Settings(**{"checkpoint": "org/model", **settings}), force=True)
    found: dict[str, Any] = yaml.safe_load((output / "values.yaml").read_text(encoding="utf-8"))
    return found


def container(section: dict[str, Any]) -> dict[str, Any]:
    (found,) = section["containers"]
    made: dict[str, Any] = found
    return made


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(_schema())


def _schema() -> dict[str, Any]:
    with lzma.open(SCHEMA) as file:
        found: dict[str, Any] = json.load(file)
    return found


# What the plan says -----------------------------------------------------------------------------


def test_phases_are_prefill_and_decode_behind_a_proxy(plans: Plans, tmp_path: Path) -> None:
    found = values(plans("phases"), tmp_path / "out")
    plan = open_plan(plans("phases"))
    for section in ("prefill", "decode"):
        assert found[section]["replicas"] == plan.pools[0].parallelism.dp
        own = container(found[section])["args"]
        assert json.loads(own[own.index("--kv-transfer-config") + 1])["kv_connector"] == "NixlConnector"
    assert found["routing"]["proxy"]["enabled"] is True
    ports = {s: container(found[s])["ports"][0]["containerPort"] for s in ("prefill", "decode")}
    assert ports == {"prefill": 8000, "decode": 8200}


def test_a_colocated_plan_is_a_decode_section_alone(plans: Plans, tmp_path: Path) -> None:
    found = values(plans("colocated"), tmp_path / "out", name="Chat!")
    assert found["prefill"] == {"create": False}
    assert found["routing"]["proxy"]["enabled"] is False and found["multinode"] is False
    assert found["decode"]["replicas"] == 16 and found["fullnameOverride"] == "chat"
    assert "env" not in container(found["decode"])
    assert container(found["decode"])["resources"]["limits"] == {"nvidia.com/gpu": "1"}


def test_an_engine_over_nodes_is_a_set_of_pods_that_run_its_script(plans: Plans, tmp_path: Path) -> None:
    found = values(plans("wide"), tmp_path / "out")
    decode = found["decode"]
    assert found["multinode"] is True
    assert decode["parallelism"] == {"tensor": 1, "data": 16, "dataLocal": 8, "workers": 2}
    assert container(decode)["command"] == ["/bin/bash", "-c"]
    assert container(decode)["resources"]["limits"] == {"nvidia.com/gpu": "8"}


@needs_bash
@pytest.mark.parametrize("rank", [0, 1])
def test_each_node_of_an_engine_knows_its_rank_and_head(plans: Plans, tmp_path: Path, rank: int) -> None:
    (script,) = container(values(plans("wide"), tmp_path / "out")["decode"])["args"]
    path = tmp_path / "run.sh"
    path.write_text(script.replace("$$", "$"), encoding="utf-8")  # as Kubernetes hands it over
    stub(tmp_path, "vllm", RECORD)
    pod = {
        "LWS_WORKER_INDEX": str(rank),
        "LWS_LEADER_ADDRESS": "leader.svc",
        "RECORD": str(tmp_path / "calls"),
    }
    bash(path, tmp_path, pod)
    (own,) = calls(tmp_path / "calls")
    assert own[own.index("--data-parallel-address") + 1] == "leader.svc"
    if rank:
        assert own[own.index("--data-parallel-start-rank") + 1] == "8" and "--headless" in own
    else:
        assert own[own.index("--port") + 1] == "8000" and "--headless" not in own


def test_every_argument_is_vllms(plans: Plans, tmp_path: Path) -> None:
    for name in ("colocated", "phases"):
        for section in ("prefill", "decode"):
            found = values(plans(name), tmp_path / name)[section]
            if "containers" in found:
                own = {a for a in container(found)["args"] if a.startswith("--")}
                assert own and own <= accepted("vllm-0.33.0")
                assert not own & {"--tensor-parallel-size", "--data-parallel-size"}  # the chart's own


def test_amd_gpus_are_asked_for_by_their_name_and_image(plans: Plans, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"No llm-d image is known for AMD GPUs\. Add --image"):
        values(plans("rocm"), tmp_path / "out")
    found = values(plans("rocm"), tmp_path / "out", image="registry/llm-d-rocm:1")
    assert found["accelerator"] == {"type": "amd"}
    assert container(found["decode"])["resources"]["limits"] == {"amd.com/gpu": "8"}


@pytest.mark.parametrize(
    ("checkpoint", "uri", "name", "path"),
    [
        ("org/model", "hf://org/model", "org/model", "org/model"),
        ("hf://org/model", "hf://org/model", "org/model", "org/model"),
        ("pvc://claim/a/b", "pvc://claim/a/b", "a/b", "/model-cache/a/b"),
        ("pvc+hf://claim/hub/org/model", "pvc+hf://claim/hub/org/model", "org/model", "org/model"),
    ],
)
def test_a_model_comes_from_hugging_face_or_a_volume(
    plans: Plans, tmp_path: Path, checkpoint: str, uri: str, name: str, path: str
) -> None:
    found = values(plans("wide"), tmp_path / "out", checkpoint=checkpoint)
    assert (found["modelArtifacts"]["uri"], found["modelArtifacts"]["name"]) == (uri, name)
    (script,) = container(found["decode"])["args"]
    assert f"\n  {path}\n" in script and f"--served-model-name\n  {name}\n" in script


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*NAMES, "/models/x", "s3://bucket/x", "pvc://claim"])
def test_what_helm_could_read_as_a_template_is_refused(plans: Plans, tmp_path: Path, text: str) -> None:
    if text.replace("-", "").isalnum() and text.isascii():
        return  # 'yes' is a name
    with pytest.raises(JobError, match="is nothing that llm-d's chart can load"):
        values(plans("colocated"), tmp_path / "out", checkpoint=text)
    assert not (tmp_path / "out").exists()
    if not text.startswith("pvc"):
        with pytest.raises(JobError, match="is no name of an image"):
            values(plans("colocated"), tmp_path / "out", image=f"{{{{{text}")


def test_what_divides_a_phase_is_for_other_backends(plans: Plans, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="Use --backend afd-plugin"):
        values(plans("experts"), tmp_path / "out")
    with pytest.raises(
        PlanError, match=r"Backend 'llm-d' deploys vLLM on NVIDIA and AMD GPUs; .*dynamo for LPX"
    ):
        values(plans("lpx"), tmp_path / "out")


# What llm-d publishes ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["colocated", "wide", "phases"])
def test_the_charts_schema_takes_the_values(
    plans: Plans, tmp_path: Path, name: str, schema: jsonschema.Draft7Validator
) -> None:
    found = values(plans(name), tmp_path / "out")
    assert [error.message for error in schema.iter_errors(found)] == []
    known = _schema()["properties"]
    assert set(found) <= set(known)
    for section in ("decode", "routing", "modelArtifacts"):
        assert set(found[section]) <= {*known[section]["properties"], "readOnly"}
    broken = json.loads(json.dumps(found))
    broken["decode"]["parallelism"]["tensr"] = 2
    assert list(schema.iter_errors(broken))


@pytest.mark.parametrize("name", ["colocated", "wide", "phases"])
def test_helm_renders_pods_as_the_plan_has_them(
    plans: Plans, tmp_path: Path, name: str, wheels: Path
) -> None:
    helm = pytest.importorskip("helm_python")
    if not (wheels / "llm-d-modelservice" / "Chart.yaml").is_file():
        pytest.skip("no chart: put charts/llm-d-modelservice of llm-d-incubation/llm-d-modelservice there")
    found = values(plans(name), tmp_path / "out")
    chart = helm.Chart.load(str(wheels / "llm-d-modelservice"))
    chart.validate_schema(found)
    rendered = "\n---\n".join(chart.render(found, name="chat", namespace="prod").values())
    made = [d for d in yaml.safe_load_all(rendered) if d and d["kind"] in ("Deployment", "LeaderWorkerSet")]
    assert len(made) == (2 if name == "phases" else 1)
    for workload in made:
        section = found["prefill" if workload["metadata"]["name"].endswith("prefill") else "decode"]
        assert workload["spec"]["replicas"] == section["replicas"]
        worker = workload["spec"].get("leaderWorkerTemplate", {})
        if name == "wide":
            assert (workload["kind"], worker["size"]) == ("LeaderWorkerSet", 2)
        pod = worker["workerTemplate"] if worker else workload["spec"]["template"]
        (engine,) = pod["spec"]["containers"]
        assert engine["resources"]["limits"] == container(section)["resources"]["limits"]
        assert "llm-d.ai/accelerator-warning" not in workload["metadata"].get("annotations", {})
        if name != "wide":
            assert engine["command"] == ["vllm", "serve"] and engine["args"][0] == "org/model"
            port = str(container(section)["ports"][0]["containerPort"])
            assert engine["args"][engine["args"].index("--port") + 1] == port
            used = {a for a in engine["args"] if a.startswith("--")}
            assert used <= accepted("vllm-0.33.0")


def test_a_number_that_the_model_service_must_know_is_the_models(plans: Plans, tmp_path: Path) -> None:
    plan = open_plan(plans("colocated"))
    large = replace(plan.model, parameters=70 * 2**30)
    folder = rewritten(plans("colocated"), tmp_path / "large", model=large)
    assert values(folder, tmp_path / "out")["modelArtifacts"]["size"] == "154Gi"
