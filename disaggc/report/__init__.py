"""What people read: tables on a terminal, sentences with numbers."""

from disaggc.report.comparison import comparison, comparison_data
from disaggc.report.console import Screen, amount
from disaggc.report.explain import explain, summary
from disaggc.report.fleet import fleet_explain, fleet_summary
from disaggc.report.floors import floors, floors_data
from disaggc.report.inspect import inspection, inspection_data
from disaggc.report.runs import run_data, run_table, verification_data, verification_table
from disaggc.report.systems import system_table, systems_table

__all__ = [
    "Screen",
    "amount",
    "comparison",
    "comparison_data",
    "explain",
    "fleet_explain",
    "fleet_summary",
    "floors",
    "floors_data",
    "inspection",
    "inspection_data",
    "run_data",
    "run_table",
    "summary",
    "system_table",
    "systems_table",
    "verification_data",
    "verification_table",
]
