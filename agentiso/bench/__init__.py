"""`agentiso bench`: what agentiso costs over a bare script that drives the same QEMU, measured in one run."""

from agentiso.bench.result import Row, Stat, table
from agentiso.bench.run import PLANS, run_bench, to_json

__all__ = ["PLANS", "Row", "Stat", "run_bench", "table", "to_json"]
