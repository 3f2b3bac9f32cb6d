"""From one plan folder to the views of a page: the only part of the page that knows plans."""

from disaggc.report.html.plan.fleet import fleet_view
from disaggc.report.html.plan.head import verdict_view
from disaggc.report.html.plan.money import device_counts, money, prices
from disaggc.report.html.plan.rooflines import rooflines
from disaggc.report.html.plan.sources import sources
from disaggc.report.html.plan.timelines import decode_busy_us, timelines
from disaggc.report.html.plan.tradeoffs import fleets_table, modes, moves_table, pareto, rejections

__all__ = [
    "decode_busy_us",
    "device_counts",
    "fleet_view",
    "fleets_table",
    "modes",
    "money",
    "moves_table",
    "pareto",
    "prices",
    "rejections",
    "rooflines",
    "sources",
    "timelines",
    "verdict_view",
]
