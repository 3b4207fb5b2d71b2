"""The `agentiso` command."""

from agentiso.cli.main import main

__all__ = ["main"]
