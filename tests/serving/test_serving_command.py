"""``disaggc serve`` as a command: started, asked by OpenAI's client, hurt, loaded, ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from jobs import EXAMPLES, REPOSITORY, two_tiers

from disaggc.cli import main
from disaggc.compiler import compile_fleet
from disaggc.plans import open_fleet
from disaggc.runtime import Execution
from disaggc.serving import Choices

from .conftest import Expected
from .house import PATIENCE_S, running


@dataclass(frozen=True, slots=True)
class Command:
    """A server that was started as a user would."""

    process: subprocess.Popen[str]
    url: str
    said: str

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=PATIENCE_S)


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[Command]:
    process = subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-m", "disaggc.cli", "serve", *arguments, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "DISAGGC_API_KEY": ""},
    )
    assert process.stdout is not None
    said, url = "", None
    while url is None:
        line = process.stdout.readline()
        assert line, f"it ended: {said}"
        said += line
        url = re.search(r"http://\S+", line)
    try:
        yield Command(process, url[0], said)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def children_of(pid: int) -> list[int]:
    """Processes that another one started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="executors are found in /proc")
def test_an_executor_that_is_killed_costs_a_pause_and_no_token(plan_folder: Path, expected: Expected) -> None:
    (whole,) = expected([5, 6, 7], new_tokens=400)
    with command(str(plan_folder), "--on", "processes", "--micro-batch", "2") as server:
        name = server.client.models.list().data[0].id
        stream = server.client.completions.create(
            model=name, prompt=[5, 6, 7], max_tokens=400, stream=True, extra_body={"ignore_eos": True}
        )
        found = list(next(iter(stream)).choices[0].token_ids)  # type: ignore[attr-defined]
        executors = children_of(server.process.pid)
        assert len(executors) == 2
        os.kill(executors[0], signal.SIGKILL)
        for chunk in stream:
            found += chunk.choices[0].token_ids  # type: ignore[attr-defined]
        assert found == whole
        executors = children_of(server.process.pid)
        assert len(executors) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in executors)


def load(url: str, answers: Path, *arguments: str) -> tuple[str, list[dict[str, Any]]]:
    """What the load generator prints, and every answer."""
    generator = str(REPOSITORY / "benchmarks" / "serve_load.py")
    ran = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, generator, url, "--json", str(answers), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout, json.loads(answers.read_text())["answers"]


def test_under_load_every_answer_is_that_of_run_and_metrics_add_up(
    plan_folder: Path, tmp_path: Path, expected: Expected
) -> None:
    tiers = ["--tier", "premium=4", "--tier", "free"]
    with command(str(plan_folder), *tiers, "--micro-batch", "4") as server:
        table, answers = load(
            server.url,
            tmp_path / "a.json",
            "--requests",
            "40",
            "--rate",
            "40",
            *tiers[:2],
            "--tier",
            "free=2",
        )
        metrics = _metrics(server.url)
    assert re.search(
        r"^premium +\d+ .*^free +\d+|^free +\d+ .*^premium +\d+", table, re.MULTILINE | re.DOTALL
    )
    planned = [answer["planned"] for answer in answers]
    whole = expected(*(p["prompt"] for p in planned), new_tokens=64)
    for answer, request, tokens in zip(answers, planned, whole, strict=True):
        assert answer["tokens"] == tokens[: request["new_tokens"]]
        assert answer["said_tokens"] == request["new_tokens"]
    for tier in ("premium", "free"):
        own = [p for p in planned if p["tier"] == tier]
        new = sum(p["new_tokens"] for p in own)
        labels = f'{{model_name="qwen3_moe.gqa_moe",tier="{tier}"}}'
        assert metrics[f"disaggc:generation_tokens_total{labels}"] == new
        assert metrics[f"disaggc:prompt_tokens_total{labels}"] == sum(len(p["prompt"]) for p in own)
        assert metrics[f"disaggc:time_to_first_token_seconds_count{labels}"] == len(own)
        assert metrics[f"disaggc:inter_token_latency_seconds_count{labels}"] == new - len(own)
        assert metrics[f"disaggc:e2e_request_latency_seconds_count{labels}"] == len(own)


def test_a_burst_beyond_the_queue_is_turned_away_and_the_rest_is_served(
    plan_folder: Path, tmp_path: Path
) -> None:
    choices = Choices(execution=Execution(micro_batch=1), queue_size=2)
    with running(plan_folder, choices) as house:
        burst = ["--requests", "20", "--rate", "1e6", "--output-tokens", "64", "64"]
        _, answers = load(f"{house.url}/v1", tmp_path / "a.json", *burst)
        metrics = _metrics(f"{house.url}/v1")
    statuses = [answer["status"] for answer in answers]
    turned_away = statuses.count(429)
    assert turned_away > 0
    assert statuses.count(200) == 20 - turned_away >= 2
    assert all(len(a["tokens"]) == 64 for a in answers if a["status"] == 200)
    outcomes = {key: value for key, value in metrics.items() if key.startswith("disaggc:requests_total{")}
    assert sum(outcomes.values()) == 20
    assert sum(value for key, value in outcomes.items() if '"rejected"' in key) == turned_away


def _metrics(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=PATIENCE_S) as answer:  # noqa: S310
        lines = answer.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


# fleets -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "out"
    compile_fleet(two_tiers(), EXAMPLES, folder)
    return folder


def test_each_tier_of_a_fleet_is_served_by_its_own_deployments(fleet: Path) -> None:
    replicas = {Path(r.plan).name: r.tier for r in open_fleet(fleet).replicas if r.plan}
    with running(fleet, Choices(name="tiny")) as house:
        assert {service.name for service in house.api.lineup.services} == replicas.keys()
        for tier in set(replicas.values()):
            answer = house.client().completions.create(model=f"tiny:{tier}", prompt=[5, 6], max_tokens=3)
            assert answer.service_tier == tier  # type: ignore[attr-defined]
            assert house.metric("requests_total", tier=tier) == 1
            own = [name for name, other in replicas.items() if other == tier]
            assert all(house.metric("kv_cache_tokens_capacity", deployment=name) > 0 for name in own)
        only = min(replicas)
    with running(fleet, Choices(name="tiny", deployments=(only,))) as house:
        assert list(house.api.lineup.tiers) == [replicas[only]]


# options ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--queue-size", "0"], "--queue-size 0 lets nobody in"),
        (["--max-model-len", "1"], "--max-model-len 1 has no room for an answer"),
        (["--max-tokens", "0"], "--max-tokens 0 leaves no answer"),
        (["--request-timeout", "0"], "--request-timeout 0 leaves no time"),
        (["--quantum", "0"], "--quantum 0 leaves no time"),
        (["--drain", "-1"], "--drain -1: give seconds from 0"),
        (["--tier", "a=0"], "--tier a=0: write a name and a weight above 0, such as premium=4"),
        (["--tier", "a=b"], "--tier a=b: write a name and a weight"),
        (["--deployment", "x"], "is a single plan. Leave --deployment out"),
        (["--instances", "vr-nvl7=2"], "No plan here has a pool 'vr-nvl7'. Did you mean 'vr-nvl72'?"),
        (["--port", "99999"], "--port 99999 is no port. Give 0 to 65535"),
        (["--chat-template", "/nowhere"], "Cannot read '/nowhere'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    plan_folder: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    assert main(["serve", str(plan_folder), *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_fleet_names_its_deployments_and_has_tiers_of_its_own(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(fleet), "--deployment", "nobody"]) == 1
    assert "The fleet has no deployment 'nobody'" in capsys.readouterr().err
    assert main(["serve", str(fleet), "--tier", "a"]) == 1
    assert "--tier is for a single plan" in capsys.readouterr().err


def test_a_fleet_whose_plans_lie_elsewhere_or_that_has_none_is_refused(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fleet"
    shutil.copytree(fleet, folder)
    data = json.loads((folder / "plan.json").read_text())
    for replica in data["replicas"]:
        replica["plan"] = replica.get("plan") and f"../{replica['plan']}"
    (folder / "plan.json").write_text(json.dumps(data))
    assert main(["serve", str(folder)]) == 1
    assert "outside its own folder. Compile it again" in " ".join(capsys.readouterr().err.split())
    (folder / "plan.json").write_text(json.dumps({**data, "replicas": []}))
    assert main(["serve", str(folder)]) == 1
    assert "has no deployment, so there is nothing to serve" in " ".join(capsys.readouterr().err.split())


def test_without_its_packages_the_error_says_how_to_get_them(
    plan_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("disaggc.serving", "starlette"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    monkeypatch.delattr("disaggc.serving", raising=False)
    assert main(["serve", str(plan_folder)]) == 1
    assert "pip install 'disaggc[serve]'" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(plan_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(plan_folder), "--port", str(port)]) == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
