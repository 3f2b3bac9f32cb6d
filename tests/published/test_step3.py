"""Step-3's cost table and the machines that it chooses, from its own numbers and from a graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disaggc.cost.ideal import Hourly, TokenWork, cheapest
from disaggc.ir import Graph
from disaggc.passes.latent import Latent
from disaggc.passes.token_work import token_work
from disaggc.targets import load_library

TABLES: dict[str, Any] = json.loads((Path(__file__).parent / "step3_tables.json").read_text())
MACHINES = {
    name: Hourly(a["usd_per_h"], a["fp8_flops"] or a["bf16_flops"], a["bytes_per_s"])
    for name, a in TABLES["accelerators"].items()
}
CELLS = [(model, cell) for model, row in TABLES["table6_usd_per_1M"].items() for cell in row]
CENTS = 0.0015
"""US dollars per million tokens that a cell may be off: half a digit of the table, and of its inputs."""
CONTEXT = {"8k": 8192, "32k": 32768}


def _work(model: str, context: str) -> TokenWork:
    row = TABLES["models"][model]
    return TokenWork(row[f"attn{context}"], row[f"kv{context}"], row["linear"], row["ffn"])


def _cell(work: TokenWork, part: str, machine: str) -> float:
    return (work.ffn_usd if part == "ffn" else work.attention_usd)(MACHINES[machine])


def test_the_table_has_108_cells() -> None:
    assert len(CELLS) == 108


@pytest.mark.parametrize(("model", "cell"), CELLS)
def test_every_cell_of_table_6_comes_out(model: str, cell: str) -> None:
    part, machine = cell.rsplit("_", 1)
    work = _work(model, part.removeprefix("attn") if part != "ffn" else "8k")
    assert _cell(work, part, machine) == pytest.approx(TABLES["table6_usd_per_1M"][model][cell], abs=CENTS)


@pytest.mark.parametrize("context", CONTEXT)
def test_a_graph_of_qwen3_235b_gives_its_row(context: str, analysed: Callable[[str], Graph]) -> None:
    """The same cells from an ONNX file: nothing of the table goes in but the machines."""
    work = token_work(analysed("full.qwen3_235b.moe_op"), CONTEXT[context], "fp8")
    for machine in MACHINES:
        row = TABLES["table6_usd_per_1M"]["Q3MoE"]
        found = work.attention_usd(MACHINES[machine]), work.ffn_usd(MACHINES[machine])
        assert found == pytest.approx((row[f"attn{context}_{machine}"], row[f"ffn_{machine}"]), abs=CENTS)


@pytest.mark.parametrize(
    ("model", "attention", "feed_forward"),
    [("DSv3", "H800", "H800"), ("Q3MoE", "H20", "H800"), ("Step3", "H20", "H800")],
)
@pytest.mark.parametrize("context", CONTEXT)
def test_deepseek_v3_stays_on_h800_and_the_others_split(
    model: str, attention: str, feed_forward: str, context: str
) -> None:
    pair = {name: MACHINES[name] for name in ("H800", "H20")}
    assert cheapest(_work(model, context), pair) == (attention, feed_forward)


def test_latent_attention_is_priced_as_it_is_served(analysed: Callable[[str], Graph]) -> None:
    """DeepSeek-V3's sizes through our closed form of absorbed attention give Step-3's count."""
    mla = Latent(61, "expanded", 128, 512, 64, 192, 128)
    absorbed = mla.layers * mla.decode_flops(8192)["absorbed"]
    assert absorbed == pytest.approx(TABLES["models"]["DSv3"]["attn8k"], rel=0.05)
    assert mla.layers * mla.latent_elements * 8192 == pytest.approx(
        TABLES["models"]["DSv3"]["kv8k"], rel=0.01
    )
    tiny = token_work(analysed("deepseek_v3.batched_mm.dynamo.op23"), 8192, "fp8")
    assert tiny.cache_bytes == 4 * 48 * 8192


def test_the_declared_machines_choose_alike(analysed: Callable[[str], Graph]) -> None:
    library = load_library()
    machines = {name: Hourly.of(library.system(name)) for name in ("h800-x8", "h20-x8")}
    work = token_work(analysed("full.qwen3_235b.moe_op"), 8192, "fp8")
    assert cheapest(work, machines) == ("h20-x8", "h800-x8")
