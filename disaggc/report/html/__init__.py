"""`disaggc report`: one self-contained HTML file, composed of sections that are drawn from plain views."""

from disaggc.report.html.fleet_page import fleet_page
from disaggc.report.html.plan_page import plan_page, plan_sections
from disaggc.report.html.sweep_page import sweep_page
from disaggc.report.html.tables import fleet_counts, link_rates
from disaggc.report.html.writing import write_page

__all__ = [
    "fleet_counts",
    "fleet_page",
    "link_rates",
    "plan_page",
    "plan_sections",
    "sweep_page",
    "write_page",
]
