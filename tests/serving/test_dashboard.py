"""The dashboard asks for metrics and labels that a server has."""

from __future__ import annotations

import json
import re

from jobs import EXAMPLES
from prometheus_client.parser import text_string_to_metric_families

from .house import Running

DASHBOARD = EXAMPLES / "serving" / "grafana.json"


def test_every_metric_and_label_of_the_dashboard_is_exposed(house: Running) -> None:
    house.client().completions.create(model="tiny", prompt=[5, 6], max_tokens=3)
    families = text_string_to_metric_families(house.get("/metrics")[1])
    exposed: dict[str, set[str]] = {}
    for sample in (sample for family in families for sample in family.samples):
        exposed.setdefault(sample.name, set()).update(sample.labels)
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) > 15
    for expression in expressions:
        ((name, selector),) = re.findall(r"(disaggc:\w+)\{(.*?)\}", expression)
        assert name in exposed, name
        labels = re.findall(r"(\w+)=", selector)
        labels += [label for by in re.findall(r"by \((.*?)\)", expression) for label in by.split(", ")]
        assert labels
        assert set(labels) <= exposed[name], (name, labels)


def test_panels_lie_beside_each_other() -> None:
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]]
    cells = [(p["x"] + i, p["y"] + j) for p in places for i in range(p["w"]) for j in range(p["h"])]
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)
