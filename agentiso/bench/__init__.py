"""`agentiso bench`: what agentiso costs over a bare script that drives the same QEMU, measured in one run."""

from agentiso.bench.result import Row, Stat
from agentiso.bench.run import PLANS, run_bench, to_json
from agentiso.bench.table import table

__all__ = ["PLANS", "Row", "Stat", "run_bench", "table", "to_json"]
