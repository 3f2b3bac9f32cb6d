"""What people read: tables on a terminal, sentences with numbers."""

from disaggc.report.comparison import comparison, comparison_data
from disaggc.report.completion import SHELLS, Command, Option, Value, script
from disaggc.report.console import Screen, amount, wrapped
from disaggc.report.difference import difference, difference_data, difference_tables
from disaggc.report.explain import explain, summary
from disaggc.report.fleet import fleet_explain, fleet_summary
from disaggc.report.fleet_difference import (
    fleet_difference,
    fleet_difference_data,
    fleet_difference_tables,
)
from disaggc.report.fleet_growth import fleet_growth, growth_data, growth_tables
from disaggc.report.fleet_questions import Fleet, fleet_what_binds, fleet_why, fleet_why_not, tiers_named
from disaggc.report.floors import floors, floors_data
from disaggc.report.html import fleet_counts, fleet_page, link_rates, plan_page, sweep_page, write_page
from disaggc.report.inspect import inspection, inspection_data
from disaggc.report.questions import what_binds, why, why_not
from disaggc.report.runs import run_data, run_table, verification_data, verification_table
from disaggc.report.sharding import sharding_data, sharding_lines
from disaggc.report.systems import system_data, system_table, systems_data, systems_table

__all__ = [
    "SHELLS",
    "Command",
    "Fleet",
    "Option",
    "Screen",
    "Value",
    "amount",
    "comparison",
    "comparison_data",
    "difference",
    "difference_data",
    "difference_tables",
    "explain",
    "fleet_counts",
    "fleet_difference",
    "fleet_difference_data",
    "fleet_difference_tables",
    "fleet_explain",
    "fleet_growth",
    "fleet_page",
    "fleet_summary",
    "fleet_what_binds",
    "fleet_why",
    "fleet_why_not",
    "floors",
    "floors_data",
    "growth_data",
    "growth_tables",
    "inspection",
    "inspection_data",
    "link_rates",
    "plan_page",
    "run_data",
    "run_table",
    "script",
    "sharding_data",
    "sharding_lines",
    "summary",
    "sweep_page",
    "system_data",
    "system_table",
    "systems_data",
    "systems_table",
    "tiers_named",
    "verification_data",
    "verification_table",
    "what_binds",
    "why",
    "why_not",
    "wrapped",
    "write_page",
]
