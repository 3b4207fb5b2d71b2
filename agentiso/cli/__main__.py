"""``python -m agentiso.cli``."""

from agentiso.cli import main

main()
