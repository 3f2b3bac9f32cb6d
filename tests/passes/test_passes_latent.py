"""MLA is recognised whichever cache a model keeps, and what absorbing would change is told."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from skeletons import MODELS

from disaggc import cli
from disaggc.cost import Bill, Formats
from disaggc.frontends import read_graph
from disaggc.ir import Graph, Point, Role
from disaggc.passes import load_pipeline, run
from disaggc.passes.latent import Latent, latent_attention
from disaggc.passes.vocabulary import load_vocabulary

LATENT = "deepseek_v3.batched_mm.dynamo.op23"
OPS = load_vocabulary(None).ops


@pytest.fixture(scope="module")
def expanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same attention with an expanded cache, by another exporter."""
    path = tmp_path_factory.mktemp("mla") / "mobius.deepseek_v3.onnx"
    packed = MODELS / "extra" / f"{path.name}.xz"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path


def test_a_latent_cache_is_named(analysed: Callable[[str], Graph]) -> None:
    assert latent_attention(analysed(LATENT), OPS) == [Latent(4, "latent", 4, 32, 16, 48, 32)]


def test_an_expanded_cache_is_named(expanded: Path) -> None:
    graph = run(read_graph(expanded), load_pipeline())
    assert latent_attention(graph, OPS) == [Latent(3, "expanded", 4, 32, 16, 48, 32)]


@pytest.mark.parametrize("name", ["llama.dynamo.op18", "qwen3_moe.gqa_moe", "genai.gpt_oss.fp32"])
def test_other_attention_is_no_mla(name: str, analysed: Callable[[str], Graph]) -> None:
    assert latent_attention(analysed(name), OPS) == []


def test_what_the_graph_costs_is_what_its_cache_costs(
    analysed: Callable[[str], Graph], expanded: Path
) -> None:
    """The graphs' own flops of core attention and elements of state a token, against the closed form."""
    total = 512
    for graph in (analysed(LATENT), run(read_graph(expanded), load_pipeline())):
        (latent,) = latent_attention(graph, OPS)
        cores = [c for c, m in zip(graph.costs, graph.marks, strict=True) if m.role is Role.CORE_ATTENTION]
        flops = float(Bill.of(cores, 32, 32).amounts(Point(1.0, 1, total - 1), Formats()).flops)
        elements = sum(state.heads * state.width for state in graph.states)
        if latent.keeps == "latent":
            assert elements == latent.layers * latent.latent_elements
            assert flops == pytest.approx(latent.layers * latent.decode_flops(total)["latent"], rel=0.02)
        else:
            assert elements == latent.layers * latent.expanded_elements
            own = latent.decode_flops(total)["expanded"] - latent.decode_flops(0)["expanded"]
            assert flops == pytest.approx(latent.layers * own, rel=0.02)


def test_absorbing_is_told_by_deepseek_v3_s_own_sizes() -> None:
    """128 heads, rank 512, 64 for position, 128 + 64 for keys and 128 for values (arXiv 2412.19437)."""
    mla = Latent(61, "latent", 128, 512, 64, 192, 128)
    assert mla.latent_elements * 2 == 1_152  # bytes a token and layer in BF16
    assert mla.expanded_elements * 2 == 81_920
    flops = mla.decode_flops(4096)
    assert flops["absorbed"] == pytest.approx(2 * 4096 * 128 * (512 + 64 + 512) + 2 * 512 * 128 * 256)
    assert flops["latent"] / flops["absorbed"] > 100
    assert flops["absorbed"] / flops["expanded"] == pytest.approx(3.18, rel=0.01)


def test_inspect_says_it(
    skeleton: Callable[[str], Path], capsys: pytest.CaptureFixture[str], expanded: Path
) -> None:
    assert cli.main(["inspect", str(skeleton(LATENT))]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Latent attention (MLA) in 4 layers keeps the latent cache: 48 elements a token and layer" in text
    assert "(expanded: 320)" in text
    assert "projections absorbed:" in text
    assert cli.main(["inspect", str(expanded), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["latent_attention"]
    assert (found["keeps"], found["layers"], found["rank"]) == ("expanded", 3, 32)
