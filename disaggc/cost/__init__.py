"""What ops cost: declared formulas over an op's own names, sums of them, and time on a device."""

from disaggc.cost.bill import (
    AS_STORED,
    FORMAT_BITS,
    RATES,
    Amounts,
    Array,
    Bill,
    Formats,
    format_bits,
    hit_share,
)
from disaggc.cost.formula import Formula, parse_formula
from disaggc.cost.price import Op, Operand, Price, price
from disaggc.cost.roofline import (
    Group,
    Times,
    Work,
    cache_split,
    compute_format,
    in_cache,
    per_device,
    requests_per_replica,
    work_time,
)
from disaggc.cost.rules import CostRule, CostRules, load_rules

__all__ = [
    "AS_STORED",
    "FORMAT_BITS",
    "RATES",
    "Amounts",
    "Array",
    "Bill",
    "CostRule",
    "CostRules",
    "Formats",
    "Formula",
    "Group",
    "Op",
    "Operand",
    "Price",
    "Times",
    "Work",
    "cache_split",
    "compute_format",
    "format_bits",
    "hit_share",
    "in_cache",
    "load_rules",
    "parse_formula",
    "per_device",
    "price",
    "requests_per_replica",
    "work_time",
]
