import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from skeletons import SKELETONS, SMALL

from disaggc.errors import DeclarationError, GraphError
from disaggc.frontends import read_graph
from disaggc.ir import Graph
from disaggc.passes import load_pipeline, run

Analysed = Callable[[str], Graph]
ORDER = [
    "pair-state",
    "bind-workload",
    "find-layers",
    "assign-roles",
    "find-windows",
    "annotate-cost",
    "segment",
]


@dataclass(frozen=True)
class Harmless:
    name: ClassVar[str] = "harmless"

    def apply(self, graph: Graph) -> Graph:
        return graph


@dataclass(frozen=True)
class Reversing:
    name: ClassVar[str] = "reversing"

    def apply(self, graph: Graph) -> Graph:
        return dataclasses.replace(graph, nodes=graph.nodes[::-1])


def _library(folder: Path, text: str) -> Path:
    (folder / "passes" / "pipelines").mkdir(parents=True)
    (folder / "passes" / "pipelines" / "default.toml").write_text(text)
    return folder


def test_the_default_pipeline_is_the_declared_one() -> None:
    assert [step.name for step in load_pipeline()] == ORDER


def test_a_pass_that_breaks_the_graph_is_named_with_those_before_it(analysed: Analysed) -> None:
    graph = analysed("mobius.llama")
    with pytest.raises(
        GraphError, match=r"^Pass 'reversing' \(after harmless, harmless\) broke the graph: Node '"
    ):
        run(graph, [Harmless(), Harmless(), Reversing(), Harmless()])
    with pytest.raises(GraphError, match=r"^Pass 'reversing' broke the graph: Node '"):
        run(graph, [Reversing()])


def test_the_caller_sees_the_graph_after_each_pass(skeleton: Callable[[str], Path]) -> None:
    seen: list[tuple[str, Graph]] = []
    graph = run(
        read_graph(skeleton("mobius.llama")), load_pipeline(), lambda name, after: seen.append((name, after))
    )
    assert [name for name, _ in seen] == ORDER
    assert seen[-1][1] is graph
    assert not seen[0][1].marks


def test_a_users_pipeline_replaces_the_shipped_one(tmp_path: Path) -> None:
    steps = load_pipeline(library=_library(tmp_path, 'passes = ["pair-state"]'))
    assert [step.name for step in steps] == ["pair-state"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('passes = ["pair-states"]', "names no pass: 'pair-states'. Did you mean 'pair-state'?"),
        ("passes = 3", "passes"),
        ('pases = ["segment"]', "Unknown key 'pases'. Did you mean 'passes'?"),
        ("passes = [", "is not TOML"),
    ],
)
def test_a_wrong_pipeline_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DeclarationError) as refusal:
        load_pipeline(library=_library(tmp_path, text))
    assert words in str(refusal.value)


def test_an_unknown_pipeline_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        DeclarationError, match=r"No pipeline named 'defualt' in passes/pipelines/\. Did you mean 'def"
    ):
        load_pipeline("defualt")


@pytest.mark.parametrize("name", SKELETONS)
def test_segments_hold_every_node_once_in_an_order_without_cycles(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    place = {i: s.index for s in graph.segments for i in s.nodes}
    assert sorted(place) == list(range(len(graph.nodes)))
    writer = graph.producers()
    for i, node in enumerate(graph.nodes):
        assert all(place[writer[n]] <= place[i] for n in node.reads if n in writer)


@pytest.mark.parametrize("name", SKELETONS)
def test_layers_of_one_class_have_the_same_segments(name: str, analysed: Analysed) -> None:
    graph = analysed(name)
    shapes: dict[int, set[tuple[object, ...]]] = {}
    for layer in graph.layers:
        mine = [s for s in graph.segments if s.layer == layer.index]
        shape = tuple((s.role, s.slot, len(s.nodes), len(s.states), s.launches) for s in mine)
        shapes.setdefault(layer.layer_class, set()).add(shape)
    assert all(len(found) == 1 for found in shapes.values())


@pytest.mark.parametrize("name", SMALL)
def test_two_runs_give_equal_graphs(name: str, analysed: Analysed, skeleton: Callable[[str], Path]) -> None:
    again = run(read_graph(skeleton(name)), load_pipeline())
    assert again.segments == analysed(name).segments
    assert again.costs == analysed(name).costs
