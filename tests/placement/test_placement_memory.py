"""Memory rows against weights counted in the ONNX file and caches counted from the model's configuration."""

import math
from collections.abc import Callable
from dataclasses import replace

import onnx
import pytest
from jobs import TINY
from made import ANY, FP8, LIBRARY, decoder

from disaggc.cost import Group
from disaggc.ir import Graph, Role
from disaggc.placement import Pieces, fold
from disaggc.placement.check import evaluate
from disaggc.placement.pieces import Tie
from disaggc.placement.pricing import RESERVE, Limits, Load, Pricing
from disaggc.placement.search import Configuration

LAYERS, KV_HEADS, HEAD_SIZE, HIDDEN, VOCABULARY = 4, 2, 32, 128, 512
CONTEXT = 10_000
KILO = 1024


@pytest.fixture(scope="module")
def elements() -> dict[str, int]:
    """Elements of every float weight in the file, apart by whether they are experts'."""
    found = {"experts": 0, "plain": 0}
    for tensor in onnx.load(TINY).graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims):
            found["experts" if len(tensor.dims) == 3 else "plain"] += math.prod(tensor.dims)
    return found


def _memory(graph: Graph, group: Group, batch: int, m: int) -> int:
    """Kilobytes of one device where everything is on one group."""
    pieces = fold(graph)
    pricing = Pricing(pieces, (group,), Load(100, 900, 500, CONTEXT), FP8)
    problem = Configuration(pricing, batch, m, 0.0).problem(Limits(None, None), ANY)
    return evaluate(problem, (0,) * 2 * len(pieces.pieces)).rows["memory.0"]


def _expected(elements: dict[str, int], group: Group, batch: int, m: int) -> float:
    """Bytes in FP8; activations as their docstring says: 4 of the widest and the logits, in BF16."""
    requests = math.ceil(batch / group.dp) * m
    weights = elements["plain"] / group.tp + elements["experts"] / (group.tp * group.dp)
    split = min(group.tp, KV_HEADS)
    cache = LAYERS * 2 * KV_HEADS * HEAD_SIZE * CONTEXT * requests / split
    prompt = LAYERS * 2 * KV_HEADS * HEAD_SIZE * 1_000 / split
    activations = 2 * (4 * HIDDEN * max(requests, 100) + VOCABULARY * requests) / group.tp
    return weights + cache + prompt + activations


@pytest.mark.parametrize("parallel", [(1, 1), (2, 1), (1, 8), (4, 3)])
@pytest.mark.parametrize(("batch", "m"), [(1, 1), (20, 1), (20, 3)])
def test_a_memory_row_is_the_weights_and_caches_that_the_model_needs(
    analysed: Callable[[str], Graph],
    elements: dict[str, int],
    parallel: tuple[int, int],
    batch: int,
    m: int,
) -> None:
    group = Group(LIBRARY.system("vr-nvl72"), 1, *parallel, 1)
    found = _memory(analysed("qwen3_moe.gqa_moe"), group, batch, m) * KILO
    assert found == pytest.approx(_expected(elements, group, batch, m), abs=20 * KILO)


def test_a_pipeline_holds_a_share_of_the_layers_on_each_stage(analysed: Callable[[str], Graph]) -> None:
    system = LIBRARY.system("groq3-lpx")
    graph = analysed("qwen3_moe.gqa_moe")
    whole, piped = (_memory(graph, Group(system, 1, 1, 1, pp), 50, 1) for pp in (1, 4))
    assert 0.2 < piped / whole < 0.5


def test_a_tenth_of_each_memory_is_kept_free(analysed: Callable[[str], Graph]) -> None:
    group = Group(LIBRARY.system("vr-nvl72"), 1, 1, 72, 1)
    pricing = Pricing(fold(analysed("qwen3_moe.gqa_moe")), (group,), Load(100, 0, 500, CONTEXT), FP8)
    assert RESERVE == 0.1
    assert pricing.usable_bytes(0) == pytest.approx(0.9 * 288e9)


def test_weights_that_both_phases_use_at_one_place_are_held_once(analysed: Callable[[str], Graph]) -> None:
    pieces = fold(analysed("qwen3_moe.gqa_moe"))
    system = LIBRARY.system("vr-nvl72")
    groups = (Group(system, 1, 1, 72, 1), Group(system, 1, 1, 72, 1))
    pricing = Pricing(pieces, groups, Load(100, 0, 500, CONTEXT), FP8)
    problem = Configuration(pricing, 1, 1, 0.0).problem(Limits(None, None), ANY)
    n, experts = len(pieces.pieces), next(i for i, p in enumerate(pieces.pieces) if p.role is Role.EXPERTS)
    both = [1 if i % n == experts else 0 for i in range(2 * n)]
    one = [1 if i == n + experts else 0 for i in range(2 * n)]
    rows = [evaluate(problem, tuple(a)).rows["memory.1"] for a in (both, one)]
    assert rows[0] == rows[1] > 0


def test_a_tied_weight_is_placed_once_on_each_system_that_reads_it() -> None:
    """An embedding that is the head, too: one copy together, one on each side apart."""
    alone = decoder()
    tied = replace(alone, ties=(Tie((0, 3), {16: 30_000_000}),))
    groups = tuple(Group(LIBRARY.system(name), 1, 1, 8, 1) for name in ("h100-x8", "h20-x8"))
    together, apart = (0,) * 8, (0, 0, 0, 1) * 2
    once = math.ceil(30_000_000 / KILO)
    saved = [_rows(alone, groups, a) - _rows(tied, groups, a) for a in (together, apart)]
    assert saved[0] == pytest.approx(once, abs=3)
    assert saved[1] == pytest.approx(0, abs=3)


def _rows(pieces: Pieces, groups: tuple[Group, ...], assignment: tuple[int, ...]) -> int:
    pricing = Pricing(pieces, groups, Load(100, 900, 500, CONTEXT), FP8)
    rows = evaluate(Configuration(pricing, 8, 1, 0.0).problem(Limits(None, None), ANY), assignment).rows
    return sum(rows[f"memory.{place}"] for place in range(len(groups)))
