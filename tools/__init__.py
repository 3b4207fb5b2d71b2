"""What only developers of agentiso run."""
