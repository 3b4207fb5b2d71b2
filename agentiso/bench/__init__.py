"""`agentiso bench`: what agentiso costs over a bare script that drives the same QEMU, measured in one run."""

from agentiso.bench.measure import run_bench, to_json
from agentiso.bench.result import Row, Stat, table

__all__ = ["Row", "Stat", "run_bench", "table", "to_json"]
