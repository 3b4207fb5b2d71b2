"""``python -m agentiso.cli``."""

from agentiso.cli.main import main

main()
